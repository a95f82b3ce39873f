"""Losses and their noise: smoothing, the noise's size, and where a loss has diverged. Pure NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

WIDTH_FRAC = 0.02
"""Of the weights of ``smoothed``, as a fraction of the number of points."""

MIN_SCALE = 1e-3
"""A loss that has neither fallen nor any noise still has to climb by this part of itself before it has diverged."""

ENOUGH = 10
"""Of fewer values than this the noise is not known; such a loss has to climb by all of its size."""

NOISES = 10
"""Minimum climb of a diverged loss, in standard deviations of its noise: beyond the reach of noise alone."""

PREFIXES = 16
"""Beginnings of a record whose noise is measured, for each doubling of their length."""

EXPLODED = 10
"""So many times as far above the start as the limit is: no outlier, but a loss that has multiplied within a step."""

MOST_POINTS = 10_000
"""Of a curve for a suggestion: many times as many as the smoothed curve, which is of ``WIDTH_FRAC``, has turns."""

MOST_PRODUCTS = 2**24
"""Multiplications of a convolution above which Fourier transforms take its place: about 7,000 losses."""


def smoothed(loss: ArrayLike, width_frac: float = WIDTH_FRAC) -> Floats:
    """Centred moving average with Gaussian weights.

        smoothed[i] = sum_j w[i, j] * loss[j] / sum_j w[i, j],   w[i, j] = exp(-((i - j) / width) ** 2 / 2)

    Looking to both sides it has no lag: a running average of the past shows the minimum of 100 steps at two to
    three times its rate.

    Args:
        loss: ``[n]``; a value that is not finite has no weight.
        width_frac: width of the weights as a fraction of n, at least half a point.
    Returns:
        float64 ``[n]``, NaN where the loss is not finite.

    >>> smoothed([1.0, 1.0, 4.0, 1.0, 1.0]).round(2).tolist()
    [1.0, 1.32, 3.36, 1.32, 1.0]
    """
    loss = np.asarray(loss, dtype=np.float64)
    if not len(loss):
        return loss
    finite = np.isfinite(loss)
    width = max(width_frac * len(loss), 0.5)
    # As a convolution, in memory for n values and not n * n; what is left out of the weights is less than a rounding.
    reach = min(math.ceil(9 * width), len(loss) - 1)
    weights = np.exp(-((np.arange(-reach, reach + 1) / width) ** 2) / 2)
    total, known = (_convolved(x, weights, reach) for x in (np.where(finite, loss, 0.0), finite.astype(np.float64)))
    return np.where(finite, total / np.maximum(known, 1.0), math.nan)


def _convolved(values: Floats, weights: Floats, reach: int) -> Floats:
    """``[n]`` sums of ``values`` around each, with ``2 * reach + 1`` weights; in O(n log n) for long records."""
    n = len(values)
    if n * len(weights) <= MOST_PRODUCTS:
        return np.convolve(values, weights)[reach : reach + n]
    size = 1 << (n + len(weights) - 2).bit_length()
    product = np.fft.rfft(values, size) * np.fft.rfft(weights, size)
    return np.fft.irfft(product, size)[reach : reach + n]


def thinned(lr: Floats, values: Floats, most: int = MOST_POINTS) -> tuple[Floats, Floats]:
    """At most ``most`` points of a curve: the means of so many neighbours, each beside the rate in their middle.

    >>> lr, means = thinned(np.arange(1.0, 8.0), np.arange(7.0), most=3)
    >>> lr.tolist(), means.tolist()
    ([2.0, 5.0, 7.0], [1.0, 4.0, 6.0])
    """
    n = len(values)
    if n <= most:
        return lr, values
    size = -(-n // most)
    begins = np.arange(0, n, size)
    sizes = np.diff(begins, append=n)
    return lr[begins + (sizes - 1) // 2], np.add.reduceat(values, begins) / sizes


def noise(loss: ArrayLike) -> float:
    """Standard deviation of the noise in ``loss`` (``[n]``), from its differences from neighbour to neighbour.

    Robust: a median, so neither a descent nor an explosion counts. 0 for fewer than 3 finite values.

    >>> float(round(noise(np.random.default_rng(0).normal(size=2000)), 1))
    1.0
    """
    values = np.asarray(loss, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 3:
        return 0.0
    # Of three neighbours the middle one against the mean of the others: a slope leaves nothing.
    apart = np.abs(values[1:-1] - (values[:-2] + values[2:]) / 2)
    return float(np.median(apart) / (0.6745 * math.sqrt(1.5)))


def divergence(loss: ArrayLike, stop_factor: float = 4.0) -> tuple[int | None, float]:
    """The first index at which ``loss`` has diverged, and the limit that it has passed there, or would have to.

        limit = start + (stop_factor - 1) * max(start - best, 10 * noise, 0.001 * |start|)
                                    (of fewer than 10 values, |start| in place of the last)

    It has diverged where the median of the last 3 values exceeds the limit, a single one is ten times as far above the
    start, or is not finite. ``start`` is the first value, ``best`` the lowest such median so far, ``noise`` that of the
    whole record or, where it is larger, of the values until then: a loss that has come to rest does not make a wiggle
    of its beginning an explosion. The scale is the loss's own: neither its sign nor what is added to it matters, and a
    loss near zero may rise by what it fell before.

    Args:
        loss: ``[n]``, in the order of the steps.
        stop_factor: > 1.
    Returns:
        ``(index or None, limit)``.
    """
    values = np.asarray(loss, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(values))
    finite = values[: broken[0]] if len(broken) else values
    if not len(finite):
        return (0, math.inf) if len(broken) else (None, math.inf)
    start = float(finite[0])
    padded = np.concatenate((finite[:1], finite[:1], finite))
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, 3), axis=1)
    best = np.minimum(np.minimum.accumulate(medians), start)
    floor = _floor(finite, start)
    limits = start + (stop_factor - 1) * np.maximum(start - best, floor)
    known: dict[int, float] = {}
    for index in np.flatnonzero(_beyond(finite, medians, start, limits)).tolist():
        until = _prefix(index + 1)
        if until not in known:
            known[until] = _floor(finite[:until], start)
        limits[index] = max(limits[index], start + (stop_factor - 1) * known[until])
        if _beyond(finite[index], medians[index], start, limits[index]):
            return index, float(limits[index])
    return (int(broken[0]) if len(broken) else None), float(limits[-1])


def _floor(values: Floats, start: float) -> float:
    """What ``values`` must climb by in any case: many times their noise, and a part of themselves."""
    return max(NOISES * noise(values), (MIN_SCALE if len(values) >= ENOUGH else 1.0) * abs(start))


def _beyond(values: Any, medians: Any, start: float, limits: Any) -> Any:
    return (medians > limits) | (values - start > EXPLODED * (limits - start))


def _prefix(n: int) -> int:
    """The longest beginning of ``n`` values whose noise is measured: of few lengths, for a record may be long."""
    step = max(1, n // PREFIXES)
    return n // step * step
