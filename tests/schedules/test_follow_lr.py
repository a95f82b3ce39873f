"""FollowLR: an optimizer with its own schedule, for frameworks that require a scheduler."""

import io

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

import clrfast
from clrfast.schedules import (
    as_lr_scheduler,
)
from tests.helpers.optimizers import assert_same, give_grads
from tests.helpers.schedulers import PLAN, PLANNED, groups_of, rates_of


def scheduled(kind=clrfast.SGD):
    optimizer = kind(groups_of(0.1), schedule=PLAN)
    return optimizer, as_lr_scheduler(optimizer)


@pytest.mark.parametrize("kind", [clrfast.SGD, clrfast.Adam, clrfast.AdamW])
def test_a_scheduler_without_a_schedule_reports_the_optimizers(kind):
    optimizer, scheduler = scheduled(kind)
    assert isinstance(scheduler, LRScheduler)
    for step in range(12):
        assert scheduler.get_last_lr() == [PLANNED[step]]
        assert scheduler.last_epoch == step
        rates_of(optimizer, scheduler, 1)


def test_steps_of_follow_lr_change_nothing():
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


def test_follow_lr_continues_from_a_checkpoint():
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


def test_an_optimizer_without_a_schedule_cannot_be_followed():
    for optimizer in (torch.optim.SGD(groups_of(0.1)), clrfast.SGD(groups_of(0.1))):
        with pytest.raises(ValueError, match="follows no schedule of its own"):
            as_lr_scheduler(optimizer)
    with pytest.raises(ValueError, match=r"lacks \['_step_count'"):
        scheduled()[1].load_state_dict({})
    with pytest.raises(ValueError, match="last_epoch: got 3 without a schedule"):
        as_lr_scheduler(scheduled()[0], last_epoch=3)
