"""Warnings about a schedule that is not used as planned."""

import copy
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import clrfast
from clrfast.schedules import (
    Cosine,
    Repeated,
    Schedule,
    Shifted,
    as_lr_scheduler,
    cosine_annealing,
    cosine_restarts,
    one_cycle,
    triangular,
)
from tests.helpers import schedulers
from tests.helpers.schedulers import PLAN, groups_of, rates_of


def warned(run):
    """Return the texts of the warnings in ``run()``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    assert all(each.filename in (__file__, schedulers.__file__) for each in caught)  # the line of the user's loop
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("follow_updates", [False, True])
def test_a_step_past_the_end_warns_once(follow_updates):
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, PLAN, follow_updates=follow_updates)
    assert warned(lambda: rates_of(optimizer, scheduler, 20)) == []
    (message,) = warned(lambda: rates_of(optimizer, scheduler, 30))
    assert message.startswith("the schedule has ended: its total_steps are 20")


def test_an_extended_schedule_continues_without_a_warning():
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, PLAN.extended_to(30))
    assert warned(lambda: rates_of(optimizer, scheduler, 30)) == []


@pytest.mark.parametrize(("total_steps", "n_warnings"), [(10, 1), (20, 0)])
def test_total_steps_that_forget_accelerates_processes_warn(total_steps, n_warnings):
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


ACCELERATED_SCHEDULER = """
def step(self, scheduler, num_processes):
    for _ in range(num_processes):
        scheduler.step()
"""


@pytest.mark.parametrize(
    ("planned", "n_processes", "batches_per_process", "accumulate", "ends_after"),
    [
        (4 * 13, 2, 7, 1, None),  # the batches of all processes, as Accelerate's documentation has it
        (4 * 14, 2, 7, 1, None),
        (4 * 13 // 2, 2, 7, 2, None),
        (4 * 1, 8, 1, 1, None),
        (4 * 7, 2, 7, 1, 16),  # the updates
        (4 * 20, 4, 20, 1, 21),
        (4 * 4, 2, 7, 2, 11),
    ],
)
def test_a_scheduler_that_accelerate_has_prepared_raises_if_its_total_steps_are_the_updates(
    planned, n_processes, batches_per_process, accumulate, ends_after
):
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, cosine_annealing(0.1, planned))
    gradients = SimpleNamespace(active_dataloader=range(batches_per_process), num_steps=accumulate)
    prepared, namespace = SimpleNamespace(gradient_state=gradients), {"__name__": "accelerate.scheduler"}
    exec(ACCELERATED_SCHEDULER, namespace)
    updates = []

    def run():
        for update in range(1, 4 * -(-batches_per_process // accumulate) + 1):
            updates.append(update)
            optimizer.step()
            namespace["step"](prepared, scheduler, n_processes)

    if ends_after is None:
        assert warned(run) == []
    else:
        with pytest.raises(RuntimeError, match=f"makes {n_processes} steps per update, one per process"):
            run()
        assert updates[-1] == ends_after


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
    (message,) = warned(lambda: train(optimizer, scheduler, [20] * 5))
    assert "call it after every optimizer.step(), not once per epoch" in message


def test_a_step_at_the_end_of_a_run_of_one_epoch_warns():
    """Lightning's default interval; the run has no second epoch that would tell."""
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, cosine_annealing(0.1, 20))
    (message,) = warned(lambda: train(optimizer, scheduler, [20]))
    assert "scheduler.step() was called after 20 optimizer steps" in message
    assert 'for Lightning, return {"scheduler": scheduler, "interval": "step"}' in message
    assert warned(lambda: train(optimizer, scheduler, [20])) == []


@pytest.mark.parametrize(
    ("total_steps", "updates_per_step"),
    [
        (100, [1] * 100),
        (1, [1]),
        (100, [1, 0, 1, 1, 0, 2, 1]),  # updates that GradScaler skips, and a closure of two
        (100, [30, *[1] * 50]),  # a first phase at the first rate
        (1000, [5] * 30),  # a GAN: five updates of the critic for one step
        (3, [20] * 3),  # a schedule that is made in epochs
    ],
)
def test_other_numbers_of_updates_do_not_count_as_epochs(total_steps, updates_per_step):
    optimizer = torch.optim.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, cosine_annealing(0.1, total_steps))
    assert warned(lambda: train(optimizer, scheduler, updates_per_step)) == []


def test_updates_are_counted_for_two_steps_only():
    """A hook on clrfast.SGD has its step take the slower way."""
    optimizer = clrfast.SGD(groups_of(0.1))
    scheduler = as_lr_scheduler(optimizer, PLAN)
    assert optimizer.has_hooks()
    train(optimizer, scheduler, [1, 1])
    assert not optimizer.has_hooks()
    assert not copy.deepcopy((optimizer, scheduler))[0].has_hooks()


def cycles(total_steps, step_size=10):
    return triangular(0.1, 1.0, total_steps, step_size=step_size)


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
        (triangular(0.1, 1.0, 50, step_size=10, amplitude=lambda cycle: 1.0 / (1.0 + cycle)), False),
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
def test_a_schedule_that_ends_in_mid_cycle_warns_when_it_is_made(schedule, is_whole):
    optimizer = torch.optim.SGD(groups_of(0.1), momentum=0.9)
    messages = warned(lambda: lr_scheduler_of(optimizer, schedule))
    assert [text[: text.index(" after")] for text in messages] == (
        [] if is_whole else ["the schedule ends in mid-cycle"]
    )


def lr_scheduler_of(optimizer, schedule):
    return clrfast.schedules.ScheduleLR(optimizer, schedule)
