"""The suggestion rules: pure functions from a smoothed curve (lr, loss) to a ``Suggestion``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._checks import MAX_RATE_RATIO, MIN_RAMP_STEPS
from ._slopes import are_evenly_spaced
from ._smoothing import ROUNDING_FRAC, Floats
from ._suggestion import NoSuggestionError, Suggestion

MIN_POINTS = MIN_RAMP_STEPS
"""Minimum number of points of a curve: fewer do not define a slope."""

EDGE_DIVISOR = 5
"""Divisor of the edge of stability that gives the answer of ``edge``. Chosen on the development tasks of
benchmarks/finder_quality, where 4 to 5.5 do equally well; training at the edge itself diverges on 6 of the 22."""

REBOUND_FRAC = 0.25
"""Fraction of the loss's fall that is lost again at a rebound. It is far below 1, because a model that collapses to a
constant output may stay well below its initial loss at any rate. On the development tasks 0.25 to 1 do equally well."""

SLIDE_STEPS = 15
"""Distance in points between the two slopes that ``slide`` compares."""

SLIDE_FRAC = 0.02
"""Change of the slope, as a fraction of the loss's fall, at which ``slide`` takes the slope to be constant."""


def edge(lr: ArrayLike, loss: ArrayLike, *, beyond: str = "a higher max_lr shows more") -> Suggestion:
    """Suggest a fifth of the edge of stability: the geometric mean of three rates on the curve.

        lowest         where the loss is lowest
        first rebound  the first point past it at which a quarter of the loss's fall is lost
        last rebound   the point from which the loss stays above that

    The fall starts at the median of the first half of the losses before the minimum. A loss that is not finite counts
    as a rebound. The last point replaces a rebound that does not happen. Spikes from which the model recovers
    separate the first rebound from the last; without spikes the three rates lie close together.

    Args:
        lr, loss: as for ``steepest``.
        beyond: last words of the reason if the loss has not climbed back by the last point.
    Raises:
        NoSuggestionError, ValueError: as for ``steepest``.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters", section 4.1: the largest rate
    before divergence is the evidence, and the maximum of a 1cycle lies below it.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    found = find_rebounds(lr, loss)
    rates = np.asarray(lr, dtype=np.float64)
    first, last = (len(rates) - 1 if index is None else index for index in found)
    marks = np.array([lrs[lowest], rates[first], rates[last]])
    at = float(np.exp(np.log(marks).mean()))
    mean = f"the geometric mean of three readings ({', '.join(f'{mark:.3g}' for mark in marks)})"
    reason = f"{at / EDGE_DIVISOR:.3g} = {at:.3g} / {EDGE_DIVISOR}; {at:.3g} is "
    if found[0] is not None:
        reason += f"where the loss starts to climb: {mean}"
    else:
        reason += f"{mean}: the loss is lowest at {marks[0]:.3g} and has not climbed back at {marks[1]:.3g}; {beyond}"
    return _suggestion(at / EDGE_DIVISOR, "edge", reason, lrs, losses, lowest)


def require_close_rates(lr: Floats, more: str = "more steps") -> None:
    """Raise NoSuggestionError if neighbouring rates differ by more than a factor of ``MAX_RATE_RATIO``.

    Linear ramps pass. They may begin far below their second rate, so all but the first must be evenly spaced. Curves of
    fewer than ``MIN_POINTS`` pass, too: the rules refuse them.

    Args:
        lr: float64 ``[n]``, ascending, > 0: the rates at which a rule knows the loss.
        more: what brings them closer.
    """
    if len(lr) < MIN_POINTS or are_evenly_spaced(lr[1:]):
        return
    ratios = lr[1:] / lr[:-1]
    widest = int(ratios.argmax())
    if ratios[widest] > MAX_RATE_RATIO * (1 + ROUNDING_FRAC):
        raise NoSuggestionError(
            f"neighbouring rates differ by up to a factor of {ratios[widest]:.3g} (at {lr[widest]:.3g}), too much for "
            f"an answer: the maximum is {MAX_RATE_RATIO:g}; take {more} (15 rates from 1e-7 to 10 are close enough)"
        )


def find_rebounds(lr: ArrayLike, loss: ArrayLike) -> tuple[int | None, int | None]:
    """Find the first and the last rebound of the loss after its minimum.

    The first is the first point at which ``REBOUND_FRAC`` of the loss's fall is lost again. The last is the point from
    which the loss stays that high. A loss that becomes constant above its minimum, on all batches, has rebounded, too:
    the model is dead.

    Args:
        lr, loss: as for ``steepest``.
    Returns:
        ``(first, last)``, each None if it does not happen.
    Raises:
        NoSuggestionError, ValueError: as for ``steepest``.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    start, every = float(np.median(losses[: (lowest + 2) // 2])), np.asarray(loss, dtype=np.float64)
    high = ~(every <= losses[lowest] + REBOUND_FRAC * (start - losses[lowest])) | _is_dead(every, losses[lowest])
    rebounded = np.flatnonzero(high & (np.asarray(lr) > lrs[lowest]))
    last = int(np.flatnonzero(~high)[-1]) + 1
    return (int(rebounded[0]) if len(rebounded) else None), (last if last < len(high) else None)


def _is_dead(loss: Floats, lowest: float) -> NDArray[np.bool_]:
    """Mark the last points, if the loss is constant above its minimum there: bool ``[n]``."""
    same = np.isclose(loss, loss[-1], rtol=ROUNDING_FRAC, atol=0.0)
    constant = np.logical_and.accumulate(same[::-1])[::-1]
    above_minimum = loss[-1] - lowest > ROUNDING_FRAC * abs(loss[-1])
    return constant & (constant.sum() >= MIN_POINTS and above_minimum)


def steepest(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """Suggest the rate at which the loss falls fastest per factor of the rate, before its minimum.

        argmin of d loss / d log(lr)

    The search starts at the last point before the minimum at which the loss has fallen by less than a tenth of its
    whole fall, measured from the median of its first half. Before that point, slopes are noise.

    Args:
        lr: ``[n]``, ascending, > 0.
        loss: ``[n]``, smoothed. Values that are not finite are left out.
    Raises:
        NoSuggestionError: fewer than 5 points are finite, or the loss never falls.
        ValueError: the arrays differ in shape, or ``lr`` is not positive and ascending.

    Source: the steepest descent rule of fastai's and torch-lr-finder's plots, on the logarithmic axis.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    slope = np.gradient(losses, np.log(lrs))
    begin = _descent_begin(losses, lowest)
    best = begin + int(slope[begin : lowest + 1].argmin())
    reason = f"the smoothed loss falls fastest here, {-slope[best] * np.log(10):.3g} per tenfold rate"
    return _suggestion(lrs[best], "steepest", reason, lrs, losses, lowest)


def valley(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """Suggest the middle of the longest valley: half way through the longest descending subsequence of the losses.

    Arguments and errors are those of ``steepest``.

    Source: fastai's default suggestion of this name (ESRI's algorithm).
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    ends: list[float] = []  # the highest last loss, negated, of the descents of 1, 2, ... points
    length = np.empty(len(losses), dtype=np.int64)
    for i, negated in enumerate((-losses).tolist()):
        at = bisect_left(ends, negated)
        ends[at : at + 1] = [negated]
        length[i] = at + 1
    end = int(length.argmax())
    begin = end - int(length[end]) + 1
    reason = f"the middle of the longest valley, from {lrs[begin]:.3g} to {lrs[end]:.3g}"
    return _suggestion(lrs[(begin + end) // 2], "valley", reason, lrs, losses, lowest)


def slide(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """Suggest the rate before the slide into divergence: the highest rate at which the slope is still constant.

        |slope[i + 15] - slope[i]| <= 0.02 * fall,   slope per point, fall from the start to the minimum

    The distance is a sixth of the points if that is less than 15.

    Arguments and errors are those of ``steepest``.

    Source: fastai's suggestion of this name (Novetta). Its threshold is 0.005 in the loss's own unit, on losses whose
    smoothing lags.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    steps = min(SLIDE_STEPS, max(1, len(losses) // 6))
    slope = np.gradient(losses)
    change = np.abs(slope[steps:] - slope[:-steps])
    fall = float(losses[: lowest + 1].max() - losses[lowest])
    constant = np.flatnonzero(change <= SLIDE_FRAC * fall)
    at = int(constant[-1]) if len(constant) else 0
    reason = f"the last rate before the slope begins to change on the way to {lrs[-1]:.3g}"
    return _suggestion(lrs[at], "slide", reason, lrs, losses, lowest)


def minimum_tenth(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """Suggest a tenth of the rate at which the loss is lowest.

    Arguments and errors are those of ``steepest``.

    Source: Gugger 2018, "How Do You Find A Good Learning Rate": one order of magnitude before the minimum.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    reason = f"a tenth of {lrs[lowest]:.3g}, where the smoothed loss is lowest ({losses[lowest]:.4g})"
    return _suggestion(lrs[lowest] / 10, "minimum_tenth", reason, lrs, losses, lowest)


def clr_bounds(lr: ArrayLike, score: ArrayLike) -> Suggestion:
    """Suggest the bounds of a cyclical rate: where the score (accuracy, higher is better) begins and ends its rise.

    ``base_lr`` is the last rate before the score has made a tenth of its rise. ``max_lr`` is the first rate past it at
    which the score has made nine tenths of its rise, or at which it is ragged: a tenth of the rise below its highest
    value so far. Use it on a linear ramp, whose rate is proportional to the step.

    Args:
        lr: ``[n]``, ascending, > 0.
        score: ``[n]``, smoothed. Values that are not finite are left out.
    Raises:
        NoSuggestionError: fewer than 5 points are finite, or the score never rises.
        ValueError: the arrays differ in shape, or ``lr`` is not positive and ascending.

    Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    lrs, losses, lowest = _up_to_minimum(lr, -np.asarray(score, dtype=np.float64), what="score")
    scores = -losses
    begin, bottom = _rise_begin(scores, lowest)
    rise = float(scores[lowest]) - bottom
    highest_so_far = np.maximum.accumulate(scores)
    index = np.arange(len(scores))
    slowed = (index > begin) & (scores >= bottom + 0.9 * rise)
    ragged = (index > begin) & (scores < highest_so_far - 0.1 * rise)
    end = int(np.flatnonzero(slowed | ragged)[0])
    how = "has made nine tenths of its rise" if slowed[end] else "becomes ragged"
    reason = f"the score begins to rise at {lrs[begin]:.3g} and {how} at {lrs[end]:.3g}"
    return Suggestion(float(lrs[end]), float(lrs[begin]), float(lrs[end]), float(lrs[end]), "clr_bounds", reason)


def _rise_begin(scores: Floats, highest: int) -> tuple[int, float]:
    """Find the last point before a tenth of the rise is made, and the score from which the rise starts.

    That score is the median until that point. A score that saturates early has few points below its plateau, or one.
    """
    before = scores[: highest + 1]
    begin, bottom = 0, float(before.min())
    for _ in range(2):  # first from the lowest score, which noise makes too low, then from the median
        begin = int(np.flatnonzero(before <= bottom + 0.1 * (before[-1] - bottom))[-1])
        bottom = float(np.median(before[: begin + 1]))
    return begin, bottom


Rule = Callable[[ArrayLike, ArrayLike], Suggestion]

RULES: dict[str, Rule] = {
    "edge": edge,
    "steepest": steepest,
    "valley": valley,
    "slide": slide,
    "minimum_tenth": minimum_tenth,
    "clr_bounds": clr_bounds,
}
"""All rules by their names, which are the values of ``LRCurve.suggest(method)``."""


def _suggestion(max_lr: float, method: str, reason: str, lrs: Floats, losses: Floats, lowest: int) -> Suggestion:
    base_lr = min(float(lrs[_descent_begin(losses, lowest)]), float(max_lr) / 4)
    return Suggestion(float(max_lr), base_lr, float(max_lr), float(max_lr), method, reason)


def _descent_begin(losses: Floats, lowest: int) -> int:
    """Find the last point before the minimum at which the loss has fallen by less than a tenth of its whole fall."""
    before = losses[: lowest + 1]
    top = np.median(before[: (lowest + 2) // 2])
    not_fallen = np.flatnonzero(before > top - 0.1 * (top - before[-1]))
    return int(not_fallen[-1]) if len(not_fallen) else 0


def _up_to_minimum(lr: ArrayLike, loss: ArrayLike, what: str = "loss") -> tuple[Floats, Floats, int]:
    """Check the curve; return its finite points, and the index of the lowest loss."""
    lrs, losses = np.asarray(lr, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if lrs.ndim != 1 or lrs.shape != losses.shape:
        raise ValueError(f"lr, {what}: got shapes {lrs.shape} and {losses.shape}; give two arrays of one length")
    if not ((lrs > 0).all() and (np.diff(lrs) > 0).all()):
        raise ValueError("lr: got values that are not positive and ascending; give them in the order of the ramp")
    finite = np.isfinite(losses)
    lrs, losses = lrs[finite], losses[finite]
    if len(lrs) < MIN_POINTS:
        raise NoSuggestionError(
            f"only {len(lrs)} finite points, fewer than {MIN_POINTS}: give more steps, or a lower min_lr if the loss "
            "diverges at once"
        )
    lowest = int(losses.argmin())
    before = losses[: lowest + 1]
    if before.max() - before[-1] <= ROUNDING_FRAC * np.abs(before).max():
        never = "loss never falls" if what == "loss" else f"{what} never rises"
        raise NoSuggestionError(f"the {never}: lower min_lr, or check the loss and what is trainable")
    return lrs, losses, lowest
