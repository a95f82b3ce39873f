"""The native controls equal the reference's bit for bit, and read their tensors where they are now."""

from __future__ import annotations

import pytest
import torch

import clrfast
from clrfast.optim._control import StepControl
from tests.helpers.optimizers import (
    NATIVE,
    assert_same,
    give_grads,
    make_params,
)

pytestmark = pytest.mark.parametrize("backend", NATIVE)


@pytest.mark.hardware
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("losses", lambda losses: losses[:2].clone()),
        ("losses", lambda losses: torch.zeros(2 * len(losses))[::2]),
        ("table", lambda table: table[:2].clone()),
        ("step", lambda step: step.int()),
        ("average", lambda average: average.double()),
        ("row", lambda row: torch._neg_view(row.clone())),
    ],
)
def test_a_control_whose_memory_was_changed_in_place_is_refused(backend, name, changed):
    (param,) = make_params([(3,)])
    optimizer = clrfast.SGD([param], schedule=clrfast.one_cycle(0.1, 8), backend=backend)
    give_grads([param], 0)
    optimizer.step(loss=1.0)
    before = param.detach().clone()
    tensor = getattr(optimizer.control, name)
    tensor.data = changed(tensor)
    with pytest.raises(RuntimeError, match=rf"control\.{name}: got .*; it must be"):
        optimizer.step(loss=1.0)
    assert_same([param], [before])


def control_pair(backend, **watch):
    table = clrfast.one_cycle(1.0, 6).table()
    step_count = torch.ones((), dtype=torch.int64)
    device = torch.get_default_device()
    controls = [StepControl(table, device=device, backend=b, step_count=step_count) for b in ("torch", backend)]
    for control in controls:
        if watch:
            control.watch_divergence(**watch)
    return controls


LOSSES = {
    "falling": [3.0, 2.0, 1.5, 1.2, 1.1, 1.0, 0.9, 0.8],
    "diverging": [1.0, 0.9, 2.0, 5.0, 50.0, 500.0, 1.0],
    "not finite": [1.0, float("nan"), 1.0, 1.0],
    "infinite": [1.0, 2.0, float("inf"), 1.0],
    "negative": [-1.0, -2.0, -3.0, -2.0, 8.0, 30.0, 30.0],
    "none": [None, None, 1.0, None],
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("watch", [{}, {"smoothing": 0.5, "stop_factor": 4.0}, {"smoothing": 0.0, "stop_factor": 1.5}])
def test_the_control_equals_the_reference(backend, name, watch):
    pair = control_pair(backend, **watch)
    for step, loss in enumerate(LOSSES[name]):
        found_inf = torch.tensor(2.0) if step == 1 else None
        for control in pair:
            control.advance(None if loss is None else torch.tensor(loss), found_inf)
        for attribute in ("step", "losses", "average", "stop", "row"):
            assert_same([getattr(pair[0], attribute)], [getattr(pair[1], attribute)])
        if pair[0].step.device.type == "cuda":  # the host does not know of the skipped update
            assert pair[0].host_step == pair[1].host_step == step + 1
        else:
            assert pair[0].host_step == pair[1].host_step == int(pair[0].step)


CONTROL_CHANGES = {
    "table on another device": ("table", lambda t: t.to("meta"), r"control.table: got .* on meta; it must be .* on"),
    "losses too short": ("losses", lambda t: t[:2].clone(), r"control.losses: got torch.float32 of shape \(2,\)"),
    "step of another type": ("step", lambda t: t.int(), "control.step: got torch.int32"),
}


@pytest.mark.hardware
@pytest.mark.parametrize("name", CONTROL_CHANGES)
def test_a_control_with_a_tensor_that_does_not_fit_is_refused(backend, name):
    attribute, change, message = CONTROL_CHANGES[name]
    params = make_params([(3,)])
    before = [param.detach().clone() for param in params]
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 5), backend=backend)
    give_grads(params, 0)
    setattr(optimizer.control, attribute, change(getattr(optimizer.control, attribute)))
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert_same(params, before)


def test_a_replaced_tensor_of_the_control_is_used(backend):
    params = make_params([(3,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 5), backend=backend)
    for step in range(3):
        give_grads(params, step)
        optimizer.control.losses = torch.full_like(optimizer.control.losses, -1.0)
        optimizer.step(loss=torch.tensor(float(step)))
    assert optimizer.control.losses.tolist() == [-1.0, -1.0, 2.0, -1.0, -1.0]
