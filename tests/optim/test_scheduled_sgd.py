"""SGD under a schedule: its numbers, what the groups show, the record of the losses, and refusals."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import Schedule
from clrfast.schedules import Linear
from tests.helpers.optimizers import (
    BACKENDS,
    DTYPES,
    assert_near,
    assert_same,
    give_grads,
    make_params,
    past_the_end,
    run_steps,
)

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@past_the_end
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_schedule_equals_torch_with_the_values_of_the_table(backend, dtype):
    schedule = clrfast.one_cycle(0.1, 6, weight_decay=Linear(0.0, 0.1, 5))
    table = schedule.table()

    def by_hand(step, optimizer, params):
        lr, momentum, weight_decay = table[min(step, 5), 0].tolist()
        optimizer.param_groups[0].update(lr=lr, momentum=momentum, weight_decay=weight_decay)

    ours, _ = run_steps(lambda p: clrfast.SGD(p, schedule=schedule, backend=backend), 8, dtype=dtype)
    theirs, _ = run_steps(lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9), 8, dtype=dtype, before_step=by_hand)
    assert_near(ours, theirs, steps=8)


@past_the_end
def test_the_groups_show_what_the_next_step_uses(backend):
    schedule = Schedule([Linear(0.0, 1.0, 2), 0.5], momentum=[0.9, Linear(0.5, 0.25, 1)], total_steps=3)
    params = make_params([(2,), (2,)])
    optimizer = clrfast.SGD(
        [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.125}], schedule=schedule, backend=backend
    )
    shown = []
    for step in range(4):
        shown.append(
            [tuple(round(g[n], 6) for n in ("lr", "momentum", "weight_decay")) for g in optimizer.param_groups]
        )
        give_grads(params, step)
        optimizer.step()
    assert shown == [
        [(0.0, 0.9, 0.0), (0.5, 0.5, 0.125)],
        [(0.5, 0.9, 0.0), (0.5, 0.25, 0.125)],
        [(1.0, 0.9, 0.0), (0.5, 0.25, 0.125)],
        [(1.0, 0.9, 0.0), (0.5, 0.25, 0.125)],
    ]


def test_a_schedule_leaves_to_the_groups_what_it_does_not_name(backend):
    params = make_params([(2,)])
    optimizer = clrfast.SGD(
        params, momentum=0.7, weight_decay=0.01, schedule=Schedule(0.1, total_steps=2), backend=backend
    )
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == pytest.approx((0.1, 0.7, 0.01))


def test_a_skipped_update_does_not_move_the_schedule(backend):
    params = make_params([(2,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.lr_ramp(0.1, 1.0, 4), backend=backend)
    lrs = []
    for step, skip in enumerate((True, False, True, False)):
        give_grads(params, step)
        optimizer.found_inf = torch.tensor(float(skip))
        optimizer.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    assert int(optimizer.control.step) == 2
    assert lrs == pytest.approx([0.1, 0.1 * 10 ** (1 / 3), 0.1 * 10 ** (1 / 3), 0.1 * 10 ** (2 / 3)])


@past_the_end
def test_losses_are_recorded(backend):
    params = make_params([(2,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.constant(0.1, 3), backend=backend)
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


def test_the_first_update_past_the_end_warns_and_no_other(backend):
    params = make_params([(2,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 6), backend=backend)
    assert warned_after(optimizer, params, 10) == [7]
    optimizer.set_schedule(clrfast.one_cycle(0.1, 3))
    assert warned_after(optimizer, params, 6) == [4]


def test_an_extended_schedule_ends_later(backend):
    params = make_params([(2,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 6), backend=backend)
    assert warned_after(optimizer, params, 6) == []
    longer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 6).extended_to(8), backend=backend)
    longer.load_state_dict(optimizer.state_dict())
    assert warned_after(longer, params, 3) == [3]


def test_skipped_updates_are_not_past_the_end(backend):
    params = make_params([(2,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 2), backend=backend)
    optimizer.found_inf = torch.ones(())
    if backend == "cuda":  # the host learns of skipped updates only by waiting
        assert warned_after(optimizer, params, 2) == []
        optimizer.control.synchronize()
    else:
        assert warned_after(optimizer, params, 5) == []
    optimizer.found_inf = torch.zeros(())
    assert warned_after(optimizer, params, 3) == [3]


def test_a_cycle_that_is_cut_short_warns(backend):
    params = make_params([(2,)])
    clrfast.SGD(params, schedule=clrfast.schedules.triangular(0.1, 1.0, 40, step_size=10), backend=backend)
    with pytest.warns(UserWarning, match="ends in mid-cycle after total_steps=50"):
        clrfast.SGD(params, schedule=clrfast.schedules.triangular(0.1, 1.0, 50, step_size=10), backend=backend)


@pytest.mark.parametrize("loss", [1e300, -1e300, float("inf"), torch.tensor(1e300, dtype=torch.float64)])
def test_a_loss_beyond_float32_is_infinite(backend, loss):
    params = make_params([(2,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.constant(0.1, 3), backend=backend)
    optimizer.control.watch_divergence()
    give_grads(params, 0)
    optimizer.step(loss=loss)
    assert optimizer.control.losses[0].item() == float(loss) * float("inf")
    assert optimizer.control.stop


@pytest.mark.parametrize("own", [True, False], ids=["same schedule given", "schedule from the checkpoint"])
def test_a_resumed_run_continues_bit_for_bit(backend, own):
    schedule = clrfast.one_cycle(0.1, 8, weight_decay=Linear(0.0, 0.1, 7))

    def make(params, schedule=schedule):
        return clrfast.SGD(params, momentum=0.9, dampening=0.2, schedule=schedule, backend=backend)

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


def test_another_schedule_at_resume_stays_with_a_warning(backend):
    params, optimizer = run_steps(lambda p: clrfast.SGD(p, schedule=clrfast.constant(0.1, 4), backend=backend), 2)
    other = clrfast.SGD(params, schedule=clrfast.lr_ramp(0.1, 1.0, 10), backend=backend)
    with pytest.warns(UserWarning, match="saved schedule differs"):
        other.load_state_dict(optimizer.state_dict())
    assert int(other.control.step) == 2
    assert other.param_groups[0]["lr"] == pytest.approx(0.1 * 10 ** (2 / 9))


def test_a_group_can_be_added_under_a_schedule(backend):
    params = make_params([(2,), (3,)])
    optimizer = clrfast.SGD(params[:1], schedule=clrfast.lr_ramp(0.1, 1.0, 4), backend=backend)
    give_grads(params, 0)
    optimizer.step(loss=3.0)
    optimizer.add_param_group({"params": params[1:]})
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1 * 10 ** (1 / 3)] * 2)
    before = params[1].detach().clone()
    optimizer.step()
    torch.testing.assert_close(params[1].detach(), before - 0.1 * 10 ** (1 / 3) * params[1].grad)
    assert optimizer.control.losses[0] == 3.0


def test_total_steps_of_zero_is_refused(backend):
    with pytest.raises(ValueError, match="total_steps: got 0"):
        clrfast.SGD(make_params([(2,)]), schedule=clrfast.constant(0.1, 0), backend=backend)


def test_writing_into_a_scheduled_group_is_refused(backend):
    """The schedule would silently overwrite the value, for example that of a torch LR scheduler."""
    params = make_params([(2,)])
    give_grads(params, 0)
    before = params[0].detach().clone()
    optimizer = clrfast.SGD(params, schedule=clrfast.constant(0.1, 3), backend=backend)
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(RuntimeError, match=r"param_groups\[0\]\['lr'\] was set to 0.5"):
        optimizer.step()
    assert_same(params, [before])


def test_the_loss_must_be_one_number(backend):
    params = make_params([(2,)])
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, schedule=clrfast.constant(0.1, 3), backend=backend)
    before = params[0].detach().clone()
    with pytest.raises(ValueError, match=r"loss: got shape \(2,\)"):
        optimizer.step(loss=torch.ones(2))
    assert_same(params, [before])


def test_nesterov_takes_its_momentum_from_the_schedule(backend):
    schedule = clrfast.one_cycle(0.1, 6)
    ours, _ = run_steps(lambda p: clrfast.SGD(p, nesterov=True, schedule=schedule, backend=backend), 6)
    dummy, _ = run_steps(lambda p: clrfast.SGD(p, momentum=0.5, nesterov=True, schedule=schedule, backend=backend), 6)
    assert_same(ours, dummy)


def test_a_new_group_keeps_what_the_schedule_does_not_name(backend):
    params = make_params([(2,), (3,)])
    optimizer = clrfast.SGD(params[:1], weight_decay=0.5, schedule=clrfast.one_cycle(0.1, 8), backend=backend)
    with pytest.warns(UserWarning, match="replaces the parameter groups' own lr"):
        optimizer.add_param_group({"params": params[1:], "weight_decay": 0.0, "lr": 0.5})
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0]
    by_group = clrfast.SGD(params[:1], schedule=Schedule([0.1], total_steps=2), backend=backend)
    by_group.set_schedule(Schedule([0.1], total_steps=2))
    two = clrfast.SGD([{"params": [p]} for p in params], schedule=Schedule([0.1, 0.2], total_steps=2), backend=backend)
    with pytest.raises(ValueError, match="curves for exactly 2 groups"):
        two.add_param_group({"params": make_params([(1,)])})
    assert len(two.param_groups) == 2


def test_a_warning_says_that_the_schedule_replaces_the_groups_own_rates(backend):
    params = make_params([(2,), (3,)])

    def groups():
        return [{"params": params[:1], "lr": 0.1}, {"params": params[1:], "lr": 0.2}]

    with pytest.warns(UserWarning, match=r"own lr \(0.1, 0.2\)"):
        clrfast.SGD(groups(), schedule=clrfast.one_cycle(0.1, 8), backend=backend)
    optimizer = clrfast.SGD(groups(), schedule=clrfast.constant(0.4, 8).for_groups(groups()), backend=backend)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.4])


def test_a_checkpoint_with_numpy_numbers_loads_as_weights_only(backend):
    schedule = Schedule(clrfast.schedules.Tabulated([0.1, 0.2]), momentum=np.float64(0.9), total_steps=np.int64(4))
    for chosen in (schedule, clrfast.one_cycle(np.float32(0.1), 10), clrfast.one_cycle(np.float64(0.1), 10)):
        params = make_params([(2,)])
        optimizer = clrfast.SGD(params, schedule=chosen, backend=backend)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        optimizer.load_state_dict(torch.load(file, weights_only=True))
        assert Schedule.from_dict(chosen.to_dict()) == chosen


def test_a_model_may_be_moved_before_its_first_step(backend):
    """The control follows the parameters to their device."""
    params = make_params([(3,)])
    give_grads(params, 0)
    expected = [params[0].detach() - torch.tensor(0.1) * params[0].grad]
    optimizer = clrfast.SGD(params, schedule=clrfast.Schedule(Linear(0.1, 0.5, 4), total_steps=5), backend=backend)
    optimizer.follower.controls = {torch.device("meta"): optimizer.control}
    optimizer.step()
    assert list(optimizer.controls) == [torch.device("cpu")]
    assert int(optimizer.control.step) == 1
    assert_near(params, expected, steps=1)


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


def test_a_complex_loss_is_refused(backend):
    optimizer = clrfast.SGD(make_params([(2,)]), schedule=clrfast.one_cycle(0.1, 5), backend=backend)
    with pytest.raises(ValueError, match="loss: got a complex number"):
        optimizer.step(loss=torch.tensor(1j))
