"""Warnings about a schedule that is not followed as it was planned: past its end, in the wrong unit, in mid-cycle."""

from __future__ import annotations

import math
import sys
import warnings
from functools import singledispatch

from ._annealing import CosineRestarts
from ._composition import Clipped, Joined, Repeated, Scaled, Shifted, Stretched
from ._curves import Curve
from ._cycles import Triangular
from ._schedule import Schedule

UPDATES_OF_AN_EPOCH = 6
"""Fewest updates between two scheduler steps that are taken for an epoch: the critic of a WGAN is given 5."""

ROUNDING = 1e-6
"""Steps by which the end of a cycle may be off because its length is no whole number."""


def warn_user(text: str) -> None:
    """Warn at the innermost line that is neither torch's nor this package's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("clrfast", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level + 1)


def warn_past_end(total_steps: int) -> None:
    """Say that a schedule of ``total_steps`` steps has ended and the run goes on."""
    warn_user(
        f"the schedule has ended: its total_steps are {total_steps}, and the run goes on at the last step's values. "
        "Plan as many steps as the run makes, or give schedule.extended_to(n). With Accelerate, a prepared scheduler "
        "makes one step per process and update"
    )


def warn_of_open_cycle(schedule: Schedule) -> None:
    """Warn if a cyclical rate of ``schedule`` is in mid-cycle at its end."""
    total_steps = schedule.total_steps
    curves = schedule.lr if isinstance(schedule.lr, tuple) else (schedule.lr,)
    if total_steps is None or all(ends_whole(curve, total_steps) for curve in curves):
        return
    warn_user(
        f"the schedule ends in mid-cycle after total_steps={total_steps}: a model is best at the end of a cycle. "
        "Choose total_steps as a whole number of cycles, or another length of the cycle"
    )


class UnitWatch:
    """Notices a scheduler that makes one step per epoch although its unit is the update.

    A step per epoch shows as two intervals of at least ``UPDATES_OF_AN_EPOCH`` updates, within the planned length. A
    schedule that is shorter than these two intervals cannot count updates, so it is not suspected.

    Args:
        total_steps: of the schedule.
    """

    def __init__(self, total_steps: int):
        self._total_steps = total_steps
        self._intervals: list[int] = []
        self._updates = 0

    @property
    def done(self) -> bool:
        """Whether two intervals are known, after which nothing more is counted."""
        return len(self._intervals) == 2

    def count_update(self) -> None:
        """The optimizer has made an update."""
        self._updates += 1

    def end_interval(self) -> None:
        """The scheduler makes a step; warns if two steps have shown that they are epochs."""
        self._intervals.append(self._updates)
        self._updates = 0
        if self.done and min(self._intervals) >= UPDATES_OF_AN_EPOCH and sum(self._intervals) <= self._total_steps:
            warn_user(
                f"scheduler.step() was called after {self._intervals[0]} and {self._intervals[1]} optimizer steps, but "
                f"the unit of the schedule is the optimizer step (total_steps={self._total_steps}): call it after "
                "every optimizer.step(), not once per epoch. If a scheduler step is meant to cover several updates, "
                "ignore this"
            )


@singledispatch
def ends_whole(curve: Curve, end: float, step: float = 1.0) -> bool:
    """Whether no cycle of ``curve`` is cut short at ``end``; always so for a curve without cycles.

    Args:
        end: number of steps, in the curve's own unit.
        step: length of an optimizer step in that unit, the tolerance: the last step before the end of a cycle may be
            missing, and the first one of the next cycle may be there where it has the lowest value.
    """
    return True


@ends_whole.register
def _(curve: Triangular, end: float, step: float = 1.0) -> bool:
    length = curve.up_steps + curve.down_steps
    return abs(end - round(end / length) * length) <= step * (1 + ROUNDING)


@ends_whole.register
def _(curve: CosineRestarts, end: float, step: float = 1.0) -> bool:
    boundary, length = 0, curve.period_steps
    while boundary < end - ROUNDING * step:
        boundary, length = boundary + length, length * curve.period_mult
    return boundary - end < step


@ends_whole.register
def _(curve: Repeated, end: float, step: float = 1.0) -> bool:
    periods = math.ceil((end - ROUNDING * step) / curve.period_steps)
    return periods * curve.period_steps - end < step


@ends_whole.register
def _(curve: Joined, end: float, step: float = 1.0) -> bool:
    starts = (0.0, *curve.boundaries)
    last = max(index for index, start in enumerate(starts) if start < end)
    return ends_whole(curve.curves[last], end - starts[last], step)


@ends_whole.register
def _(curve: Shifted, end: float, step: float = 1.0) -> bool:
    return end <= curve.by_steps or ends_whole(curve.curve, end - curve.by_steps, step)


@ends_whole.register
def _(curve: Stretched, end: float, step: float = 1.0) -> bool:
    return ends_whole(curve.curve, end / curve.factor, step / curve.factor)


@ends_whole.register(Scaled)
@ends_whole.register(Clipped)
def _(curve: Scaled | Clipped, end: float, step: float = 1.0) -> bool:
    return ends_whole(curve.curve, end, step)
