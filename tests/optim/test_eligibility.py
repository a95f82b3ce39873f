"""C++ and Python agree on the tensors that a kernel may use: csrc/python/eligibility.h, ``NativeUpdate._supports``."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from clrfast import _torch_compat
from tests.helpers.optimizers import NATIVE, every_rule

pytestmark = [
    pytest.mark.parametrize("backend", NATIVE),
    pytest.mark.skipif(_torch_compat.EXCHANGE_API is None, reason="without the exchange API only Python decides"),
]

SHAPE = (3, 4)


class Plain(Tensor):
    """A subclass that leaves operations to torch."""


class Handling(Tensor):
    """A subclass that handles operations itself."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def filled(dtype=torch.float32):
    return torch.arange(12, dtype=dtype).reshape(SHAPE)


KINDS = {
    "contiguous": filled,
    "transposed": lambda: filled().t().contiguous().t(),
    "with gaps": lambda: torch.stack([filled(), filled()], dim=-1)[..., 0],
    "expanded": lambda: torch.ones(1, 4).expand(SHAPE),
    "negated": lambda: torch._neg_view(filled()),
    "float16": lambda: filled(torch.float16),
    "float64": lambda: filled(torch.float64),
    "a plain subclass": lambda: filled().as_subclass(Plain),
    "a subclass that handles operations": lambda: torch.Tensor._make_subclass(Handling, filled()),
}


def prepared(rule, backend, param, grad, last_state, **options):
    """The update of an optimizer over one parameter, and the optimizer; Python has collected once."""
    optimizer = rule.make([param], backend=backend, **options)
    optimizer.ensure_state(0, param)
    optimizer.state[param][rule.states[-1]] = last_state
    with torch.no_grad():
        param.grad = grad
    optimizer._ensure_updates()
    (update,) = optimizer._updates
    update.prepare(optimizer)
    return update, optimizer


@pytest.mark.hardware
@pytest.mark.parametrize("kind", KINDS)
@every_rule
def test_cpp_takes_the_tensors_that_python_takes_and_finds_the_same_memory(rule, backend, kind):
    for grad_kind, state_kind, master_weights in itertools.product(KINDS, KINDS, (False, True)):
        param = KINDS[kind]()
        param = param.requires_grad_() if isinstance(param, Plain | Handling) else nn.Parameter(param)
        grad, state = KINDS[grad_kind]().to(param.device), KINDS[state_kind]().to(param.device)
        try:
            update, optimizer = prepared(rule, backend, param, grad, state, master_weights=master_weights)
        except RuntimeError:  # torch itself refuses such a gradient
            continue
        rows = update._cache.rows.copy()
        counters = optimizer.counters.by_tensor
        needs = [len(rule.states)], [optimizer.counts_updates(0)]
        found = update._collector.collect(optimizer.param_groups, optimizer.state, counters, *needs, update._cache)
        taken = not update._left_to_reference
        assert (found is not None) == taken, f"parameter {kind}, gradient {grad_kind}, state {state_kind}"
        if taken:
            assert (update._cache.rows == rows).all()
