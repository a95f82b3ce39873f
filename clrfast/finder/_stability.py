"""Where a curve diverges, and the largest stable learning rate. Pure NumPy."""

from __future__ import annotations

import math

import numpy as np

from ._smoothing import Floats, estimate_noise
from ._suggestion import NoSuggestionError
from ._suggestion_rules import MIN_POINTS

MIN_FALL_DISTANCES = 2.5
"""Minimum fall of a loss, in median distances of the loss from its smoothed curve. Of 100 curves of 100 points of pure
noise, 94 fall by less."""

FEW_POINTS = 4 * MIN_POINTS
"""Number of points up to which the smoothed curve follows the noise, so that distances from it measure nothing."""


def find_divergence_lr(lr: Floats, bounded: Floats, smooth: Floats) -> float | None:
    """Find the lowest rate from which the smoothed loss stays above its highest value up to its minimum.

    It must be higher by more than ``MIN_FALL_DISTANCES`` median distances of the loss from its smoothed curve.

    Args:
        lr, bounded, smooth: float64 ``[n]``: the rates, the losses up to the divergence limit, and these smoothed.
    Returns:
        The rate; None if the curve does not diverge.
    """
    if not len(smooth):
        return None
    until, distance = int(smooth.argmin()) + 1, 0.0
    if len(smooth) > FEW_POINTS:
        until = max(until, len(smooth) // 4)  # the minimum of pure noise may be anywhere
        distance = float(np.median(np.abs(bounded - smooth)[: max(until, len(smooth) // 2)]))
    low = np.flatnonzero(smooth <= smooth[:until].max() + MIN_FALL_DISTANCES * distance)
    return float(lr[low[-1] + 1]) if low[-1] + 1 < len(smooth) else None


def estimate_stability_lr(lr: Floats, loss: Floats, initial_loss: float, momentum: float | None) -> float:
    """Estimate the largest rate at which gradient descent is stable, from the growth of a diverging loss.

        sqrt((loss[i] - best) / (loss[i-1] - best)) = growth
        stability_lr = lr[i] * 2 * (1 + momentum) / (1 + momentum + growth + momentum / growth)

    The result is the median over the last 3 rises. Beyond the limit of heavy-ball momentum the steepest direction
    grows by ``growth`` per step, which solves ``growth + momentum / growth = lr * lambda_max - 1 - momentum``. On a
    quadratic the result is therefore ``2 * (1 + momentum) / lambda_max``, also where noise and other directions hide
    the beginning of the growth. On other losses it is the limit for the curvature met there.

    Args:
        lr, loss: float64 ``[n]``, n >= 1, of a ramp that diverged.
        initial_loss: the loss before the first update.
        momentum: momentum of heavy-ball SGD, in [0, 1); None if unknown.
    Returns:
        The rate. Where the momentum is unknown or the loss exploded within one step, the rate at which the final climb
        began.
    """
    end = len(loss) - (1 if math.isfinite(loss[-1]) else 2)
    first = end
    while first > 0 and loss[first - 1] < loss[first]:
        first -= 1
    if end < 1 or momentum is None or first == end:
        return float(lr[max(first, 0)])
    rises = np.arange(max(first, end - 3), end + 1)
    above = loss[rises] - min(loss[: end + 1].min(), initial_loss)
    known = above[:-1] > 0  # the growth from the best loss itself is unknown
    if not known.any():
        return float(lr[first])
    growth, rates = np.sqrt(above[1:][known] / above[:-1][known]), lr[rises[1:]][known]
    return float(np.median(rates * 2 * (1 + momentum) / (1 + momentum + growth + momentum / growth)))


def require_descent(lr: Floats, bounded: Floats, smooth: Floats, diverged_at: float | None) -> None:
    """Raise NoSuggestionError if the loss does not fall by more than its noise.

    Curves of fewer than ``MIN_POINTS`` pass: the rules refuse them.
    """
    if len(smooth) < MIN_POINTS:
        return
    lowest = int(smooth.argmin())
    few = len(smooth) <= FEW_POINTS
    if lowest < MIN_POINTS and not few:
        diverges = "" if diverged_at is None else f" and diverges at {diverged_at:.3g}"
        raise NoSuggestionError(
            f"the loss never falls: it is lowest at {lr[lowest]:.3g}{diverges}; lower min_lr, or, if the model "
            "is already trained, stay below that rate"
        )
    fall = float(np.median(smooth[: max((lowest + 1) // 2, 1)]) - smooth[lowest])
    distance = estimate_noise(bounded) if few else float(np.median(np.abs(bounded - smooth)[:lowest]))
    if fall < MIN_FALL_DISTANCES * distance:
        raise NoSuggestionError(
            f"the loss falls by only {max(fall, 0):.3g}, too little compared with its usual noise "
            f"({distance:.3g}): take larger batches (or accumulate), more steps or a higher max_lr, "
            "unless the model is already trained"
        )
