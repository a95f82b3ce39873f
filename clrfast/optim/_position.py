"""Where a scheduled run stands, in the parameter groups: what checkpoint tools carry is ``state`` and ``param_groups``.

Each group of a scheduled optimizer has two entries beside torch's own: "schedule", the dict form of the group's curves,
and "schedule_step", the number of applied updates. Whoever writes another number there moves the schedule.
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
    """Put ``schedule``, which has a curve for each group, into the groups."""
    for index, group in enumerate(param_groups):
        group[SCHEDULE] = schedule.group(index).to_dict()


def schedule_of(group: Mapping[str, Any]) -> Schedule | None:
    """The schedule in one group; None if there is none."""
    return None if group.get(SCHEDULE) is None else Schedule.from_dict(group[SCHEDULE])


def written_step(param_groups: Sequence[Mapping[str, Any]]) -> int | None:
    """The step that the groups show; None where none shows one.

    Raises:
        RuntimeError: one of them shows no whole number, or they show different ones.
    """
    steps = {_whole(index, group[STEP]) for index, group in enumerate(param_groups) if group.get(STEP) is not None}
    if len(steps) > 1:
        raise RuntimeError(
            f"param_groups: their {STEP!r} are {sorted(steps)}; all groups follow one schedule, so write one number "
            "into all of them"
        )
    return steps.pop() if steps else None


def _whole(index: int, step: Any) -> int:
    number = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    if not is_whole(number) or number < 0:
        raise RuntimeError(
            f"param_groups[{index}][{STEP!r}]: got {step!r}; it is the number of applied updates, at least 0"
        )
    return int(number)


def saved_run(state_dict: Mapping[str, Any]) -> tuple[Schedule, dict[str, Any]] | None:
    """The schedule and the progress that a ``state_dict`` holds; None if it is of an optimizer without a schedule.

    Raises:
        ValueError: the schedule in it is none.
    """
    ours, groups = state_dict.get("clrfast"), state_dict["param_groups"]
    if ours is not None:
        step = written_step(groups)  # what somebody may have written, or None in a state of before it was there
        return Schedule.from_dict(ours["schedule"]), {**ours["progress"], **({} if step is None else {"step": step})}
    schedules = [schedule for group in groups if (schedule := schedule_of(group)) is not None]
    if not schedules or len(schedules) < len(groups):
        return None
    return Schedule.from_groups(schedules), {"step": written_step(groups) or 0}
