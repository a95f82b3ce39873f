"""Warnings about a schedule that is not used as planned: past its end, in the wrong unit, cut, or over given values."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from functools import singledispatch
from types import FrameType

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from ._composition import Clipped, Joined, Repeated, Scaled, Shifted, Stretched
from ._curves import Curve
from ._cycles import Triangular
from ._decay_curves import CosineRestarts
from ._schedule import Schedule
from ._table import QUANTITIES

MIN_UPDATES_PER_EPOCH = 6
"""Minimum number of updates between two scheduler steps that count as an epoch; a WGAN's critic makes 5 per step."""

ROUNDING_STEPS = 1e-6
"""Tolerance of the end of a cycle whose length is not a whole number, in steps."""


def warn_user(text: str) -> None:
    """Warn at the innermost line of code outside of torch and this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("clrfast", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level + 1)


def warn_past_end(total_steps: int) -> None:
    """Warn that the run continues past the ``total_steps`` of its schedule."""
    warn_user(
        f"the schedule has ended: its total_steps are {total_steps}; the run continues with the last step's values. "
        "Plan as many steps as the run makes, or give schedule.extended_to(n). With Accelerate, a prepared scheduler "
        "makes one step per process and update"
    )


def report_past_end(total_steps: int, step: int) -> bool:
    """Warn or raise because a scheduler made more steps than its schedule has, and return whether it did.

    Accelerate's own number of steps, the batches of all processes, is too small by some steps per epoch where they
    cannot be divided evenly. This raises no warning.

    Args:
        step: number of steps so far, above ``total_steps``.
    Raises:
        RuntimeError: Accelerate makes a step per process and update, and ``total_steps`` counts the updates.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != "accelerate.scheduler":
        frame = frame.f_back
    n_processes = 1 if frame is None else frame.f_locals.get("num_processes", 1)
    if frame is None or n_processes == 1:
        warn_past_end(total_steps)
        return True
    gradients = frame.f_locals["self"].gradient_state
    try:
        n_batches = len(gradients.active_dataloader)
    except TypeError:  # no prepared loader, or none with a length
        warn_past_end(total_steps)
        return True
    made = n_processes * math.ceil(n_batches / gradients.num_steps)
    fewest_planned = max(((n_batches - 1) * n_processes + 1) // gradients.num_steps, 1)
    if step <= total_steps * made / fewest_planned:
        return False
    raise RuntimeError(
        f"the schedule has ended long before the run: its total_steps are {total_steps}, and the scheduler that "
        f"Accelerate has prepared makes {n_processes} steps per update, one per process. Use "
        "clrfast.integrations.accelerate.OneCycle; or as_lr_scheduler(..., follow_updates=True), which makes one step "
        f"per update; or a schedule of {n_processes} times as many steps. A run that is to go on at the last values "
        "needs schedule.extended_to(n)"
    )


def warn_cut_cycle(schedule: Schedule) -> None:
    """Warn if the end of ``schedule`` cuts a cycle of its rate."""
    total_steps = schedule.total_steps
    curves = schedule.lr if isinstance(schedule.lr, tuple) else (schedule.lr,)
    if total_steps is None or all(ends_with_a_cycle(curve, total_steps) for curve in curves):
        return
    warn_user(
        f"the schedule ends in mid-cycle after total_steps={total_steps}: a model is best at the end of a cycle. "
        "Choose total_steps as a whole number of cycles, or another length of the cycle"
    )


def chosen_weight_decays(optimizer: Optimizer) -> list[float | None]:
    """Return each group's weight decay; None for the default, which the caller probably did not choose.

    A 0 counts as chosen only beside groups that decay.
    """
    option = inspect.signature(type(optimizer)).parameters.get("weight_decay")
    if option is None:
        return [None] * len(optimizer.param_groups)
    decays = [float(group["weight_decay"]) for group in optimizer.param_groups]
    return [decay if (decay != option.default if decay else any(decays)) else None for decay in decays]


def warn_of_other_decay(given: list[float | None], table: NDArray[np.float32]) -> None:
    """Warn of weight decays that the caller gave and that the schedule's own curves replace by others.

    Args:
        given: of each group; None if the caller gave none.
        table: weight decays of the schedule, float32 ``[total_steps, n_groups]``.
    """
    for decay, own in zip(given, table.T, strict=True):
        if decay is not None and np.float32(decay) not in (own[0], own.max()):
            curve = f"{own[0]:g}" if (own == own[0]).all() else f"from {own[0]:g} to {own[-1]:g}"
            warn_user(
                f"weight_decay: got {decay:g}, which the schedule's own ({curve}) replaces; leave out one of them, or "
                "give the schedule one weight_decay for each group"
            )
            return


def describe_differences(saved: Schedule, here: Schedule) -> str:
    """Describe how the tables of two schedules differ up to the end of the shorter one; empty if they do not."""
    tables = [schedule.table() for schedule in (saved, here)]
    lengths, groups = zip(*(table.shape[:2] for table in tables), strict=True)
    if groups[0] != groups[1] and 1 not in groups:
        return f"{groups[0]} groups saved, {groups[1]} here"
    found = []
    for column, name in enumerate(QUANTITIES):
        has_curve = [getattr(schedule, name) is not None for schedule in (saved, here)]
        if not all(has_curve):
            if any(has_curve):
                was, now = ("a curve" if has else "none, so that of the groups" for has in has_curve)
                found.append(f"{name}: {was} saved, {now} here")
            continue
        theirs, own = (table[: min(lengths), :, column] for table in tables)
        differ = np.flatnonzero((theirs != own).any(axis=1))
        if len(differ) and (theirs == theirs[0, 0]).all() and (own == own[0, 0]).all():
            found.append(f"{name} {theirs[0, 0]:g} saved, {own[0, 0]:g} here")
        elif len(differ):
            found.append(f"{name} first at step {differ[0]}")
    if lengths[0] > lengths[1] or (found and lengths[0] != lengths[1]):
        found.insert(0, f"total_steps {lengths[0]} saved, {lengths[1]} here")
    return "; ".join(found)


class EpochStepDetector:
    """Detects a scheduler that makes one step per epoch although its unit is the update.

    It looks for two intervals of at least ``MIN_UPDATES_PER_EPOCH`` updates each, or one as long as the schedule, after
    a run of one epoch. A schedule shorter than the intervals together cannot count updates, so it raises no warning.

    Args:
        total_steps: length of the schedule.
    """

    def __init__(self, total_steps: int):
        self._total_steps = total_steps
        self._intervals: list[int] = []
        self._updates = 0

    @property
    def done(self) -> bool:
        """Whether the intervals have been counted, so that the detector has nothing left to do."""
        return len(self._intervals) == 2 or self._intervals == [self._total_steps]

    def count_update(self) -> None:
        """Count an update of the optimizer."""
        self._updates += 1

    def end_interval(self) -> None:
        """Count a step of the scheduler, and warn if two steps were an epoch each."""
        self._intervals.append(self._updates)
        self._updates = 0
        if self.done and min(self._intervals) >= MIN_UPDATES_PER_EPOCH and sum(self._intervals) <= self._total_steps:
            counts = " and ".join(map(str, self._intervals))
            warn_user(
                f"scheduler.step() was called after {counts} optimizer steps, but the unit of the schedule is the "
                f"optimizer step (total_steps={self._total_steps}): call it after every optimizer.step(), not once per "
                'epoch; for Lightning, return {"scheduler": scheduler, "interval": "step"}. If a scheduler step is '
                "meant to cover several updates, ignore this"
            )


@singledispatch
def ends_with_a_cycle(curve: Curve, end: float, step: float = 1.0) -> bool:
    """Return whether ``end`` cuts no cycle of ``curve``; True for a curve without cycles.

    Args:
        end: number of steps, in the curve's own unit.
        step: length of an optimizer step in that unit. It is the tolerance: the last step of a cycle may be missing,
            and the first of the next one, which has the lowest value, may be present.
    """
    return True


@ends_with_a_cycle.register
def _(curve: Triangular, end: float, step: float = 1.0) -> bool:
    length = curve.up_steps + curve.down_steps
    return abs(end - round(end / length) * length) <= step * (1 + ROUNDING_STEPS)


@ends_with_a_cycle.register
def _(curve: CosineRestarts, end: float, step: float = 1.0) -> bool:
    boundary, length = 0, curve.period_steps
    while boundary < end - ROUNDING_STEPS * step:
        boundary, length = boundary + length, length * curve.period_mult
    return boundary - end < step


@ends_with_a_cycle.register
def _(curve: Repeated, end: float, step: float = 1.0) -> bool:
    periods = math.ceil((end - ROUNDING_STEPS * step) / curve.period_steps)
    return periods * curve.period_steps - end < step


@ends_with_a_cycle.register
def _(curve: Joined, end: float, step: float = 1.0) -> bool:
    starts = (0.0, *curve.boundaries)
    last = max(index for index, start in enumerate(starts) if start < end)
    return ends_with_a_cycle(curve.curves[last], end - starts[last], step)


@ends_with_a_cycle.register
def _(curve: Shifted, end: float, step: float = 1.0) -> bool:
    return end <= curve.by_steps or ends_with_a_cycle(curve.curve, end - curve.by_steps, step)


@ends_with_a_cycle.register
def _(curve: Stretched, end: float, step: float = 1.0) -> bool:
    return ends_with_a_cycle(curve.curve, end / curve.factor, step / curve.factor)


@ends_with_a_cycle.register(Scaled)
@ends_with_a_cycle.register(Clipped)
def _(curve: Scaled | Clipped, end: float, step: float = 1.0) -> bool:
    return ends_with_a_cycle(curve.curve, end, step)
