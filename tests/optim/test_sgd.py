"""What SGD alone does: dampening, whose first update is special, and Nesterov momentum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import clrfast
from clrfast import Schedule
from clrfast.schedules import Linear
from tests.helpers.optimizers import BACKENDS, assert_same, give_grads, make_params, run_steps

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_the_state_of_a_skipped_first_step_is_not_exported(backend, dampening):
    """torch would take the buffer of zeros for a momentum and dampen the first gradient."""
    params = make_params([(3,)])
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, dampening=dampening, backend=backend)
    give_grads(params, 0)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert optimizer.state_dict()["state"] == {0: {}}
    theirs = torch.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.5)
    theirs.load_state_dict(optimizer.state_dict())
    before = params[0].detach().clone()
    theirs.step()
    torch.testing.assert_close(params[0].detach(), before - 0.1 * params[0].grad)


def test_the_first_applied_update_initializes_the_momentum(backend):
    """GradScaler halves the scale and skips."""
    param = nn.Parameter(torch.tensor([1.0]))
    optimizer = clrfast.SGD([param], lr=0.5, momentum=0.9, dampening=0.5, backend=backend)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    values = []
    for factor in (float("inf"), 1.0, float("nan"), 1.0):
        optimizer.zero_grad()
        scaler.scale((param * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        values.append(param.item())
    # 1 -> skipped -> b = 1: 0.5 -> skipped -> b = 0.9 + 0.5: -0.2
    assert values == pytest.approx([1.0, 0.5, 0.5, -0.2])


def test_dampening_may_be_switched_on_after_skipped_updates(backend):
    param = nn.Parameter(torch.zeros(1))
    optimizer = clrfast.SGD([param], lr=1.0, momentum=0.9, backend=backend)
    for step in range(3):
        param.grad = torch.ones(1)
        optimizer.found_inf = torch.tensor(1.0 if step == 0 else 0.0)
        optimizer.step()
        optimizer.param_groups[0]["dampening"] = 0.5
    assert param.item() == pytest.approx(-1 - (0.9 + 0.5))


def test_master_weights_are_exported_before_the_first_momentum(backend):
    param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    schedule = Schedule(1e-4, momentum=Linear(0.0, 0.9, 9), total_steps=10)
    optimizer = clrfast.SGD([param], schedule=schedule, master_weights=True, backend=backend)
    param.grad = torch.ones_like(param)
    optimizer.step()
    state = optimizer.state_dict()["state"][0]
    assert set(state) == {"master_param"}
    assert state["master_param"][0].item() == pytest.approx(1 - 1e-4)
    plain = clrfast.SGD([param], lr=0.1, backend=backend)
    plain.load_state_dict(optimizer.state_dict())
    assert "master_param" not in plain.state_dict()["state"].get(0, {})


def test_nesterov_takes_its_momentum_from_the_schedule(backend):
    schedule = clrfast.one_cycle(0.1, 6)
    ours, _ = run_steps(lambda p: clrfast.SGD(p, nesterov=True, schedule=schedule, backend=backend), 6)
    dummy, _ = run_steps(lambda p: clrfast.SGD(p, momentum=0.5, nesterov=True, schedule=schedule, backend=backend), 6)
    assert_same(ours, dummy)


def test_the_step_count_continues_when_the_schedule_changes(backend):
    """The flag of a buffer holds the number of its first update."""

    def run(chosen):
        params = make_params([(5,), (3,)])
        optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, dampening=0.5, backend=chosen)
        for step in range(9):
            if step % 3 == 0:
                optimizer.set_schedule(clrfast.one_cycle(0.1, 10))
            give_grads(params, step)
            params[1].grad = None if step < 4 else params[1].grad
            optimizer.step()
        return params

    assert_same(run(backend), run("torch"))
