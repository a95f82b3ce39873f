"""Where a scheduled run stands, in the parameter groups: what checkpoint tools carry is ``state`` and ``param_groups``.

Each group of a scheduled optimizer has two entries beside torch's own: "schedule", the dict form of the group's curves,
and "schedule_step", the number of applied updates. Whoever writes another number there moves the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..schedules import Schedule

SCHEDULE, STEP = "schedule", "schedule_step"
KEYS = (SCHEDULE, STEP)


def write_schedule(param_groups: Sequence[dict[str, Any]], schedule: Schedule) -> None:
    """Put ``schedule``, which has a curve for each group, into the groups."""
    for index, group in enumerate(param_groups):
        group[SCHEDULE] = schedule.of_group(index).to_dict()


def schedule_of(group: Mapping[str, Any]) -> Schedule | None:
    """The schedule in one group; None if there is none."""
    return None if group.get(SCHEDULE) is None else Schedule.from_dict(group[SCHEDULE])


def written_step(param_groups: Sequence[Mapping[str, Any]]) -> int | None:
    """The step that the groups show; None where the first one shows none.

    Raises:
        RuntimeError: they show different ones.
    """
    steps = {int(group[STEP]) for group in param_groups if group.get(STEP) is not None}
    if len(steps) > 1:
        raise RuntimeError(
            f"param_groups: their {STEP!r} are {sorted(steps)}; all groups follow one schedule, so write one number "
            "into all of them"
        )
    return steps.pop() if steps else None


def saved_run(state_dict: Mapping[str, Any]) -> tuple[Schedule, dict[str, Any]] | None:
    """The schedule and the progress that a ``state_dict`` holds; None if it is of an optimizer without a schedule.

    Raises:
        ValueError: the schedule in it is none.
    """
    ours = state_dict.get("clrfast")
    if ours is not None:
        return Schedule.from_dict(ours["schedule"]), ours["progress"]
    groups = state_dict["param_groups"]
    schedules = [schedule for group in groups if (schedule := schedule_of(group)) is not None]
    if not schedules or len(schedules) < len(groups):
        return None
    return Schedule.of_groups(schedules), {"step": written_step(groups) or 0}
