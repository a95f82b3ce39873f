"""The ramps of a range test: their rates and their numbers of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from .._checks import is_whole
from ..schedules import Schedule, lr_ramp
from ..schedules._policies import Spacing

COARSE_STEPS, FINE_STEPS, SINGLE_STEPS = 38, 60, 98
"""Numbers of updates with ``steps="auto"``: of the coarse ramp, of the fine ramp, and of a single ramp. Coarse and fine
ramp together, with the loss after each, take the 100 batches of an ordinary range test; fewer where the loss diverges
early, and more where it does not diverge up to a rate of 10."""

DEFAULT_MAX_LR, COARSE_MAX_LR = 10.0, 1e4
"""Highest rates when ``max_lr`` is None: of a single ramp, and of a coarse ramp, which continues until it diverges."""

COARSE_DECADES = 8
"""Powers of ten that ``COARSE_STEPS`` steps cover. A coarse ramp over more or fewer takes steps in proportion."""

FINE_RANGE = (1 / 500, 1.5)
"""The fine ramp's lowest and highest rate, as fractions of the rate at which the coarse ramp diverged. A slower ramp
measures the edge of stability better, up to about 20 steps per factor of ten. During an even slower one, the model
learns too much."""


@dataclass(frozen=True)
class RampPlan:
    """The ramps of a range test.

    Attributes:
        single: the ramp of a test without a coarse ramp.
        coarse: the first ramp of a coarse-to-fine test, which replaces ``single``; else None.
        repeats: number of ramps after the coarse one.
        steps_each: number of updates of each of these.
    """

    single: Schedule
    coarse: Schedule | None
    repeats: int
    steps_each: int

    @property
    def total_steps(self) -> int:
        """Number of updates of all ramps together."""
        return (0 if self.coarse is None else self.coarse.total_steps or 0) + self.repeats * self.steps_each


def plan_ramps(min_lr: float, max_lr: float | None, steps: Any, spacing: Spacing, repeats: int) -> RampPlan:
    """Plan the ramps of a range test; the arguments are those of ``range_test``.

    Raises:
        ValueError: a bad argument; the message names it.
    """
    steps = _checked_steps(steps)
    if not is_whole(repeats) or repeats < 1:
        raise ValueError(f"repeats: got {repeats!r}; give a whole number of ramps, at least 1")
    if max_lr is None and isinstance(min_lr, float | int) and min_lr >= DEFAULT_MAX_LR:
        raise ValueError(
            f"min_lr: got {min_lr!r}, and max_lr is {DEFAULT_MAX_LR:g} where it is left out; give max_lr too"
        )
    single_max_lr = DEFAULT_MAX_LR if max_lr is None else max_lr
    single_steps = SINGLE_STEPS if steps == "auto" else steps
    single = lr_ramp(min_lr, single_max_lr, single_steps, spacing=spacing)
    if steps != "auto" or spacing != "exponential" or single_max_lr / min_lr <= FINE_RANGE[1] / FINE_RANGE[0]:
        return RampPlan(single, None, repeats, single_steps)
    coarse_max_lr = COARSE_MAX_LR if max_lr is None else max_lr
    coarse_steps = round(COARSE_STEPS * math.log10(coarse_max_lr / min_lr) / COARSE_DECADES)
    return RampPlan(single, lr_ramp(min_lr, coarse_max_lr, coarse_steps), repeats, FINE_STEPS)


def make_fine_ramp(diverged_at: float, max_lr: float, steps: int = FINE_STEPS) -> Schedule:
    """Make the fine ramp around ``diverged_at``, a rate at which the coarse ramp diverged, up to at most ``max_lr``."""
    low, high = FINE_RANGE
    return lr_ramp(diverged_at * low, min(diverged_at * high, max_lr), steps)


def _checked_steps(steps: Any) -> int | Literal["auto"]:
    if isinstance(steps, str) and steps == "auto":
        return "auto"
    if not is_whole(steps) or steps < 2:
        raise ValueError(f"steps: got {steps!r}; give a whole number of updates, at least 2, or 'auto'")
    return int(steps)
