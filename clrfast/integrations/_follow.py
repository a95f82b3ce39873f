"""What the adapters share: they make any optimizer follow a schedule, by one row per applied update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from ..finder._range_test import RangeTestKeywords
from ..optim import FusedOptimizer
from ..schedules import FollowLR, Schedule, ScheduleLR
from ..schedules._group_values import base_rates_of
from ..training._step_options import resolve_options

Policy = Callable[[float, int], Schedule]
"""``policy(max_lr, total_steps) -> schedule``, for example ``clrfast.one_cycle``."""


def make_schedule(policy: Policy, max_lr: float, total_steps: int, optimizer: Optimizer) -> Schedule:
    """Make the schedule of a run; the momentum of an optimizer that has none is left out.

    Args:
        policy: makes the schedule.
        max_lr: the highest rate, > 0.
        total_steps: number of optimizer updates of the run, at least 1.
    Raises:
        ValueError: ``policy`` returns something other than a ``Schedule``, or refuses its arguments.
    """
    schedule = policy(max_lr, total_steps)
    if not isinstance(schedule, Schedule):
        raise ValueError(f"policy: it returned {type(schedule).__name__}; return a clrfast.Schedule")
    if not all("momentum" in group or "betas" in group for group in optimizer.param_groups):
        schedule = dataclasses.replace(schedule, momentum=None)
    return schedule


def follow(optimizer: Optimizer, schedule: Schedule) -> ScheduleLR | FollowLR:
    """Make ``optimizer`` follow ``schedule`` from step 0, and return the scheduler to give to the framework.

    An optimizer of clrfast follows the schedule on its device, and the scheduler only reports the rate. Any other one
    is driven by the scheduler, which ignores the calls of ``step()`` that come without an update: skipped by a scaler,
    or repeated for each process. In both cases the groups keep the ratios of their rates.

    Raises:
        ValueError: the schedule has no ``total_steps``, or does not fit the parameter groups.
    """
    if not isinstance(optimizer, FusedOptimizer):
        return ScheduleLR(optimizer, schedule, follow_updates=True)
    rates = set(base_rates_of(optimizer.param_groups))
    if len(rates) > 1 and not isinstance(schedule.lr, tuple):
        schedule = schedule.for_groups(optimizer.param_groups)
    optimizer.set_schedule(schedule)
    return FollowLR(optimizer)


def require_search_keywords(keywords: Mapping[str, Any], function: str) -> None:
    """Check keyword arguments of ``clrfast.range_test`` before a search, or without one.

    Args:
        keywords: as the caller of ``function`` gave them.
        function: name of the called function, for messages.
    Raises:
        TypeError: ``range_test`` has no such argument.
        ValueError: an option of the step is wrong.
    """
    resolve_options(keywords.get("options"), keywords, function, RangeTestKeywords.__optional_keys__)
