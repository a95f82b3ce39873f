"""What a curve suggests: pure functions of (lr, loss), and how far noise lets them be trusted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._noise import Floats, smoothed, thinned

MIN_POINTS = 5
"""Fewer points than this say nothing about a slope."""

FLAT = 1e-5
"""A fall of less than this part of the loss is rounding: losses are float32."""


class NoSuggestionError(ValueError):
    """The curve has no valid answer; the message says why and what to try."""


@dataclass(frozen=True)
class Suggestion:
    """Learning rates to train with, and why.

    Attributes:
        max_lr: the rate to train with; the peak of a 1cycle, the upper bound of a cyclical rate.
        base_lr: the lower bound of a cyclical rate: where the descent begins, at most a quarter of max_lr.
        low, high: what max_lr would be nine times of ten, were the noise of the losses drawn anew; over all repeats
            where there are some. As far as one curve can tell: other initial weights may differ by more.
        method: name of the function that found it.
        reason: one sentence.
    """

    max_lr: float
    base_lr: float
    low: float
    high: float
    method: str
    reason: str

    def __str__(self) -> str:
        """
        >>> print(Suggestion(0.21, 0.0123, 0.18, 0.25, "edge", "a fifth of 1.05"))
        0.21 (0.18 to 0.25), lower bound 0.012; edge: a fifth of 1.05
        """
        interval = f"{self.low:.2g} to {self.high:.2g}"
        return f"{self.max_lr:.3g} ({interval}), lower bound {self.base_lr:.2g}; {self.method}: {self.reason}"


EDGE_FRACTION = 5
"""Chosen on the development tasks of benchmarks/finder_quality, where 4 to 5.5 are alike; at the mean of the marks
itself, 6 of the 22 diverge."""

LOST_FRAC = 0.25
"""The loss has climbed back once it has lost so much of its fall again. A model that collapses to a constant output may
come to rest well below the loss of its start, however high the rate; on the tuning tasks 0.25 to 1 are alike."""


def edge(lr: ArrayLike, loss: ArrayLike, *, beyond: str = "a higher max_lr tells more") -> Suggestion:
    """A fifth of the edge of stability, as three marks on the curve tell it: their geometric mean.

        lowest        where the loss is lowest
        first climb   the first point past it at which a quarter of the loss's fall is lost again
        last climb    the point from which on it stays above that

    The fall is from the median of the first half of the losses before the minimum; a loss that is not finite is above
    all; the last point stands in for what did not happen. Spikes that a model recovers from separate the first climb
    from the last; where there are none the three lie close together. ``beyond`` tells, in the reason, of what lies past
    the last point, where the loss has not climbed back by then.

    Arguments and errors as of ``steepest``.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters", section 4.1: the largest rate
    before divergence is the evidence, and the maximum of a 1cycle lies below it.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    found = climbs(lr, loss)
    rates = np.asarray(lr, dtype=np.float64)
    first, last = (len(rates) - 1 if index is None else index for index in found)
    marks = np.array([lrs[lowest], rates[first], rates[last]])
    at = float(np.exp(np.log(marks).mean()))
    if found[0] is not None:
        reason = (
            f"a fifth of {at:.3g}, the mean of where the loss is lowest ({marks[0]:.3g}), where it has climbed back by "
            f"a quarter of its fall ({marks[1]:.3g}) and from where on it stays above that ({marks[2]:.3g})"
        )
    else:
        reason = (
            f"a fifth of {at:.3g}: the loss is lowest at {marks[0]:.3g}, and by {marks[1]:.3g} it had not climbed "
            f"back; {beyond}"
        )
    return _suggestion(at / EDGE_FRACTION, "edge", reason, lrs, losses, lowest)


def climbs(lr: ArrayLike, loss: ArrayLike) -> tuple[int | None, int | None]:
    """The indices of the first point past the minimum at which the loss has climbed back by ``LOST_FRAC`` of its fall,
    and of the point from which on it stays so; None for what does not happen. A loss that has come to rest above its
    minimum, the same whatever the batch, has climbed back: the model is dead. Arguments and errors as of ``steepest``.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    start, every = float(np.median(losses[: (lowest + 2) // 2])), np.asarray(loss, dtype=np.float64)
    above = ~(every <= losses[lowest] + LOST_FRAC * (start - losses[lowest])) | _dead(every, losses[lowest])
    climbed = np.flatnonzero(above & (np.asarray(lr) > lrs[lowest]))
    last = int(np.flatnonzero(~above)[-1]) + 1
    return (int(climbed[0]) if len(climbed) else None), (last if last < len(above) else None)


def _dead(loss: Floats, lowest: float) -> NDArray[np.bool_]:
    """bool ``[n]``: the points at the end from which on the loss, above its minimum, does not change any more."""
    same = np.isclose(loss, loss[-1], rtol=FLAT, atol=0.0)
    dead = np.logical_and.accumulate(same[::-1])[::-1]
    at_rest = dead.sum() >= MIN_POINTS and loss[-1] - lowest > FLAT * abs(loss[-1])
    return dead & at_rest


def steepest(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """The rate at which the loss falls fastest per factor of the rate, on its way down to the minimum.

        argmin of d loss / d log(lr), over the points after the last one before the minimum at which the loss has
        fallen by less than a tenth of its whole fall from the median of its first half: before that, slopes are noise

    Args:
        lr: ``[n]``, ascending, > 0.
        loss: ``[n]``, smoothed; values that are not finite are left out.
    Raises:
        NoSuggestionError: fewer than 5 finite points, or a loss that never falls.
        ValueError: shapes or order of the input.

    Source: the steepest descent rule of fastai's and torch-lr-finder's plots, on the logarithmic axis.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    slope = np.gradient(losses, np.log(lrs))
    begin = _descent_begins(losses, lowest)
    best = begin + int(slope[begin : lowest + 1].argmin())
    reason = f"the smoothed loss falls fastest here, {-slope[best] * np.log(10):.3g} per tenfold rate"
    return _suggestion(lrs[best], "steepest", reason, lrs, losses, lowest)


def valley(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """The middle of the longest valley: half way through the longest sequence of ever lower losses.

    Arguments and errors as of ``steepest``.

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


SLIDE_STEPS = 15
SLIDE_SHARE = 0.02


def slide(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """The rate before the slide into divergence: coming from the highest rate, the first at which the slope, compared
    with that of 15 points later (of a sixth of all, if these are fewer), has ceased to change.

        |slope[i + 15] - slope[i]| <= 0.02 * fall,   slope per point, fall from the start to the minimum

    Arguments and errors as of ``steepest``.

    Source: fastai's suggestion of this name (Novetta). Its threshold there is 0.005, whatever the loss's unit, on
    losses whose smoothing lags behind them.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    steps = min(SLIDE_STEPS, max(1, len(losses) // 6))
    slope = np.gradient(losses)
    change = np.abs(slope[steps:] - slope[:-steps])
    fall = float(losses[: lowest + 1].max() - losses[lowest])
    still = np.flatnonzero(change <= SLIDE_SHARE * fall)
    at = int(still[-1]) if len(still) else 0
    reason = f"the last rate before the slope begins to change on the way to {lrs[-1]:.3g}"
    return _suggestion(lrs[at], "slide", reason, lrs, losses, lowest)


def minimum_tenth(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """A tenth of the rate at which the loss is lowest.

    Arguments and errors as of ``steepest``.

    Source: Gugger 2018, "How Do You Find A Good Learning Rate": one order of magnitude before the minimum.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    reason = f"a tenth of {lrs[lowest]:.3g}, where the smoothed loss is lowest ({losses[lowest]:.4g})"
    return _suggestion(lrs[lowest] / 10, "minimum_tenth", reason, lrs, losses, lowest)


def clr_bounds(lr: ArrayLike, score: ArrayLike) -> Suggestion:
    """Bounds of a cyclical rate: where the score (accuracy, higher is better) begins to rise, and where that ends.

    base_lr: the last rate before the score has made a tenth of its whole rise. max_lr: the first rate past it at which
    the score has slowed, with nine tenths of the rise made, or at which it is ragged or falls, a tenth of the rise
    below what it had reached. Use it on a linear sweep, whose rate is proportional to the step.

    Args:
        lr: ``[n]``, ascending, > 0.
        score: ``[n]``, smoothed; values that are not finite are left out.
    Raises:
        NoSuggestionError: fewer than 5 finite points, or a score that never rises.
        ValueError: shapes or order of the input.

    Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    lrs, losses, lowest = _up_to_minimum(lr, -np.asarray(score, dtype=np.float64), what="score")
    scores = -losses
    begin, bottom = _rise_begins(scores, lowest)
    rise = float(scores[lowest]) - bottom
    reached = np.maximum.accumulate(scores)
    index = np.arange(len(scores))
    slowed = (index > begin) & (scores >= bottom + 0.9 * rise)
    ragged = (index > begin) & (scores < reached - 0.1 * rise)
    end = int(np.flatnonzero(slowed | ragged)[0])
    how = "has made nine tenths of its rise" if slowed[end] else "becomes ragged"
    reason = f"the score begins to rise at {lrs[begin]:.3g} and {how} at {lrs[end]:.3g}"
    return Suggestion(float(lrs[end]), float(lrs[begin]), float(lrs[end]), float(lrs[end]), "clr_bounds", reason)


def _rise_begins(scores: Floats, highest: int) -> tuple[int, float]:
    """The last point before the maximum at which a tenth of the rise is not made yet, and the score from which it
    rises: the median until that point. A score that saturates early has few points below its plateau, or one."""
    before = scores[: highest + 1]
    begin, bottom = 0, float(before.min())
    for _ in range(2):  # from the lowest score, which noise makes too low, and then from the median
        begin = int(np.flatnonzero(before <= bottom + 0.1 * (before[-1] - bottom))[-1])
        bottom = float(np.median(before[: begin + 1]))
    return begin, bottom


Method = Callable[[ArrayLike, ArrayLike], Suggestion]

METHODS: dict[str, Method] = {
    "edge": edge,
    "steepest": steepest,
    "valley": valley,
    "slide": slide,
    "minimum_tenth": minimum_tenth,
    "clr_bounds": clr_bounds,
}

RESAMPLES = 40
"""Curves with the noise drawn anew; the median of so many answers changes by a few per cent with another draw."""


def resampled(method: Method, curves: Sequence[tuple[Floats, Floats]]) -> Suggestion:
    """``method`` on curves whose noise is drawn anew: its median answer, and the range of nine in ten.

        loss[i] = smoothed[i] + sign[i] * (loss[i] - smoothed[i]),   sign[i] = -1 or 1 at random

    A minimum or a crossing jumps from one point to another with the noise; the median over draws is steadier than
    the answer of the one draw that was measured, and their range tells how far to trust it. Always the same draws. The
    median is the answer of one draw (of an even number, the lower of the middle two), and the reason is that draw's.
    Of long curves the means of neighbouring points are drawn; see ``thinned``.

    Args:
        curves: ``(lr, loss)`` each, raw losses.
    Raises:
        NoSuggestionError: a curve without answer.
    """
    curves = [thinned(lr, loss) for lr, loss in curves]
    answers = [(method(lr, smoothed(loss)), number) for number, (lr, loss) in enumerate(curves, 1)]
    random = np.random.default_rng(0)
    drawn = []
    for number, (lr, loss) in enumerate(curves, 1):
        trend = smoothed(loss)
        for _ in range(RESAMPLES):
            other = trend + random.choice((-1.0, 1.0), len(loss)) * (loss - trend)
            try:
                drawn.append((method(lr, smoothed(other)), number))
            except NoSuggestionError:
                continue  # the measured curve has an answer; this draw says nothing
    answers = sorted(drawn or answers, key=lambda found: (found[0].max_lr, found[0].base_lr))
    middle, number = answers[(len(answers) - 1) // 2]
    of_sweep = "" if len(curves) == 1 else f", of sweep {number} of {len(curves)}"
    rates = [answer.max_lr for answer, _ in answers]
    return replace(
        middle,
        reason=f"{middle.reason}; the median of {len(answers)} draws of the noise{of_sweep}",
        # The answer is in its interval, also where the draws are few, or all alike but for the rounding of logarithms.
        low=min(_quantile(rates, 0.05), middle.max_lr),
        high=max(_quantile(rates, 0.95), middle.max_lr),
    )


def _quantile(rates: list[float], share: float) -> float:
    return float(np.exp(np.quantile(np.log(rates), share)))


def _suggestion(max_lr: float, method: str, reason: str, lrs: Floats, losses: Floats, lowest: int) -> Suggestion:
    base_lr = min(float(lrs[_descent_begins(losses, lowest)]), float(max_lr) / 4)
    return Suggestion(float(max_lr), base_lr, float(max_lr), float(max_lr), method, reason)


def _descent_begins(losses: Floats, lowest: int) -> int:
    """The last point before the minimum at which the loss has not yet fallen by a tenth of its whole fall."""
    before = losses[: lowest + 1]
    top = np.median(before[: (lowest + 2) // 2])
    undecided = np.flatnonzero(before > top - 0.1 * (top - before[-1]))
    return int(undecided[-1]) if len(undecided) else 0


def _up_to_minimum(lr: ArrayLike, loss: ArrayLike, what: str = "loss") -> tuple[Floats, Floats, int]:
    """The finite points, and the index of their lowest loss; the loss falls before it."""
    lrs, losses = np.asarray(lr, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if lrs.ndim != 1 or lrs.shape != losses.shape:
        raise ValueError(f"lr, {what}: got shapes {lrs.shape} and {losses.shape}; give two arrays of one length")
    if not ((lrs > 0).all() and (np.diff(lrs) > 0).all()):
        raise ValueError("lr: got values that are not positive and ascending; give them in the order of the sweep")
    finite = np.isfinite(losses)
    lrs, losses = lrs[finite], losses[finite]
    if len(lrs) < MIN_POINTS:
        raise NoSuggestionError(
            f"only {len(lrs)} finite points, fewer than {MIN_POINTS}: "
            "lower min_lr (it may diverge at once) or take more steps"
        )
    lowest = int(losses.argmin())
    before = losses[: lowest + 1]
    if before.max() - before[-1] <= FLAT * np.abs(before).max():
        never = "loss never falls" if what == "loss" else f"{what} never rises"
        raise NoSuggestionError(f"the {never}: lower min_lr, or check the loss and what is trainable")
    return lrs, losses, lowest
