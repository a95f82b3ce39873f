"""The divergence rule: the step at which a loss has diverged. Pure NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._smoothing import Floats, estimate_noise

MIN_CLIMB_FRAC = 1e-3
"""Minimum climb of a diverged loss as a fraction of the first loss, for a loss with neither a fall nor noise."""

MIN_NOISE_SAMPLES = 10
"""Number of losses below which the noise is unknown. The minimum climb is then the size of the first loss itself."""

MIN_CLIMB_STDS = 10
"""Minimum climb of a diverged loss, in standard deviations of its noise: beyond the reach of noise alone."""

PREFIXES_PER_DOUBLING = 16
"""Number of prefix lengths at which the noise is measured, for each doubling of the length."""

EXPLOSION_FACTOR = 10
"""Climb of a single loss, as a multiple of the limit's climb, above which it is an explosion and not an outlier."""


def find_divergence(loss: ArrayLike, stop_factor: float = 4.0) -> tuple[int | None, float]:
    """Find the first index at which ``loss`` has diverged, and the limit that it exceeds.

        limit = start + (stop_factor - 1) * max(start - best, 10 * noise, 0.001 * |start|)
                                    (with fewer than 10 values, |start| replaces the last term)

    The loss has diverged where the median of the last 3 values exceeds the limit, where a single value is ten times as
    far above the start as the limit, or where a value is not finite. ``start`` is the first value. ``best`` is the
    lowest median of 3 so far. ``noise`` is the larger of the noise of the whole record and of the values so far, so
    that the early noise of a loss that becomes constant is not taken for an explosion.

    The limit scales with the loss: neither its sign nor a constant offset matters, and a loss near zero may climb by
    what it fell before.

    Args:
        loss: ``[n]``, in the order of the steps.
        stop_factor: > 1; inf: only a value that is not finite has diverged.
    Returns:
        ``(index, limit)``; the index is None if the loss has not diverged, and the limit is then the current one.
    """
    values = np.asarray(loss, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(values))
    finite = values[: broken[0]] if len(broken) else values
    if not len(finite):
        return (0, math.inf) if len(broken) else (None, math.inf)
    if math.isinf(stop_factor):  # the formula would be inf * 0 for a loss that is always 0
        return (int(broken[0]) if len(broken) else None), math.inf
    start = float(finite[0])
    padded = np.concatenate((finite[:1], finite[:1], finite))
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, 3), axis=1)
    best = np.minimum(np.minimum.accumulate(medians), start)
    limits = start + (stop_factor - 1) * np.maximum(start - best, _min_climb(finite, start))
    min_climbs: dict[int, float] = {}
    for index in np.flatnonzero(_exceeds(finite, medians, start, limits)).tolist():
        n = _prefix_length(index + 1)
        if n not in min_climbs:
            min_climbs[n] = _min_climb(finite[:n], start)
        limits[index] = max(limits[index], start + (stop_factor - 1) * min_climbs[n])
        if _exceeds(finite[index], medians[index], start, limits[index]):
            return index, float(limits[index])
    return (int(broken[0]) if len(broken) else None), float(limits[-1])


def _min_climb(values: Floats, start: float) -> float:
    size_frac = MIN_CLIMB_FRAC if len(values) >= MIN_NOISE_SAMPLES else 1.0
    return max(MIN_CLIMB_STDS * estimate_noise(values), size_frac * abs(start))


def _exceeds(values: Any, medians: Any, start: float, limits: Any) -> Any:
    return (medians > limits) | (values - start > EXPLOSION_FACTOR * (limits - start))


def _prefix_length(n: int) -> int:
    """Round ``n`` down to one of few lengths at which the noise of a long record is measured."""
    step = max(1, n // PREFIXES_PER_DOUBLING)
    return n // step * step
