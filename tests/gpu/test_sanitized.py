"""Updates that compute-sanitizer watches, see benchmarks/gpu.sh."""

from __future__ import annotations

import itertools
from functools import partial

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
@pytest.mark.parametrize("make", [clrfast.SGD, clrfast.AdamW, partial(clrfast.Adam, amsgrad=True)])
def test_sanitized_updates_are_those_of_the_reference(dtype, make):
    results = []
    for backend in ("cuda", "torch"):
        params = make_params(SHAPES, dtype)
        offset = [nn.Parameter(value[1:]) for value in make_params([(4098,), (18,)], dtype, seed=1)]
        trained = [*params, *(p.detach().requires_grad_() for p in offset)]
        optimizer = make(trained, clip_norm=None if dtype == torch.float64 else 1.0, backend=backend)
        optimizer.set_schedule(clrfast.one_cycle(0.1, 5, weight_decay=0.01))
        all_params = optimizer.param_groups[0]["params"]
        for step, found_inf in enumerate((1.0, 0.0, 0.0)):
            give_grads(all_params, step)
            optimizer.found_inf = torch.tensor(found_inf)
            optimizer.step(loss=torch.tensor(1.0))
        results.append(all_params)
    assert_same(*results)


KINDS_OF_STATE = [
    *(partial(clrfast.SGD, momentum=m, dampening=d) for m, d in itertools.product((0.0, 0.9), (0.0, 0.5))),
    *(partial(clrfast.AdamW, amsgrad=amsgrad) for amsgrad in (False, True)),
]


@pytest.mark.parametrize("make", KINDS_OF_STATE)
@pytest.mark.parametrize("mastered", [False, True])
def test_sanitized_updates_with_every_kind_of_state_are_those_of_the_reference(make, mastered):
    results = []
    for backend in ("cuda", "torch"):
        params = make_params(SHAPES, torch.bfloat16)
        optimizer = make(params, lr=0.1, weight_decay=0.01, master_weights=mastered, backend=backend)
        for step in range(3):
            give_grads(params, step)
            optimizer.step()
        results.append(params)
    assert_same(*results)
