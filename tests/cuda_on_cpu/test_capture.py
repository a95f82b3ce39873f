"""What a CUDA graph capture requires of a step, and what the graph keeps alive."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import clrfast
from clrfast import _native
from clrfast.schedules import Linear
from tests.helpers.kernels import OPTIMIZERS, every_optimizer, prepared
from tests.helpers.optimizers import KERNELS, assert_same, give_grads, make_params

pytestmark = pytest.mark.parametrize("backend", KERNELS)


@every_optimizer
def test_a_capture_without_preparation_is_refused(backend, capturing, rule):
    params, optimizer, before = prepared(backend, rule)
    with pytest.raises(RuntimeError, match=r"init_state\(\) before"):
        optimizer.step()
    assert_same(params, before)
    assert not optimizer.state


@every_optimizer
def test_a_capture_with_a_missing_gradient_is_refused(backend, capturing, rule):
    params, optimizer, before = prepared(backend, rule, schedule=clrfast.one_cycle(0.1, 4))
    optimizer.init_state()
    params[1].grad = None
    with pytest.raises(RuntimeError, match=r"parameter 1 \(group 0, shape \(4, 2\)\) has no gradient.*requires_grad_"):
        optimizer.step()
    assert int(optimizer.control.step) == 0
    params[1].requires_grad_(False)
    optimizer.step()
    assert_same(params[1:], before[1:])
    assert not torch.equal(params[0], before[0])


@every_optimizer
def test_a_step_at_a_rate_of_0_is_captured(backend, capturing, rule):
    """Its gradients must not be read, although a distributed checkpoint takes such steps as well."""
    params, optimizer, _ = prepared(backend, rule, schedule=clrfast.Schedule(lr=Linear(0.0, 0.1, 3), total_steps=4))
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.init_state()
    optimizer.step()
    assert int(optimizer.control.step) == 1


@every_optimizer
def test_a_capture_with_a_missing_state_is_refused(backend, capturing, rule):
    params, optimizer, before = prepared(backend, rule)
    optimizer.init_state()
    optimizer.state.clear()
    with pytest.raises(
        RuntimeError, match=r"parameter 0 \(group 0, shape \(3,\)\) lacks some of its state.*init_state"
    ):
        optimizer.step()
    assert_same(params, before)


# What an update keeps between steps, in tensors of each parameter: states and counters, of which "step" is a view.
KEPT = {
    "SGD": (partial(clrfast.SGD, dampening=0.3), 2),
    "AdamW": (clrfast.AdamW, 4),
    "AMSGrad": (OPTIMIZERS["AMSGrad"], 5),
}


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("rule", KEPT)
def test_a_graph_keeps_alive_what_it_points_at(backend, capturing, emulation, rule, clip_norm):
    make, n_kept = KEPT[rule]
    params = make_params([(3,), (4, 2)])
    give_grads(params, 0)
    optimizer = make(params, schedule=clrfast.one_cycle(0.1, 4), clip_norm=clip_norm, backend=backend)
    optimizer.init_state()
    loss, control = torch.tensor(1.0), optimizer.control
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    optimizer.step(loss=loss)
    wanted = [*params, *(p.grad for p in params), *control.tensors(), control.blocks_done, control.step_count, loss]
    wanted += [*optimizer.state_tensors(), optimizer.grad_scale, optimizer.found_inf]
    wanted += [] if clip_norm is None else [optimizer.grad_norm]
    assert len(optimizer.state_tensors()) == n_kept * len(params)
    memory = [StorageWeakRef(tensor.untyped_storage()) for tensor in wanted]
    for param in params:
        param.grad = None
    del wanted, params, param, optimizer, control, loss
    gc.collect()
    assert not any(reference.expired() for reference in memory)
    emulation.end_graph()  # the interpreter drops the references without another call of the library
    assert all(reference.expired() for reference in memory)


def test_a_graph_keeps_the_sums_of_a_clip(backend, capturing, emulation, monkeypatch):
    _, optimizer, _ = prepared(backend, clip_norm=1.0)
    optimizer.init_state()
    made, empty = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: made.append(empty(*args, **kwargs)) or made[-1])
    optimizer.step()
    *_, sums = (tensor for tensor in made if tensor.dtype == torch.float64)  # the first one is the result
    memory = StorageWeakRef(sums.untyped_storage())
    made.clear()
    del sums
    gc.collect()
    assert not memory.expired()
    emulation.end_graph()
    assert memory.expired()


def test_a_graph_may_end_while_others_hold_many_objects(backend, capturing, emulation):
    """The interpreter's queue of pending calls is short."""
    alive = []
    for _ in range(100):
        thing = torch.zeros(1)
        alive.append(weakref.ref(thing))
        _native.load().hold_for_graph(0, [thing])
        emulation.end_graph()
        del thing
    assert all(reference() is None for reference in alive)
