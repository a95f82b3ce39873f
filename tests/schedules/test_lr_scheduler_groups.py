"""ScheduleLR: ratios between parameter groups."""

import numpy as np
import pytest
import torch

import clrfast
from clrfast.schedules import (
    Linear,
    Schedule,
    as_lr_scheduler,
    one_cycle,
)
from tests.helpers.optimizers import make_params
from tests.helpers.schedulers import PLAN, PLANNED, groups_of, rates_of


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, clrfast.SGD])
def test_groups_keep_the_ratios_of_their_rates(make):
    optimizer = make(groups_of(1e-3, 1e-2, 0.0))
    rates = rates_of(optimizer, as_lr_scheduler(optimizer, PLAN), 12)
    np.testing.assert_allclose(rates, PLANNED[:12, None] * [0.1, 1.0, 0.0], rtol=1e-12)


def test_groups_with_tensor_rates_keep_their_ratios():
    optimizer = torch.optim.AdamW(groups_of(torch.tensor(1e-3), torch.tensor(1e-2)))
    rates = rates_of(optimizer, as_lr_scheduler(optimizer, PLAN), 12)
    np.testing.assert_allclose(rates, PLANNED[:12, None] * [0.1, 1.0], rtol=1e-6)


def test_one_curve_per_group_has_no_ratio():
    optimizer = torch.optim.AdamW(groups_of(1e-3, 1e-2))
    rates = rates_of(optimizer, as_lr_scheduler(optimizer, Schedule([0.5, 0.25], total_steps=3)), 3)
    assert rates.tolist() == [[0.5, 0.25]] * 3


def test_one_momentum_serves_groups_with_curves_of_their_own():
    optimizer = torch.optim.SGD(groups_of(1e-3, 1e-2), momentum=0.5)
    as_lr_scheduler(optimizer, one_cycle(0.1, 10).for_groups(optimizer.param_groups))
    assert [group["momentum"] for group in optimizer.param_groups] == pytest.approx([0.95, 0.95])


def test_timms_lr_scale_is_a_factor_of_its_group():
    optimizer = torch.optim.AdamW([*groups_of(1e-2, lr_scale=0.25), *groups_of(1e-2)])
    rates = rates_of(optimizer, as_lr_scheduler(optimizer, PLAN), 12)
    np.testing.assert_allclose(rates, PLANNED[:12, None] * [0.25, 1.0], rtol=1e-12)


def test_an_added_group_keeps_its_ratio_to_the_initial_rates():
    """Not to the rates of the schedule at that step."""
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


def test_groups_that_replace_all_others_have_ratios_to_each_other():
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
def test_one_momentum_in_place_of_different_ones_warns(make, own):
    optimizer = make([*groups_of(0.1), *groups_of(0.1, **own)])
    with pytest.warns(UserWarning, match="own momentum"):
        as_lr_scheduler(optimizer, one_cycle(0.1, 10))
    as_lr_scheduler(optimizer, one_cycle(0.1, 10, momentum=None))
    as_lr_scheduler(make([*groups_of(0.1, **own), *groups_of(0.1, **own)]), one_cycle(0.1, 10))
