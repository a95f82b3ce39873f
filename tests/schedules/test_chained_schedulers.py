"""ScheduleLR together with torch's schedulers, in chains and sequences."""

import copy

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from clrfast.schedules import (
    Schedule,
    as_lr_scheduler,
    one_cycle,
)
from tests.helpers.schedulers import PLAN, PLANNED, groups_of, rates_of

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
def test_the_factor_of_a_chained_scheduler_multiplies_the_rate(other, adapter_first, as_tensor):
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


def test_a_factor_survives_a_rate_of_zero():
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
def test_a_schedule_follows_a_warm_up_in_a_sequence(then):
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
def test_two_schedules_follow_each_other_in_a_sequence():
    optimizer = torch.optim.SGD(groups_of(1e-2))
    plans = [one_cycle(0.01, 6, momentum=None), PLAN]
    pair = [as_lr_scheduler(optimizer, plan) for plan in plans]
    rates = rates_of(optimizer, lr_scheduler.SequentialLR(optimizer, pair, milestones=[6]), 15)
    np.testing.assert_array_equal(rates[:, 0], np.concatenate([plans[0].table()[:, 0, 0], PLANNED[:9]]))


def test_last_epoch_continues_as_with_torchs_schedulers():
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
