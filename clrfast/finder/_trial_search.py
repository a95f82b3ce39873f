"""The search for the range of good rates: which short 1cycles are run, and how long they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ._smoothing import Floats
from ._trials import SHORT_STEPS, Trials, make_trials

VISIBLE_FALL_STDS = 1.5
"""Minimum fall of the loss in the best trial, in units of its noise, below which the fall may be chance."""

MIN_SHORT_FALL_FRAC = 0.05
"""Minimum fall of the loss in the best of the shortest trials, as a fraction of the initial loss. A smaller fall may be
only the approach to a saddle point, where the actual descent starts."""

WIDE_OCTAVES = 2.0
"""Width of the range of good rates, in powers of two, at which the shortest trials are no longer conclusive. Longer
ones then follow."""

HARMFUL_RISE_STDS = 2.0
"""Rise of the loss, in units of its noise, above which a trial shows that its rate is too high."""


MIN_TRIALS = 3
"""Minimum number of trials of one length: one at a centre and one on each side."""


@dataclass(frozen=True)
class Level:
    """Trials of one length.

    Attributes:
        steps: number of updates of each.
        octaves: distance of neighbouring rates, in powers of two.
        max_trials: maximum number of trials, at least ``MIN_TRIALS``.
    """

    steps: int
    octaves: float
    max_trials: int


LEVELS = (Level(SHORT_STEPS, 2.0, 7), Level(80, 1.0, 6), Level(240, 1.0, 5))
"""Trials of growing length. Each level follows only where the one before is not conclusive."""

CENTRE_OCTAVES = 2.0
"""Distance of the first trial's rate above the ramp's estimate, in powers of two, because short runs are stable at
higher rates than long ones."""


LossAfter = Callable[[float, int], tuple[float, float]]
"""``loss_after(lr, steps)``: the loss of the probe batches after a trial, and the noise of its change."""


def search(
    loss_after: LossAfter,
    ramp_lr: float,
    max_lr: float,
    initial_loss: float,
    noise: float,
    *,
    thorough: bool,
    max_steps: float = math.inf,
) -> list[Trials]:
    """Run trials of growing length until they are conclusive.

    Args:
        ramp_lr: the ramp's estimate of the best rate.
        max_lr: the highest rate of a trial.
        initial_loss: the loss of the probe batches before training.
        noise: standard deviation of the noise of a training batch's loss.
        thorough: run the second level, too, unless the first one fits the data.
        max_steps: maximum number of updates of all trials. A level that would exceed it is not started.
    Returns:
        The trials of each level, at least ``MIN_TRIALS``.
    """
    found: list[Trials] = []
    if not math.isfinite(initial_loss):
        return found
    centre = ramp_lr * 2**CENTRE_OCTAVES
    for number, level in enumerate(LEVELS, 1):
        if found:
            centre = _next_centre(found[-1])
        centre = min(centre, max_lr / 2**level.octaves)
        n_most = min(level.max_trials, max_steps // level.steps)
        if n_most < MIN_TRIALS:
            break
        trials = _run_level(loss_after, level, n_most, centre, max_lr, initial_loss)
        max_steps -= level.steps * len(trials.lr)
        found.append(trials)
        if is_conclusive(trials, noise) and (trials.fits_data or not thorough or number > 1):
            break
    return found


def is_significant(trials: Trials) -> bool:
    """Return whether the loss falls in the best trial by more than chance."""
    return trials.fall > 0 and trials.fall >= VISIBLE_FALL_STDS * float(trials.noise[trials.best])


def is_visible(trials: Trials, noise: float) -> bool:
    """Return whether the loss falls enough in the best trial to show which rate trains best.

    In the shortest trials the fall must also exceed 1.5 times the noise of a training batch's loss, and 5 % of the
    initial loss.
    """
    least = max(VISIBLE_FALL_STDS * noise, MIN_SHORT_FALL_FRAC * abs(trials.initial_loss))
    return is_significant(trials) and (trials.steps > SHORT_STEPS or trials.fall >= least)


def is_conclusive(trials: Trials, noise: float) -> bool:
    """Return whether the loss visibly falls, and in the shortest trials in a narrow range of rates.

    Trials that fit the data are conclusive in any case: longer ones would fit them at all rates.
    """
    low, high = trials.good_range()
    is_informative = trials.steps > SHORT_STEPS or trials.fits_data or high < low * 2**WIDE_OCTAVES
    return is_visible(trials, noise) and is_informative


def find_harmless(trials: Trials) -> Floats:
    """Find the rates after which the loss is not above the initial one by more than chance: float64, ascending."""
    return trials.lr[trials.loss <= trials.initial_loss + HARMFUL_RISE_STDS * trials.noise]


def _run_level(
    loss_after: LossAfter, level: Level, n_most: float, centre: float, max_lr: float, initial: float
) -> Trials:
    """Run up to ``n_most`` trials of one level: three around ``centre``, then outwards while the best is at an end."""
    found: dict[float, tuple[float, float]] = {}
    place: int | None = 0
    places: list[int] = []
    while place is not None and len(places) < n_most:
        lr = centre * 2 ** (level.octaves * place)
        if lr > max_lr * (1 + 1e-9):
            break
        loss, noise = loss_after(lr, level.steps)
        found[lr] = loss if math.isfinite(loss) else math.inf, noise
        places.append(place)
        place = _next_place(places, make_trials(level.steps, found, initial))
    return make_trials(level.steps, found, initial)


def _next_place(places: list[int], trials: Trials) -> int | None:
    """Choose the place of the next trial, in distances from the centre; None if the range of good rates is known."""
    for place in (0, -1, 1):
        if place not in places:
            return place
    harmless = find_harmless(trials)
    if not len(harmless):
        return min(places) - 1
    highest = len(trials.lr) - 1
    if harmless[-1] == trials.lr[highest] and not is_significant(trials):
        return max(places) + 1  # the loss may fall at a higher rate
    if trials.best == 0:
        return min(places) - 1
    return max(places) + 1 if trials.best == highest else None


def _next_centre(trials: Trials) -> float:
    """Choose the first rate of longer trials, which are stable at lower rates only.

    It is half the middle of the good rates if the loss falls; else half the highest rate that did no harm.
    """
    if is_significant(trials):
        return trials.middle / 2
    return float(max(find_harmless(trials), default=trials.lr[0])) / 2
