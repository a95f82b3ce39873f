"""The kernels update float32 master weights of 16-bit parameters."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.kernels import OPTIMIZERS, SIZES, every_optimizer, kept_by
from tests.helpers.optimizers import DTYPES, KERNELS, assert_same, give_grads, make_params

pytestmark = pytest.mark.parametrize("backend", KERNELS)

MADE = {
    **OPTIMIZERS,
    "SGD without state": clrfast.SGD,
    "SGD, nesterov": partial(clrfast.SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam, decay": partial(clrfast.Adam, weight_decay=0.1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("offset", [0, 1])
def test_master_weights_equal_the_reference(backend, dtype, made, offset):
    def run(chosen):
        params = [
            nn.Parameter(p.detach().repeat(2)[offset : offset + p.numel()])
            for p in make_params([(s,) for s in SIZES], dtype)
        ]
        optimizer = MADE[made](params, lr=0.01, master_weights=True, backend=chosen)
        for step in range(4):
            give_grads(params, step)
            if step == 2:
                with torch.no_grad():
                    for param in params:
                        param[::2] = 1.5  # an external write overrides the master weights, element by element
            optimizer.step()
        kept_in = torch.float64 if dtype == torch.float64 else torch.float32
        for state in optimizer.state.values():
            assert all(tensor.dtype == kept_in for name, tensor in state.items() if name != "step")
        return optimizer, [*params, *kept_by(optimizer)]

    (optimizer, ours), (_, theirs) = run(backend), run("torch")
    assert_same(ours, theirs)
    assert not optimizer._updates[0]._left_to_reference
    assert ("master_param" in optimizer.state_dict()["state"].get(1, {})) == (dtype in (torch.float16, torch.bfloat16))


@pytest.mark.parametrize("make", [clrfast.SGD, clrfast.Adam])
def test_small_updates_add_up_in_master_weights(backend, make):
    for mastered in (False, True):
        param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = make([param], lr=1e-4, master_weights=mastered, backend=backend)
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        expected = torch.tensor(0.99).bfloat16() if mastered else 1.0
        assert (param == expected).all()


@every_optimizer
def test_master_weights_survive_a_checkpoint(backend, rule):
    def make(params):
        return OPTIMIZERS[rule](params, lr=1e-3, master_weights=True, backend=backend)

    params = make_params([(50,)], torch.bfloat16)
    optimizer = make(params)
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy(optimizer.state_dict())
            params = [nn.Parameter(param.detach().clone()) for param in params]
            resumed = make(params)
            resumed.load_state_dict(saved)
            before, optimizer = optimizer, resumed
        give_grads(params, step)
        optimizer.step()
    uninterrupted = before.param_groups[0]["params"]
    for step in range(3, 6):
        give_grads(uninterrupted, step)
        before.step()
    assert_same(params, uninterrupted)
    assert_same(optimizer.state_dict()["state"][0].values(), before.state_dict()["state"][0].values())
