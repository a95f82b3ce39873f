"""Optimizers under a schedule: their numbers, what the groups show, the record of the losses, and refusals."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import Schedule
from clrfast.schedules import QUANTITIES, Linear
from clrfast.schedules._group_values import quantity_of, set_momentum
from tests.helpers.optimizers import (
    BACKENDS,
    DTYPES,
    assert_near,
    assert_same,
    every_rule,
    give_grads,
    make_params,
    past_the_end,
    run_steps,
)

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), every_rule]


@past_the_end
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_schedule_equals_torch_with_the_values_of_the_table(rule, backend, dtype):
    schedule = clrfast.one_cycle(0.1, 6, weight_decay=Linear(0.0, 0.1, 5))
    table = schedule.table()

    def by_hand(step, optimizer, params):
        lr, momentum, weight_decay = table[min(step, 5), 0].tolist()
        optimizer.param_groups[0].update(lr=lr, weight_decay=weight_decay)
        set_momentum(optimizer.param_groups[0], momentum)

    ours, _ = run_steps(lambda p: rule.make(p, weight_decay=0.0, schedule=schedule, backend=backend), 8, dtype=dtype)
    theirs, _ = run_steps(lambda p: rule.make_theirs(p), 8, dtype=dtype, before_step=by_hand)
    assert_near(ours, theirs, steps=8)


@past_the_end
def test_the_groups_show_what_the_next_step_uses(rule, backend):
    schedule = Schedule([Linear(0.0, 1.0, 2), 0.5], momentum=[0.9, Linear(0.5, 0.25, 1)], total_steps=3)
    params = make_params([(2,), (2,)])
    optimizer = rule.make(
        [{"params": params[:1], "weight_decay": 0.0}, {"params": params[1:], "weight_decay": 0.125}],
        schedule=schedule,
        backend=backend,
    )
    shown = []
    for step in range(4):
        shown.append(
            [tuple(round(quantity_of(group, name), 6) for name in QUANTITIES) for group in optimizer.param_groups]
        )
        give_grads(params, step)
        optimizer.step()
    assert shown == [
        [(0.0, 0.9, 0.0), (0.5, 0.5, 0.125)],
        [(0.5, 0.9, 0.0), (0.5, 0.25, 0.125)],
        [(1.0, 0.9, 0.0), (0.5, 0.25, 0.125)],
        [(1.0, 0.9, 0.0), (0.5, 0.25, 0.125)],
    ]


def test_a_schedule_leaves_to_the_groups_what_it_does_not_name(rule, backend):
    params = make_params([(2,)])
    optimizer = rule.make(params, lr=1.0, schedule=Schedule(0.1, total_steps=2), backend=backend)
    stock = rule.make_theirs(params, lr=0.1)
    for group, wanted in zip(optimizer.param_groups, stock.param_groups, strict=True):
        assert all(quantity_of(group, name) == pytest.approx(quantity_of(wanted, name)) for name in QUANTITIES)
        assert {name: group[name] for name in ("maximize", "foreach")} == {"maximize": False, "foreach": None}


def test_a_skipped_update_does_not_move_the_schedule(rule, backend):
    params = make_params([(2,)])
    optimizer = rule.make(params, schedule=clrfast.lr_ramp(0.1, 1.0, 4), backend=backend)
    lrs = []
    for step, skip in enumerate((True, False, True, False)):
        give_grads(params, step)
        optimizer.found_inf = torch.tensor(float(skip))
        optimizer.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    assert int(optimizer.control.step) == 2
    assert lrs == pytest.approx([0.1, 0.1 * 10 ** (1 / 3), 0.1 * 10 ** (1 / 3), 0.1 * 10 ** (2 / 3)])


@past_the_end
def test_losses_are_recorded(rule, backend):
    params = make_params([(2,)])
    optimizer = rule.make(params, schedule=clrfast.constant(0.1, 3), backend=backend)
    give_grads(params, 0)
    optimizer.step(loss=torch.tensor(2.5))
    optimizer.step(lambda: torch.tensor(1.5, requires_grad=True))
    optimizer.step()
    optimizer.step(loss=9.0)  # past the table: nothing is recorded
    assert optimizer.control.losses.tolist()[:2] == [2.5, 1.5]
    assert optimizer.control.losses[2].isnan()


def warned_after(optimizer, params, steps):
    """Return the steps, counted from 1, at which a warning came."""
    warned_at = []
    for step in range(steps):
        give_grads(params, step)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        warned_at += [step + 1] * len(caught)
        assert all(str(each.message).startswith("the schedule has ended") for each in caught)
        assert all(each.filename == __file__ for each in caught)
    return warned_at


def test_the_first_update_past_the_end_warns_and_no_other(rule, backend):
    params = make_params([(2,)])
    optimizer = rule.make(params, schedule=clrfast.one_cycle(0.1, 6), backend=backend)
    assert warned_after(optimizer, params, 10) == [7]
    optimizer.set_schedule(clrfast.one_cycle(0.1, 3))
    assert warned_after(optimizer, params, 6) == [4]


def test_an_extended_schedule_ends_later(rule, backend):
    params = make_params([(2,)])
    optimizer = rule.make(params, schedule=clrfast.one_cycle(0.1, 6), backend=backend)
    assert warned_after(optimizer, params, 6) == []
    longer = rule.make(params, schedule=clrfast.one_cycle(0.1, 6).extended_to(8), backend=backend)
    longer.load_state_dict(optimizer.state_dict())
    assert warned_after(longer, params, 3) == [3]


def test_skipped_updates_are_not_past_the_end(rule, backend):
    params = make_params([(2,)])
    optimizer = rule.make(params, schedule=clrfast.one_cycle(0.1, 2), backend=backend)
    optimizer.found_inf = torch.ones(())
    if backend == "cuda":  # the host learns of skipped updates only by waiting
        assert warned_after(optimizer, params, 2) == []
        optimizer.control.synchronize()
    else:
        assert warned_after(optimizer, params, 5) == []
    optimizer.found_inf = torch.zeros(())
    assert warned_after(optimizer, params, 3) == [3]


def test_a_cycle_that_is_cut_short_warns(rule, backend):
    params = make_params([(2,)])
    rule.make(params, schedule=clrfast.schedules.triangular(0.1, 1.0, 40, step_size=10), backend=backend)
    with pytest.warns(UserWarning, match="ends in mid-cycle after total_steps=50"):
        rule.make(params, schedule=clrfast.schedules.triangular(0.1, 1.0, 50, step_size=10), backend=backend)


@pytest.mark.parametrize("loss", [1e300, -1e300, float("inf"), torch.tensor(1e300, dtype=torch.float64)])
def test_a_loss_beyond_float32_is_infinite(rule, backend, loss):
    params = make_params([(2,)])
    optimizer = rule.make(params, schedule=clrfast.constant(0.1, 3), backend=backend)
    optimizer.control.watch_divergence()
    give_grads(params, 0)
    optimizer.step(loss=loss)
    assert optimizer.control.losses[0].item() == float(loss) * float("inf")
    assert optimizer.control.stop


@pytest.mark.parametrize("own", [True, False], ids=["same schedule given", "schedule from the checkpoint"])
def test_a_resumed_run_continues_bit_for_bit(rule, backend, own):
    schedule = clrfast.one_cycle(0.1, 8, weight_decay=Linear(0.0, 0.1, 7))

    def make(params, schedule=schedule):
        return rule.make(params, weight_decay=0.0, schedule=schedule, backend=backend)

    expected, whole = run_steps(make, 8)
    params, optimizer = run_steps(make, 4)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    params = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = make(params, schedule if own else None)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for step in range(4, 8):
        give_grads(params, step)
        resumed.step()
    assert_same(params, expected)
    assert_same([resumed.control.step, resumed.control.losses], [whole.control.step, whole.control.losses])


def test_another_schedule_at_resume_stays_with_a_warning(rule, backend):
    params, optimizer = run_steps(lambda p: rule.make(p, schedule=clrfast.constant(0.1, 4), backend=backend), 2)
    other = rule.make(params, schedule=clrfast.lr_ramp(0.1, 1.0, 10), backend=backend)
    differences = r"\(total_steps 4 saved, 10 here; lr first at step 1\)"
    with pytest.warns(UserWarning, match=f"saved schedule differs from the optimizer's {differences}; the optimizer"):
        other.load_state_dict(optimizer.state_dict())
    assert int(other.control.step) == 2
    assert other.param_groups[0]["lr"] == pytest.approx(0.1 * 10 ** (2 / 9))


def test_a_forgotten_weight_decay_at_resume_is_named(rule, backend):
    schedule = clrfast.one_cycle(0.1, 4)
    params, optimizer = run_steps(lambda p: rule.make(p, weight_decay=1e-4, schedule=schedule, backend=backend), 2)
    other = rule.make(params, weight_decay=0.0, schedule=schedule, backend=backend)
    with pytest.warns(UserWarning, match=r"\(weight_decay 0.0001 saved, 0 here\)"):
        other.load_state_dict(optimizer.state_dict())


def test_a_weight_decay_that_the_schedule_replaces_is_named(rule, backend):
    params = make_params([(2,), (3,)])

    def make(decay, groups=params, **of_groups):
        schedule = clrfast.one_cycle(0.1, 4, weight_decay=decay)
        return rule.ours(groups, schedule=schedule, backend=backend, **of_groups)

    with pytest.warns(UserWarning, match=r"weight_decay: got 0.3, which the schedule's own \(0.0001\) replaces; leave"):
        make(1e-4, weight_decay=0.3)
    falling = clrfast.schedules.Linear(0.2, 0.1, 3)
    with pytest.warns(UserWarning, match=r"got 0.3, which the schedule's own \(from 0.2 to 0.1\) replaces"):
        make(falling, weight_decay=0.3)
    groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "weight_decay": 0.0}]
    with pytest.warns(UserWarning, match=r"got 0, which .* replaces; .* give the schedule one weight_decay for each"):
        make(0.1, [dict(group) for group in groups])
    make([0.1, 0.0], groups)
    make(1e-4)
    make(1e-4, weight_decay=1e-4)
    make(falling, weight_decay=0.2)
    make(None, weight_decay=0.3)


def test_a_replaced_weight_decay_is_named_wherever_a_group_meets_the_schedule(rule, backend):
    params, schedule = make_params([(2,), (3,)]), clrfast.one_cycle(0.1, 4, weight_decay=1e-4)
    optimizer = rule.ours(params[:1], weight_decay=0.3, backend=backend)
    with pytest.warns(UserWarning, match=r"got 0.3, which the schedule's own \(0.0001\) replaces"):
        optimizer.set_schedule(schedule)
    optimizer.set_schedule(clrfast.one_cycle(0.1, 4, weight_decay=0.2))  # the group's 0.0001 is of the schedule
    with pytest.warns(UserWarning, match=r"got 0, which the schedule's own \(0.2\) replaces"):
        optimizer.add_param_group({"params": params[1:], "weight_decay": 0.0})
    optimizer.add_param_group({"params": make_params([(4,)])})


def test_a_group_can_be_added_under_a_schedule(rule, backend):
    params = make_params([(2,), (3,)])
    optimizer = rule.make(params[:1], schedule=clrfast.lr_ramp(0.1, 1.0, 4), backend=backend)
    give_grads(params, 0)
    optimizer.step(loss=3.0)
    optimizer.add_param_group({"params": params[1:]})
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1 * 10 ** (1 / 3)] * 2)
    before = nn.Parameter(params[1].detach().clone())
    optimizer.step()
    stock = rule.make_theirs([before], lr=0.1 * 10 ** (1 / 3))  # its first update, too
    before.grad = params[1].grad
    stock.step()
    assert_near(params[1:], [before], steps=1)
    assert optimizer.control.losses[0] == 3.0


def test_total_steps_of_zero_is_refused(rule, backend):
    with pytest.raises(ValueError, match="total_steps: got 0"):
        rule.make(make_params([(2,)]), schedule=clrfast.constant(0.1, 0), backend=backend)


def test_writing_into_a_scheduled_group_is_refused(rule, backend):
    """The schedule would silently overwrite the value, for example that of a torch LR scheduler."""
    params = make_params([(2,)])
    give_grads(params, 0)
    before = params[0].detach().clone()
    optimizer = rule.make(params, schedule=clrfast.constant(0.1, 3), backend=backend)
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(RuntimeError, match=r"param_groups\[0\]\['lr'\] was set to 0.5"):
        optimizer.step()
    assert_same(params, [before])


def test_the_loss_must_be_one_number(rule, backend):
    params = make_params([(2,)])
    give_grads(params, 0)
    optimizer = rule.make(params, schedule=clrfast.constant(0.1, 3), backend=backend)
    before = params[0].detach().clone()
    with pytest.raises(ValueError, match=r"loss: got shape \(2,\)"):
        optimizer.step(loss=torch.ones(2))
    assert_same(params, [before])


def test_a_new_group_keeps_what_the_schedule_does_not_name(rule, backend):
    params = make_params([(2,), (3,)])
    optimizer = rule.make(params[:1], weight_decay=0.5, schedule=clrfast.one_cycle(0.1, 8), backend=backend)
    with pytest.warns(UserWarning, match="replaces the parameter groups' own lr"):
        optimizer.add_param_group({"params": params[1:], "weight_decay": 0.0, "lr": 0.5})
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0]
    by_group = rule.make(params[:1], schedule=Schedule([0.1], total_steps=2), backend=backend)
    by_group.set_schedule(Schedule([0.1], total_steps=2))
    two = rule.make([{"params": [p]} for p in params], schedule=Schedule([0.1, 0.2], total_steps=2), backend=backend)
    with pytest.raises(ValueError, match="curves for exactly 2 groups"):
        two.add_param_group({"params": make_params([(1,)])})
    assert len(two.param_groups) == 2


def test_a_warning_says_that_the_schedule_replaces_the_groups_own_rates(rule, backend):
    params = make_params([(2,), (3,)])

    def groups():
        return [{"params": params[:1], "lr": 0.1}, {"params": params[1:], "lr": 0.2}]

    with pytest.warns(UserWarning, match=r"own lr \(0.1, 0.2\)"):
        rule.make(groups(), schedule=clrfast.one_cycle(0.1, 8), backend=backend)
    optimizer = rule.make(groups(), schedule=clrfast.constant(0.4, 8).for_groups(groups()), backend=backend)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.4])


def test_a_checkpoint_with_numpy_numbers_loads_as_weights_only(rule, backend):
    schedule = Schedule(clrfast.schedules.Tabulated([0.1, 0.2]), momentum=np.float64(0.9), total_steps=np.int64(4))
    for chosen in (schedule, clrfast.one_cycle(np.float32(0.1), 10), clrfast.one_cycle(np.float64(0.1), 10)):
        params = make_params([(2,)])
        optimizer = rule.make(params, schedule=chosen, backend=backend)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        optimizer.load_state_dict(torch.load(file, weights_only=True))
        assert Schedule.from_dict(chosen.to_dict()) == chosen


def test_a_model_may_be_moved_before_its_first_step(rule, backend):
    """The control follows the parameters to their device."""
    params = make_params([(3,)])
    give_grads(params, 0)
    expected, _ = run_steps(rule.make_theirs, 1, [(3,)])
    optimizer = rule.make(params, schedule=clrfast.Schedule(Linear(0.1, 0.5, 4), total_steps=5), backend=backend)
    optimizer.follower.controls = {torch.device("meta"): optimizer.control}
    optimizer.step()
    assert list(optimizer.controls) == [torch.device("cpu")]
    assert int(optimizer.control.step) == 1
    assert_near(params, expected, steps=1)


def test_a_complex_loss_is_refused(rule, backend):
    optimizer = rule.make(make_params([(2,)]), schedule=clrfast.one_cycle(0.1, 5), backend=backend)
    with pytest.raises(ValueError, match="loss: got a complex number"):
        optimizer.step(loss=torch.tensor(1j))


def test_without_its_schedule_an_optimizer_goes_on_by_the_groups_values(rule, backend):
    params = make_params([(3,)])
    optimizer = rule.make(params, schedule=clrfast.one_cycle(0.1, 6), backend=backend)
    for step in range(3):
        give_grads(params, step)
        optimizer.step()
    twin_params = [torch.nn.Parameter(param.detach().clone()) for param in params]
    optimizer.remove_schedule()
    assert optimizer.schedule is None
    assert optimizer.control is None
    assert "clrfast" not in optimizer.state_dict()
    twin = rule.make(twin_params, backend=backend)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.param_groups[0]["lr"] = twin.param_groups[0]["lr"] = 0.05
    for step in range(3, 6):
        for each, own in ((optimizer, params), (twin, twin_params)):
            give_grads(own, step)
            each.step()
    assert_same(params, twin_params)
