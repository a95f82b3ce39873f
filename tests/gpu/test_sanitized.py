"""Updates that compute-sanitizer watches, see benchmarks/gpu.sh."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.optimizers import (
    DTYPES,
    SHAPES,
    assert_same,
    give_grads,
    make_params,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sanitized_updates_are_those_of_the_reference(dtype):
    results = []
    for backend in ("cuda", "torch"):
        params = make_params(SHAPES, dtype)
        offset = [nn.Parameter(value[1:]) for value in make_params([(4098,), (18,)], dtype, seed=1)]
        optimizer = clrfast.SGD([*params, *(p.detach().requires_grad_() for p in offset)], backend=backend)
        optimizer.set_schedule(clrfast.one_cycle(0.1, 5, weight_decay=0.01))
        all_params = optimizer.param_groups[0]["params"]
        for step, found_inf in enumerate((1.0, 0.0, 0.0)):
            give_grads(all_params, step)
            optimizer.found_inf = torch.tensor(found_inf)
            optimizer.step(loss=torch.tensor(1.0))
        results.append(all_params)
    assert_same(*results)


@pytest.mark.parametrize(
    ("momentum", "dampening", "mastered"), list(itertools.product((0.0, 0.9), (0.0, 0.5), (False, True)))
)
def test_sanitized_updates_with_every_kind_of_state_are_those_of_the_reference(momentum, dampening, mastered):
    results = []
    for backend in ("cuda", "torch"):
        params = make_params(SHAPES, torch.bfloat16)
        options = {"momentum": momentum, "dampening": dampening, "master_weights": mastered}
        optimizer = clrfast.SGD(params, lr=0.1, weight_decay=0.01, backend=backend, **options)
        for step in range(3):
            give_grads(params, step)
            optimizer.step()
        results.append(params)
    assert_same(*results)
