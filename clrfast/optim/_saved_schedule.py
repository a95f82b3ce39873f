"""The schedule and its step in the parameter groups and in a ``state_dict``.

Checkpoint tools save ``state`` and ``param_groups``, so a run must be able to continue from these. Each group of a
scheduled optimizer has two entries besides torch's own: "schedule", the dict form of the group's curves, and
"schedule_step", the number of applied updates. Writing another number there moves the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .._checks import is_whole
from ..schedules import Schedule

SCHEDULE, STEP = "schedule", "schedule_step"
KEYS = (SCHEDULE, STEP)


def write_schedule(param_groups: Sequence[dict[str, Any]], schedule: Schedule) -> None:
    """Write ``schedule``, which has one curve per group, into the groups."""
    for index, group in enumerate(param_groups):
        group[SCHEDULE] = schedule.group(index).to_dict()


def schedule_of(group: Mapping[str, Any]) -> Schedule | None:
    """Return the schedule in one group; None if there is none."""
    return None if group.get(SCHEDULE) is None else Schedule.from_dict(group[SCHEDULE])


def written_step(param_groups: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the step in the groups; None if no group has one.

    Raises:
        RuntimeError: one of them is not a whole number, or they differ.
    """
    steps = {
        _whole_number(index, group[STEP]) for index, group in enumerate(param_groups) if group.get(STEP) is not None
    }
    if len(steps) > 1:
        raise RuntimeError(
            f"param_groups: their {STEP!r} are {sorted(steps)}; all groups follow one schedule, so write one number "
            "into all of them"
        )
    return steps.pop() if steps else None


def _whole_number(index: int, step: Any) -> int:
    number = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    if not is_whole(number) or number < 0:
        raise RuntimeError(
            f"param_groups[{index}][{STEP!r}]: got {step!r}; it is the number of applied updates, at least 0"
        )
    return int(number)


def saved_run(state_dict: Mapping[str, Any]) -> tuple[Schedule, dict[str, Any]] | None:
    """Return schedule and progress of a ``state_dict``; None if its optimizer had no schedule.

    Raises:
        ValueError: the schedule in it is invalid.
    """
    ours, groups = state_dict.get("clrfast"), state_dict["param_groups"]
    if ours is not None:
        step = written_step(groups)  # the user may have written it; None if the groups were saved without it
        return Schedule.from_dict(ours["schedule"]), {**ours["progress"], **({} if step is None else {"step": step})}
    schedules = [schedule for group in groups if (schedule := schedule_of(group)) is not None]
    if not schedules or len(schedules) < len(groups):
        return None
    return Schedule.from_groups(schedules), {"step": written_step(groups) or 0}
