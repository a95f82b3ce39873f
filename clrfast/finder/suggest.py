"""What a curve suggests: pure functions of (lr, loss)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_POINTS = 5
"""Fewer points than this say nothing about a slope."""

FLAT = 1e-5
"""A fall of less than this part of the loss is rounding: losses are float32."""


class NoSuggestionError(ValueError):
    """The curve has no valid answer; the message says why and what to try."""


@dataclass(frozen=True)
class Suggestion:
    """A learning rate, and why.

    Attributes:
        max_lr: the rate to train with; the peak of a 1cycle.
        method: name of the function that found it.
        reason: one sentence.
    """

    max_lr: float
    method: str
    reason: str


EDGE_FRACTION = 8
"""A sweep outruns the loss, which needs steps to climb: at the rate where it has climbed, 58 % of the 1cycles on the
tuning half of benchmarks/regret.py's tasks diverge; at an eighth none do. Mean regrets there: 0.056 for a quarter,
0.023 for an eighth, 0.022 for a tenth, 0.035 for a sixteenth."""


def edge(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """An eighth of the rate at which the loss, past its minimum, has climbed back to where it began.

        max_lr = lr[i] / 8,    i = the first point past the minimum at which the loss is above the median of the first
                                   half of those before the minimum, or not finite; the last point if there is none

    Arguments and errors as of ``steepest``.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters", section 4.1: the largest rate
    before divergence is the evidence, and the maximum of a 1cycle lies below it.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    start = float(np.median(losses[: (lowest + 2) // 2]))
    lr, loss = np.asarray(lr, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    climbed = np.flatnonzero((lr > lrs[lowest]) & ~(loss <= start))
    if len(climbed):
        at = float(lr[climbed[0]])
        reason = f"an eighth of {at:.3g}, where the loss has climbed back to its start ({start:.4g})"
    else:
        at = float(lr[-1])
        reason = (
            f"an eighth of {at:.3g}, where the sweep ended before the loss climbed back; a higher max_lr tells more"
        )
    return Suggestion(at / EDGE_FRACTION, "edge", reason)


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
    before = losses[: lowest + 1]
    top = np.median(before[: (lowest + 2) // 2])
    undecided = np.flatnonzero(before > top - 0.1 * (top - before[-1]))
    begin = int(undecided[-1]) if len(undecided) else 0
    best = begin + int(slope[begin : lowest + 1].argmin())
    reason = f"the smoothed loss falls fastest here, {-slope[best] * np.log(10):.3g} per tenfold rate"
    return Suggestion(float(lrs[best]), "steepest", reason)


def minimum_tenth(lr: ArrayLike, loss: ArrayLike) -> Suggestion:
    """A tenth of the rate at which the loss is lowest.

    Arguments and errors as of ``steepest``.

    Source: Gugger 2018, "How Do You Find A Good Learning Rate": one order of magnitude before the minimum.
    """
    lrs, losses, lowest = _up_to_minimum(lr, loss)
    reason = f"a tenth of {lrs[lowest]:.3g}, where the smoothed loss is lowest ({losses[lowest]:.4g})"
    return Suggestion(float(lrs[lowest] / 10), "minimum_tenth", reason)


METHODS = {"edge": edge, "steepest": steepest, "minimum_tenth": minimum_tenth}


def _up_to_minimum(lr: ArrayLike, loss: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """The finite points, and the index of their lowest loss; the loss falls before it."""
    lrs, losses = np.asarray(lr, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if lrs.ndim != 1 or lrs.shape != losses.shape:
        raise ValueError(f"lr, loss: got shapes {lrs.shape} and {losses.shape}; give two arrays of one length")
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
        raise NoSuggestionError("the loss never falls: lower min_lr, or check the loss and what is trainable")
    return lrs, losses, lowest
