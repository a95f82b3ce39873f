"""ScheduleLR: the schedule on the host, checkpoints, and updates that are skipped."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

import clrfast
from clrfast.schedules import (
    POLICIES,
    Linear,
    Schedule,
    as_lr_scheduler,
    one_cycle,
)
from tests.helpers.optimizers import assert_same, give_grads, make_params, past_the_end
from tests.helpers.schedulers import ramp
from tests.helpers.schedules import POLICY_ARGUMENTS


def adam(params, **kwargs):
    return torch.optim.Adam(params, lr=0.1, betas=(0.7, 0.99), **kwargs)


@past_the_end
@pytest.mark.filterwarnings("ignore:the schedule ends in mid-cycle")
@pytest.mark.parametrize("name", POLICIES)
def test_the_scheduler_gives_the_same_run_as_the_device_table(name):
    """Bit for bit with the torch backend, past the schedule's end too."""
    schedule = POLICIES[name](total_steps=12, **{**POLICY_ARGUMENTS[name], "weight_decay": Linear(0.0, 0.1, 5)})
    runs = []
    for on_host in (False, True):
        params = make_params([(3,), (2, 2)])
        optimizer = clrfast.SGD(params, momentum=0.625, schedule=None if on_host else schedule, backend="torch")
        scheduler = as_lr_scheduler(optimizer, schedule) if on_host else None
        shown = []
        for step in range(15):
            shown.append([optimizer.param_groups[0][key] for key in ("lr", "momentum", "weight_decay")])
            give_grads(params, step)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        runs.append((params, shown))
    assert runs[0][1] == runs[1][1]
    assert_same(runs[0][0], runs[1][0])


def test_adam_cycles_its_first_beta():
    optimizer = adam(make_params([(2,)]))
    scheduler = as_lr_scheduler(optimizer, one_cycle(1.0, 10))
    assert isinstance(scheduler, LRScheduler)
    expected = one_cycle(1.0, 10).table()
    for step in range(10):
        group = optimizer.param_groups[0]
        assert (group["lr"], group["betas"][0]) == tuple(expected[step, 0, :2].tolist())
        assert group["betas"][1] == 0.99
        assert scheduler.get_last_lr() == [group["lr"]]
        give_grads(optimizer.param_groups[0]["params"], step)
        optimizer.step()
        scheduler.step()


def test_quantities_that_the_schedule_does_not_set_stay():
    optimizer = torch.optim.AdamW(make_params([(2,)]), lr=0.1, betas=(0.7, 0.9), weight_decay=0.3)
    as_lr_scheduler(optimizer, Schedule(0.5, total_steps=3))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.7, 0.9), 0.3)


def test_tensor_rates_are_written_in_place():
    params = make_params([(2,), (2,)])
    optimizer = torch.optim.SGD([{"params": [p], "lr": torch.tensor(0.1)} for p in params], lr=0.1)
    rates = [group["lr"] for group in optimizer.param_groups]
    scheduler = as_lr_scheduler(optimizer, Schedule([0.5, Linear(1.0, 3.0, 2)], total_steps=3))
    give_grads(params, 0)
    optimizer.step()
    scheduler.step()
    assert [group["lr"].item() for group in optimizer.param_groups] == [0.5, 2.0]
    assert all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, rates, strict=True))


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), adam])
def test_a_resumed_run_equals_an_uninterrupted_one(make):
    schedule = one_cycle(0.1, 8, weight_decay=0.01)

    def run(params, optimizer, scheduler, steps):
        for step in steps:
            give_grads(params, step)
            optimizer.step()
            scheduler.step()

    params = make_params([(3,)])
    optimizer = make(params)
    scheduler = as_lr_scheduler(optimizer, schedule)
    run(params, optimizer, scheduler, range(4))
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    at_save = [nn.Parameter(p.detach().clone()) for p in params]
    run(params, optimizer, scheduler, range(4, 8))

    for order in ("optimizer first", "scheduler first"):
        resumed = [nn.Parameter(p.detach().clone()) for p in at_save]
        optimizer = make(resumed)
        scheduler = as_lr_scheduler(optimizer, schedule)
        if order == "optimizer first":
            optimizer.load_state_dict(copy.deepcopy(saved[0]))
        scheduler.load_state_dict(saved[1])
        if order == "scheduler first":
            optimizer.load_state_dict(copy.deepcopy(saved[0]))
        run(resumed, optimizer, scheduler, range(4, 8))
        assert_same(resumed, params)


def test_resuming_warns_of_another_schedule_but_not_of_an_extended_one():
    saved = as_lr_scheduler(adam(make_params([(2,)])), one_cycle(0.1, 8)).state_dict()
    saved["last_epoch"] = 3
    longer = as_lr_scheduler(adam(make_params([(2,)])), one_cycle(0.1, 8).extended_to(20))
    longer.load_state_dict(saved)
    assert longer.last_epoch == 3
    optimizer = adam(make_params([(2,)]))
    other = as_lr_scheduler(optimizer, one_cycle(0.2, 8))
    with pytest.warns(UserWarning, match=r"saved schedule differs from the one given \(lr first at step 0\)"):
        other.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == one_cycle(0.2, 8).table()[3, 0, 0]


def test_a_weight_decay_that_the_schedule_replaces_is_named():
    params, schedule = make_params([(2,), (3,)]), one_cycle(0.1, 8, weight_decay=1e-4)
    with pytest.warns(UserWarning, match=r"weight_decay: got 0.3, which the schedule's own \(0.0001\) replaces"):
        as_lr_scheduler(torch.optim.SGD(params, lr=0.1, weight_decay=0.3), schedule)
    groups = [{"params": params[:1], "weight_decay": 1e-4}, {"params": params[1:], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    as_lr_scheduler(optimizer, schedule)
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([1e-4, 0.0])
    optimizer = torch.optim.SGD([{"params": params[:1], "weight_decay": 1e-4}, {"params": params[1:]}], lr=0.1)
    with pytest.warns(UserWarning, match=r"got 0.0001, which the schedule's own \(0.2\) replaces"):
        as_lr_scheduler(optimizer, one_cycle(0.1, 8, weight_decay=[0.2, 0.0]))
    as_lr_scheduler(torch.optim.AdamW(params, lr=0.1), schedule)  # its default is no choice


@pytest.mark.parametrize("given", [False, True])
def test_resuming_warns_of_a_curve_in_place_of_the_groups_own_value(given):
    curves = {"momentum": None}, {"momentum": 0.0}
    saved, here = (one_cycle(0.1, 8, **each) for each in (reversed(curves) if given else curves))
    state = as_lr_scheduler(adam(make_params([(2,)])), saved).state_dict()
    was, now = ("a curve", "none, so that of the groups") if given else ("none, so that of the groups", "a curve")
    with pytest.warns(UserWarning, match=rf"given \(momentum: {was} saved, {now} here\)"):
        as_lr_scheduler(adam(make_params([(2,)])), here).load_state_dict(state)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
        lambda p: clrfast.SGD(p, lr=0.1),
    ],
    ids=["SGD", "fused SGD", "fused Adam", "clrfast"],
)
def test_an_update_that_amp_skips_does_not_advance_the_schedule(make):
    """Fused optimizers skip by themselves: their step is called all the same."""
    param = nn.Parameter(torch.tensor([1.0]))
    optimizer = make([param])
    scheduler = as_lr_scheduler(optimizer, ramp(), follow_updates=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    seen = []
    for factor in (float("inf"), 1.0, float("nan"), 1.0):
        optimizer.zero_grad()
        scaler.scale((param * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        seen.append(scheduler.last_epoch)
    assert seen == [0, 1, 1, 2]


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step", "ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_follows_its_own_optimizer(copied):
    params = make_params([(2,)])
    optimizer = torch.optim.SGD(params, lr=0.1)
    scheduler = as_lr_scheduler(optimizer, ramp(), follow_updates=True)
    optimizer_copy, scheduler_copy = copied((optimizer, scheduler))
    assert scheduler_copy.optimizer is optimizer_copy
    for _ in range(3):
        optimizer_copy.step()
        scheduler_copy.step()
        scheduler.step()
    assert (scheduler.last_epoch, scheduler_copy.last_epoch) == (0, 3)


def test_the_optimizers_hook_does_not_keep_the_scheduler_alive():
    params = make_params([(2,)])
    optimizer = torch.optim.SGD(params, lr=0.1)
    scheduler = weakref.ref(as_lr_scheduler(optimizer, ramp(), follow_updates=True))
    gc.collect()
    assert scheduler() is None
    optimizer.step()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_checkpoint_between_update_and_scheduler_step_continues():
    params = make_params([(2,)])
    optimizer = torch.optim.SGD(params, lr=0.1)
    scheduler = as_lr_scheduler(optimizer, ramp(), follow_updates=True)
    give_grads(params, 0)
    optimizer.step()
    resumed = as_lr_scheduler(torch.optim.SGD(params, lr=0.1), ramp(), follow_updates=True)
    resumed.load_state_dict(scheduler.state_dict())
    for each in (scheduler, resumed):
        each.step()
        assert each.last_epoch == 1


def test_a_range_test_does_not_count_as_an_update():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = as_lr_scheduler(optimizer, ramp(), follow_updates=True)
    data = [(torch.randn(4, 2), torch.randn(4, 1))]
    curve = clrfast.range_test(model, nn.MSELoss(), data, optimizer=optimizer, steps=5)
    assert len(set(curve.loss.tolist())) > 1  # it trained, although the ramp starts at a rate of 0
    scheduler.step()
    assert scheduler.last_epoch == 0


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step", "ignore:The epoch parameter")
@pytest.mark.parametrize("follow_updates", [False, True])
def test_it_works_inside_torchs_sequential_lr(follow_updates):
    params = make_params([(2,)])
    optimizer = torch.optim.SGD(params, lr=0.1)
    first = as_lr_scheduler(optimizer, Schedule(Linear(0.5, 0.1, 4), total_steps=5), follow_updates=follow_updates)
    then = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, then], milestones=[4])
    rates = []
    for step in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        give_grads(params, step)
        optimizer.step()
        both.step()
    assert rates == pytest.approx([0.5, 0.4, 0.3, 0.2])


def test_an_added_group_without_a_curve_is_an_error_that_changes_nothing():
    params = make_params([(2,), (2,)])
    optimizer = torch.optim.SGD([{"params": [p]} for p in params], lr=0.1)
    scheduler = as_lr_scheduler(optimizer, Schedule([0.5, 0.4], total_steps=3))
    optimizer.add_param_group({"params": make_params([(1,)])})
    optimizer.step()
    with pytest.raises(ValueError, match="it has 2 groups, but the optimizer has 3"):
        scheduler.step()
    assert scheduler.last_epoch == 0


def test_the_state_of_another_scheduler_is_refused():
    optimizer = adam(make_params([(2,)]))
    other = torch.optim.lr_scheduler.StepLR(adam(make_params([(2,)])), 3)
    with pytest.raises(ValueError, match="it is not a ScheduleLR's"):
        as_lr_scheduler(optimizer, ramp()).load_state_dict(other.state_dict())


def test_accumulation_advances_the_schedule_once_per_update():
    params = make_params([(2,)])
    optimizer = torch.optim.SGD(params, lr=0.1)
    scheduler = as_lr_scheduler(optimizer, Schedule(Linear(0.0, 1.0, 10), total_steps=11), follow_updates=True)
    for micro_batch in range(8):
        give_grads(params, micro_batch)
        if micro_batch % 4 == 3:
            optimizer.step()
        scheduler.step()
    assert scheduler.last_epoch == 2


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda p: as_lr_scheduler(torch.optim.SGD(p, lr=1.0), 0.1), "schedule: got 0.1"),
        (lambda p: as_lr_scheduler(torch.optim.SGD(p, lr=1.0), Schedule(0.1)), "has no total_steps"),
        (lambda p: as_lr_scheduler(torch.optim.SGD(p, lr=1.0), Schedule([0.1] * 2, total_steps=1)), "it has 2 groups"),
        (lambda p: as_lr_scheduler(torch.optim.Rprop(p, lr=1.0), one_cycle(1.0, 9)), "neither momentum nor betas"),
        (
            lambda p: as_lr_scheduler(torch.optim.Rprop(p, lr=1.0), Schedule(0.1, weight_decay=0.1, total_steps=1)),
            "has no weight_decay",
        ),
        (
            lambda p: as_lr_scheduler(clrfast.SGD(p, schedule=one_cycle(1.0, 9)), one_cycle(1.0, 9)),
            "follows a schedule of its own",
        ),
    ],
)
def test_errors_name_the_bad_argument(make, named):
    params = make_params([(2,)])
    with pytest.raises(ValueError, match=named):
        make(params)


def test_the_state_dict_is_plain_data():
    schedule = Schedule(lambda step: 0.1 + 0 * step, total_steps=3)
    saved = as_lr_scheduler(adam(make_params([(2,)])), schedule).state_dict()
    np.testing.assert_allclose(Schedule.from_dict(saved["schedule"]).table(), schedule.table())
