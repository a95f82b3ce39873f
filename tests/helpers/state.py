"""The complete state of a model and its optimizer, to compare before and after a call."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

NO_COUNTERS = SimpleNamespace(by_tensor={})


def full_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return all that a call could change, with the random state, as values that compare with ``==``."""
    state = [
        {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in s.items()} for s in optimizer.state.values()
    ]
    groups = [{k: str(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return {
        "params": [p.tolist() for p in model.parameters()],
        "memory": [p.data_ptr() for p in model.parameters()],
        "grads": [None if p.grad is None else (p.grad.data_ptr(), p.grad.tolist()) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "buffers": {name: (b.data_ptr(), b.tolist()) for name, b in model.named_buffers()},
        "training": [m.training for m in model.modules()],
        "state": state,
        "state tensors": [
            [v.data_ptr() for v in s.values() if isinstance(v, torch.Tensor)] for s in optimizer.state.values()
        ],
        "groups": groups,
        "attributes": sorted(vars(optimizer)),
        "counters": [
            (key.data_ptr(), None if counter is None else counter.tolist())
            for key, counter in getattr(optimizer, "counters", NO_COUNTERS).by_tensor.items()
        ],
        "norms": [str(getattr(optimizer, name, None)) for name in ("clip_norm", "grad_norm")],
        "control": None if getattr(optimizer, "control", None) is None else int(optimizer.control.step),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),  # noqa: NPY002
    }
