"""Any optimizer follows a schedule, by one row per applied update, whoever calls the scheduler and how often."""

from functools import partial

import pytest
import torch
from torch import nn

import clrfast
from clrfast.integrations._follow import follow, make_schedule, require_search_keywords

STEPS = 6


OPTIMIZERS = {
    "clrfast.SGD": partial(clrfast.SGD, lr=0.1, momentum=0.9),
    "clrfast.AdamW": partial(clrfast.AdamW, lr=0.1),
    "torch SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "torch AdamW": partial(torch.optim.AdamW, lr=0.1),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def groups():
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    return [{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.025, "lr_scale": 0.5}]


def step(optimizer, scheduler, calls=1):
    """Make an update, with ``calls`` calls of the scheduler after it; return the rates that the update used."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.ones_like(param)
    optimizer.step()
    for _ in range(calls):
        scheduler.step()
    return rates


@every_optimizer
@pytest.mark.parametrize("calls", [1, 2])
def test_each_update_uses_the_next_row_and_groups_keep_their_ratios(make, calls):
    optimizer = make(groups())
    scheduler = follow(optimizer, clrfast.one_cycle(1.0, STEPS))
    wanted = clrfast.one_cycle(1.0, STEPS).table()[:, 0, 0]
    for lr in wanted:
        assert step(optimizer, scheduler, calls) == pytest.approx([lr, lr / 8], rel=1e-6)


@every_optimizer
def test_calls_without_an_update_do_not_move_the_schedule(make):
    optimizer = make(groups())
    scheduler = follow(optimizer, clrfast.one_cycle(1.0, STEPS))
    first = step(optimizer, scheduler)
    second = [group["lr"] for group in optimizer.param_groups]
    for _ in range(3):
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == second != first


def test_an_optimizer_without_momentum_gets_a_schedule_without_it():
    optimizer = torch.optim.Adagrad(groups(), lr=0.1)
    schedule = make_schedule(clrfast.one_cycle, 0.5, STEPS, optimizer)
    assert schedule.momentum is None
    assert schedule.lr == clrfast.one_cycle(0.5, STEPS).lr
    follow(optimizer, schedule)


@every_optimizer
def test_an_optimizer_with_momentum_keeps_the_schedules(make):
    assert make_schedule(clrfast.one_cycle, 0.5, STEPS, make(groups())) == clrfast.one_cycle(0.5, STEPS)


def test_a_policy_that_makes_no_schedule_is_refused():
    with pytest.raises(ValueError, match=r"policy: it returned float; return a clrfast\.Schedule"):
        make_schedule(lambda max_lr, total_steps: max_lr, 0.5, STEPS, torch.optim.Adam(groups()))


def test_an_unknown_keyword_of_a_search_is_refused_also_where_none_is_made():
    require_search_keywords({"steps": 20, "accumulate": 2}, "OneCycle")
    with pytest.raises(TypeError, match="max_lrs: OneCycle has no such argument; leave it out, or give one of"):
        require_search_keywords({"max_lrs": 0.1}, "OneCycle")
    with pytest.raises(ValueError, match="accumulate: got 0"):
        require_search_keywords({"accumulate": 0}, "OneCycle")
