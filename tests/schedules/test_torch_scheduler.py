import copy
import gc
import io
import pickle
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

import clrfast
from clrfast.schedules import (
    POLICIES,
    Cosine,
    Linear,
    Repeated,
    Schedule,
    Shifted,
    as_lr_scheduler,
    cosine_annealing,
    cosine_restarts,
    one_cycle,
    triangular,
)
from tests.helpers.optimizers import assert_same, give_grads, make_params, past_the_end
from tests.helpers.schedules import POLICY_ARGUMENTS


def adam(params, **kwargs):
    return torch.optim.Adam(params, lr=0.1, betas=(0.7, 0.99), **kwargs)


@past_the_end
@pytest.mark.filterwarnings("ignore:the schedule ends in mid-cycle")
@pytest.mark.parametrize("name", POLICIES)
def test_same_run_as_the_device_table(name):
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


def test_what_the_schedule_does_not_name_is_left_alone():
    optimizer = torch.optim.AdamW(make_params([(2,)]), lr=0.1, betas=(0.7, 0.9), weight_decay=0.3)
    as_lr_scheduler(optimizer, Schedule(0.5, total_steps=3))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.7, 0.9), 0.3)


def test_groups_and_tensor_rates():
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
def test_resumed_run_continues(make):
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


def test_resume_with_another_schedule_is_told_and_with_an_extended_one_is_not():
    saved = as_lr_scheduler(adam(make_params([(2,)])), one_cycle(0.1, 8)).state_dict()
    saved["last_epoch"] = 3
    longer = as_lr_scheduler(adam(make_params([(2,)])), one_cycle(0.1, 8).extended_to(20))
    longer.load_state_dict(saved)
    assert longer.last_epoch == 3
    optimizer = adam(make_params([(2,)]))
    other = as_lr_scheduler(optimizer, one_cycle(0.2, 8))
    with pytest.warns(UserWarning, match="saved schedule differs"):
        other.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == one_cycle(0.2, 8).table()[3, 0, 0]


def ramp():
    return Schedule(Linear(0.0, 1.0, 10), total_steps=11)


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
def test_a_skipped_amp_update_does_not_move_the_schedule(make):
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


def test_following_keeps_nothing_alive():
    params = make_params([(2,)])
    optimizer = torch.optim.SGD(params, lr=0.1)
    scheduler = weakref.ref(as_lr_scheduler(optimizer, ramp(), follow_updates=True))
    gc.collect()
    assert scheduler() is None
    optimizer.step()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_checkpoint_between_update_and_scheduler_step():
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
def test_inside_torchs_sequential_scheduler(follow_updates):
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


def test_a_group_more_is_noticed_before_anything_moves():
    params = make_params([(2,), (2,)])
    optimizer = torch.optim.SGD([{"params": [p]} for p in params], lr=0.1)
    scheduler = as_lr_scheduler(optimizer, Schedule([0.5, 0.4], total_steps=3))
    optimizer.add_param_group({"params": make_params([(1,)])})
    optimizer.step()
    with pytest.raises(ValueError, match="it has 2 groups, but the optimizer has 3"):
        scheduler.step()
    assert scheduler.last_epoch == 0


def test_state_of_another_scheduler_is_refused():
    optimizer = adam(make_params([(2,)]))
    other = torch.optim.lr_scheduler.StepLR(adam(make_params([(2,)])), 3)
    with pytest.raises(ValueError, match="it is not a ScheduleLR's"):
        as_lr_scheduler(optimizer, ramp()).load_state_dict(other.state_dict())


def test_accumulation_moves_it_once_an_update():
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
def test_bad_input_is_named(make, named):
    params = make_params([(2,)])
    with pytest.raises(ValueError, match=named):
        make(params)


def test_state_dict_is_plain_data():
    schedule = Schedule(lambda step: 0.1 + 0 * step, total_steps=3)
    saved = as_lr_scheduler(adam(make_params([(2,)])), schedule).state_dict()
    np.testing.assert_allclose(Schedule.from_dict(saved["schedule"]).table(), schedule.table())


# --- what groups have of their own ---------------------------------------------------------------------------------


def rates_of(optimizer, scheduler, steps):
    """The rates of all groups before each of ``steps`` updates: float64 [steps, groups]."""
    seen = []
    for step in range(steps):
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        give_grads([param for group in optimizer.param_groups for param in group["params"]], step)
        optimizer.step()
        scheduler.step()
    return np.array(seen)


def groups_of(*rates, **options):
    return [{"params": make_params([(2,)]), "lr": rate, **options} for rate in rates]


PLAN = cosine_annealing(0.01, 20)
PLANNED = PLAN.table()[:, 0, 0].astype(np.float64)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, clrfast.SGD])
def test_groups_keep_the_ratios_of_their_rates(make):
    optimizer = make(groups_of(1e-3, 1e-2, 0.0))
    rates = rates_of(optimizer, as_lr_scheduler(optimizer, PLAN), 12)
    np.testing.assert_allclose(rates, PLANNED[:12, None] * [0.1, 1.0, 0.0], rtol=1e-12)


def test_groups_with_tensor_rates_keep_the_ratios():
    optimizer = torch.optim.AdamW(groups_of(torch.tensor(1e-3), torch.tensor(1e-2)))
    rates = rates_of(optimizer, as_lr_scheduler(optimizer, PLAN), 12)
    np.testing.assert_allclose(rates, PLANNED[:12, None] * [0.1, 1.0], rtol=1e-6)


def test_curves_of_their_own_are_taken_as_they_are():
    optimizer = torch.optim.AdamW(groups_of(1e-3, 1e-2))
    rates = rates_of(optimizer, as_lr_scheduler(optimizer, Schedule([0.5, 0.25], total_steps=3)), 3)
    assert rates.tolist() == [[0.5, 0.25]] * 3


def test_timms_lr_scale_is_a_factor_of_its_group():
    optimizer = torch.optim.AdamW([*groups_of(1e-2, lr_scale=0.25), *groups_of(1e-2)])
    rates = rates_of(optimizer, as_lr_scheduler(optimizer, PLAN), 12)
    np.testing.assert_allclose(rates, PLANNED[:12, None] * [0.25, 1.0], rtol=1e-12)


def test_a_group_that_is_added_keeps_its_ratio():
    """To the rates that the groups were made with, not to what the schedule shows when it comes."""
    optimizer = torch.optim.AdamW(groups_of(1e-2), lr=1e-2)
    scheduler = as_lr_scheduler(optimizer, PLAN)
    rates_of(optimizer, scheduler, 5)
    for options in (*groups_of(1e-3), *groups_of(2e-2), {"params": make_params([(1,)])}):
        optimizer.add_param_group(options)
    rates_of(optimizer, scheduler, 1)
    np.testing.assert_allclose(
        rates_of(optimizer, scheduler, 6), PLANNED[6:12, None] * [1.0, 0.1, 2.0, 1.0], rtol=1e-12
    )


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
def test_an_added_group_keeps_its_ratio_through_a_checkpoint(order):
    optimizer = torch.optim.AdamW(groups_of(1e-2))
    scheduler = as_lr_scheduler(optimizer, PLAN)
    optimizer.add_param_group(*groups_of(2e-2))
    rates_of(optimizer, scheduler, 5)
    resumed = torch.optim.AdamW(groups_of(1e-2, 2e-2))
    following = as_lr_scheduler(resumed, PLAN)
    states = [(resumed, optimizer.state_dict()), (following, scheduler.state_dict())]
    for target, state in states if order == "optimizer first" else reversed(states):
        target.load_state_dict(state)
    np.testing.assert_allclose(rates_of(resumed, following, 5), PLANNED[5:10, None] * [1.0, 2.0], rtol=1e-12)


def test_groups_made_anew_have_ratios_to_each_other():
    optimizer = torch.optim.AdamW(groups_of(1e-2))
    scheduler = as_lr_scheduler(optimizer, PLAN)
    rates_of(optimizer, scheduler, 4)
    optimizer.param_groups.clear()
    for options in groups_of(3e-4, 3e-3):
        optimizer.add_param_group(options)
    rates_of(optimizer, scheduler, 1)
    np.testing.assert_allclose(rates_of(optimizer, scheduler, 5), PLANNED[5:10, None] * [0.1, 1.0], rtol=1e-12)


def test_groups_keep_the_ratios_of_their_weight_decays():
    optimizer = torch.optim.AdamW(
        [{"params": make_params([(2,)]), "weight_decay": decay} for decay in (0.0, 0.1, 0.02)], lr=0.1
    )
    scheduler = as_lr_scheduler(optimizer, Schedule(0.1, weight_decay=Linear(0.0, 0.5, 5), total_steps=6))
    for step in range(6):
        shown = [group["weight_decay"] for group in optimizer.param_groups]
        assert shown == pytest.approx([0.0, 0.1 * step, 0.02 * step])
        rates_of(optimizer, scheduler, 1)


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (torch.optim.SGD, {"momentum": 0.5}),
        (torch.optim.AdamW, {"betas": (0.5, 0.99)}),
        (clrfast.SGD, {"momentum": 0.5}),
    ],
)
def test_one_momentum_for_different_ones_is_told(make, own):
    optimizer = make([*groups_of(0.1), *groups_of(0.1, **own)])
    with pytest.warns(UserWarning, match="own momentum"):
        as_lr_scheduler(optimizer, one_cycle(0.1, 10))
    as_lr_scheduler(optimizer, one_cycle(0.1, 10, momentum=None))
    as_lr_scheduler(make([*groups_of(0.1, **own), *groups_of(0.1, **own)]), one_cycle(0.1, 10))


# --- misuse that is noticed ----------------------------------------------------------------------------------------


def warned(run):
    """The texts of the warnings that ``run()`` gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    assert all(each.filename == __file__ for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("follow_updates", [False, True])
def test_a_step_past_the_end_warns_once(follow_updates):
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, PLAN, follow_updates=follow_updates)
    assert warned(lambda: rates_of(optimizer, scheduler, 20)) == []
    (told,) = warned(lambda: rates_of(optimizer, scheduler, 30))
    assert told.startswith("the schedule has ended: its total_steps are 20")


def test_an_extended_schedule_goes_on_silently():
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, PLAN.extended_to(30))
    assert warned(lambda: rates_of(optimizer, scheduler, 30)) == []


@pytest.mark.parametrize(("total_steps", "n_warnings"), [(10, 1), (20, 0)])
def test_a_total_that_forgets_accelerates_processes_is_noticed(total_steps, n_warnings):
    """AcceleratedScheduler.step() with two processes, and 10 updates."""
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, cosine_annealing(0.1, total_steps))

    def run():
        for _ in range(10):
            optimizer.step()
            for _ in range(2):
                if not hasattr(scheduler, "total_steps") or scheduler._step_count <= scheduler.total_steps:
                    scheduler.step()

    assert len(warned(run)) == n_warnings


def train(optimizer, scheduler, updates_per_step):
    for updates in updates_per_step:
        for _ in range(updates):
            optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("make", [torch.optim.SGD, partial(clrfast.SGD, backend="torch")], ids=["torch", "clrfast"])
@pytest.mark.parametrize("follow_updates", [False, True])
def test_a_step_per_epoch_warns_once(make, follow_updates):
    optimizer = make(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, cosine_annealing(0.1, 5 * 20), follow_updates=follow_updates)
    (told,) = warned(lambda: train(optimizer, scheduler, [20] * 5))
    assert "call it after every optimizer.step(), not once per epoch" in told


@pytest.mark.parametrize(
    ("total_steps", "updates_per_step"),
    [
        (100, [1] * 100),
        (100, [1, 0, 1, 1, 0, 2, 1]),  # updates that GradScaler skips, and a closure of two
        (100, [30, *[1] * 50]),  # a first phase at the first rate
        (1000, [5] * 30),  # a GAN: five updates of the critic for one step
        (3, [20] * 3),  # a schedule that is made in epochs
    ],
)
def test_other_numbers_of_updates_are_nobodys_epochs(total_steps, updates_per_step):
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, cosine_annealing(0.1, total_steps))
    assert warned(lambda: train(optimizer, scheduler, updates_per_step)) == []


def test_updates_are_watched_for_two_steps_only():
    """A hook on clrfast.SGD has its step take the slower way."""
    optimizer = clrfast.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, PLAN)
    assert optimizer.has_hooks()
    train(optimizer, scheduler, [1, 1])
    assert not optimizer.has_hooks()
    assert not copy.deepcopy((optimizer, scheduler))[0].has_hooks()


def cycles(total_steps, up_steps=10):
    return triangular(0.1, 1.0, total_steps, up_steps=up_steps)


@pytest.mark.parametrize(
    ("schedule", "is_whole"),
    [
        (cycles(40), True),
        (cycles(39), True),  # its last step is the one before the foot
        (cycles(41), True),  # its last step is the foot
        (cycles(20, 10 / 3), True),
        (cycles(50), False),
        (cycles(12), False),
        (cycles(5, 10.0), False),
        (triangular(0.1, 1.0, 50, up_steps=10, amplitude=lambda cycle: 1.0 / (1.0 + cycle)), False),
        (cycles(40).with_warm_up(7), True),
        (cycles(43).with_warm_up(7), False),
        (cycles(4, 2).in_steps(100.3), True),
        (cycles(5, 2).in_steps(100), False),
        (cycles(40).for_groups([{"lr": 0.1}]), True),
        (cycles(50).for_groups([{"lr": 0.1}]), False),
        (cosine_restarts(0.1, 70, period_steps=10, period_mult=2), True),
        (cosine_restarts(0.1, 71, period_steps=10, period_mult=2), False),  # its last step restarts
        (Schedule(Repeated(Cosine(1.0, 0.0, 4), 4.6), total_steps=69), True),  # 69 / 4.6 is 15.000000000000002
        (Schedule(Repeated(Cosine(1.0, 0.0, 10), 10), total_steps=75), False),
        (Schedule(Shifted(cosine_restarts(0.1, 20, period_steps=10).lr, 8), total_steps=5), True),  # has not begun
        (Schedule(Shifted(cosine_restarts(0.1, 20, period_steps=10).lr, 3), total_steps=20), False),
        (one_cycle(0.1, 33), True),
    ],
)
def test_a_schedule_that_ends_in_mid_cycle_is_told_when_it_is_made(schedule, is_whole):
    optimizer = torch.optim.SGD(groups_of(0.1), momentum=0.9)
    told = warned(lambda: lr_scheduler_of(optimizer, schedule))
    assert [text[: text.index(" after")] for text in told] == ([] if is_whole else ["the schedule ends in mid-cycle"])


def lr_scheduler_of(optimizer, schedule):
    return clrfast.schedules.ScheduleLR(optimizer, schedule)


# --- beside other schedulers ---------------------------------------------------------------------------------------

OTHERS = {
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [5, 9], gamma=0.1),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=6),
    "ConstantLR": lambda optimizer: lr_scheduler.ConstantLR(optimizer, 0.25, total_iters=6),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
}


def chained(optimizer, other, adapter_first):
    if adapter_first:
        pair = [as_lr_scheduler(optimizer, PLAN), OTHERS[other](optimizer)]
    else:
        pair = [OTHERS[other](optimizer), as_lr_scheduler(optimizer, PLAN)]
    return lr_scheduler.ChainedScheduler(pair)


def factors(other, steps):
    optimizer = torch.optim.SGD(groups_of(1.0))
    return rates_of(optimizer, OTHERS[other](optimizer), steps)


@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("adapter_first", [True, False])
@pytest.mark.parametrize("other", OTHERS)
def test_a_chained_scheduler_multiplies(other, adapter_first, as_tensor):
    optimizer = torch.optim.AdamW(groups_of(*(torch.tensor(lr) if as_tensor else lr for lr in (1e-2, 1e-3))))
    rates = rates_of(optimizer, chained(optimizer, other, adapter_first), 18)
    np.testing.assert_allclose(rates, PLANNED[:18, None] * [1.0, 0.1] * factors(other, 18), rtol=1e-5)


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
def test_a_chained_scheduler_continues_from_a_checkpoint(order):
    def make():
        optimizer = torch.optim.AdamW(groups_of(1e-2))
        return optimizer, chained(optimizer, "MultiStepLR", True)

    optimizer, scheduler = make()
    rates_of(optimizer, scheduler, 5)  # saved right after a milestone
    resumed = make()
    states = [(resumed[0], optimizer.state_dict()), (resumed[1], scheduler.state_dict())]
    for target, state in states if order == "optimizer first" else reversed(states):
        target.load_state_dict(copy.deepcopy(state))
    np.testing.assert_allclose(rates_of(*resumed, 10), (PLANNED[:, None] * factors("MultiStepLR", 20))[5:15], rtol=1e-6)


def test_a_factor_outlives_a_rate_of_zero():
    optimizer = torch.optim.SGD(groups_of(0.1))
    plan = Schedule(lambda step: np.where(step == 5, 0.0, 0.1), total_steps=20)
    other = lr_scheduler.MultiStepLR(optimizer, [3], gamma=0.1)
    rates = rates_of(optimizer, lr_scheduler.ChainedScheduler([as_lr_scheduler(optimizer, plan), other]), 9)
    np.testing.assert_allclose(rates[3:, 0], 0.1 * plan.table()[3:9, 0, 0], rtol=1e-6)


def test_a_second_schedule_starts_from_its_own_first_rate():
    """Made in place of one that has not run, or for a second phase of the training."""
    optimizer = torch.optim.SGD(groups_of(0.1), momentum=0.9)
    for steps_before in (0, 7):
        rates_of(optimizer, as_lr_scheduler(optimizer, one_cycle(0.1, 10)), steps_before)
        as_lr_scheduler(optimizer, PLAN)
        assert optimizer.param_groups[0]["lr"] == PLANNED[0]


def test_a_phase_after_another_scheduler_starts_from_its_own_first_rate():
    optimizer = torch.optim.SGD(groups_of(0.1))
    rates_of(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 5), 5)
    as_lr_scheduler(optimizer, PLAN)
    assert optimizer.param_groups[0]["lr"] == PLANNED[0]


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("then", [PLAN, one_cycle(0.01, 20, momentum=None)])
def test_a_sequence_of_warm_up_and_schedule(then):
    optimizer = torch.optim.SGD(groups_of(1e-2, 1e-3))
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    sequence = lr_scheduler.SequentialLR(optimizer, [warm_up, as_lr_scheduler(optimizer, then)], milestones=[5])
    rates = rates_of(optimizer, sequence, 15)
    expected = np.concatenate([1e-2 * (0.1 + 0.9 * np.arange(5) / 5), then.table()[:10, 0, 0]])
    np.testing.assert_allclose(rates, expected[:, None] * [1.0, 0.1], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_group_that_is_added_before_the_schedule_begins_keeps_its_ratio():
    optimizer = torch.optim.SGD(groups_of(1e-2))
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    sequence = lr_scheduler.SequentialLR(optimizer, [warm_up, as_lr_scheduler(optimizer, PLAN)], milestones=[5])
    rates_of(optimizer, sequence, 2)
    optimizer.add_param_group(*groups_of(1e-3, initial_lr=1e-3))  # the warm-up changes lr before the schedule sees it
    rates_of(optimizer, sequence, 3)
    np.testing.assert_allclose(rates_of(optimizer, sequence, 5), PLANNED[:5, None] * [1.0, 0.1], rtol=1e-12)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_sequence_of_two_schedules():
    optimizer = torch.optim.SGD(groups_of(1e-2))
    plans = [one_cycle(0.01, 6, momentum=None), PLAN]
    pair = [as_lr_scheduler(optimizer, plan) for plan in plans]
    rates = rates_of(optimizer, lr_scheduler.SequentialLR(optimizer, pair, milestones=[6]), 15)
    np.testing.assert_array_equal(rates[:, 0], np.concatenate([plans[0].table()[:, 0, 0], PLANNED[:9]]))


def test_last_epoch_continues_like_torchs_schedulers():
    optimizer = torch.optim.AdamW(groups_of(1e-2, 1e-3))
    rates_of(optimizer, as_lr_scheduler(optimizer, PLAN), 6)
    resumed = torch.optim.AdamW(groups_of(1e-2, 1e-3))
    resumed.load_state_dict(optimizer.state_dict())
    scheduler = as_lr_scheduler(resumed, PLAN, last_epoch=5)
    assert scheduler.last_epoch == 6
    np.testing.assert_allclose(rates_of(resumed, scheduler, 8), PLANNED[6:14, None] * [1.0, 0.1], rtol=1e-12)


def test_last_epoch_needs_the_initial_rates():
    with pytest.raises(KeyError, match="initial_lr"):
        as_lr_scheduler(torch.optim.SGD(groups_of(0.1)), PLAN, last_epoch=5)


# --- following an optimizer with a schedule of its own -------------------------------------------------------------


def scheduled():
    optimizer = clrfast.SGD(groups_of(0.1), schedule=PLAN)
    return optimizer, as_lr_scheduler(optimizer)


def test_a_scheduler_without_a_schedule_follows_the_optimizers():
    optimizer, scheduler = scheduled()
    assert isinstance(scheduler, LRScheduler)
    for step in range(12):
        assert scheduler.get_last_lr() == [PLANNED[step]]
        assert scheduler.last_epoch == step
        rates_of(optimizer, scheduler, 1)


def test_following_changes_nothing():
    optimizer, scheduler = scheduled()
    alone = clrfast.SGD(groups_of(0.1), schedule=PLAN)
    for step in range(12):
        for each in (optimizer, alone):
            give_grads(each.param_groups[0]["params"], step)
            each.step()
        for _ in range(3):
            scheduler.step()
        ours, theirs = ({**each.param_groups[0], "params": None} for each in (optimizer, alone))
        assert ours == theirs
    assert_same(optimizer.param_groups[0]["params"], alone.param_groups[0]["params"])


def test_following_continues_from_a_checkpoint():
    optimizer, scheduler = scheduled()
    rates_of(optimizer, scheduler, 6)
    file = io.BytesIO()
    torch.save((optimizer.state_dict(), scheduler.state_dict()), file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    resumed, following = scheduled()
    resumed.load_state_dict(states[0])
    following.load_state_dict(states[1])
    assert (following.last_epoch, following.get_last_lr()) == (6, [PLANNED[6]])
    assert rates_of(resumed, following, 6).tolist() == PLANNED[6:12, None].tolist()


def test_what_cannot_be_followed_is_an_error():
    for optimizer in (torch.optim.SGD(groups_of(0.1)), clrfast.SGD(groups_of(0.1))):
        with pytest.raises(ValueError, match="follows no schedule of its own"):
            as_lr_scheduler(optimizer)
    with pytest.raises(ValueError, match=r"lacks \['_step_count'"):
        scheduled()[1].load_state_dict({})
    with pytest.raises(ValueError, match="last_epoch: got 3 without a schedule"):
        as_lr_scheduler(scheduled()[0], last_epoch=3)
