"""Smoothing of losses and the size of their noise. Pure NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

SMOOTHING_FRAC = 0.02
"""Standard deviation of the Gaussian weights of ``smooth``, as a fraction of the number of points."""

ROUNDING_FRAC = 1e-5
"""Fraction of a loss below which differences are rounding errors, because losses are float32."""

MAX_CURVE_POINTS = 10_000
"""Number of points above which a curve is thinned before a rule reads it. The smoothed curve, whose width is
``SMOOTHING_FRAC``, has far fewer turning points than this."""

MAX_DIRECT_PRODUCTS = 2**24
"""Number of multiplications above which a convolution uses Fourier transforms. About 7,000 losses reach it."""


def smooth(loss: ArrayLike, width_frac: float = SMOOTHING_FRAC) -> Floats:
    """Compute a centred moving average with Gaussian weights.

        smoothed[i] = sum_j w[i, j] * loss[j] / sum_j w[i, j],   w[i, j] = exp(-((i - j) / width) ** 2 / 2)

    A centred average has no lag. A running average of past losses puts the minimum of 100 steps at two to three times
    its true rate.

    Args:
        loss: ``[n]``. Values that are not finite have no weight.
        width_frac: standard deviation of the weights as a fraction of n; the width is at least half a point.
    Returns:
        float64 ``[n]``, NaN where the loss is not finite.

    >>> smooth([1.0, 1.0, 4.0, 1.0, 1.0]).round(2).tolist()
    [1.0, 1.32, 3.36, 1.32, 1.0]
    """
    loss = np.asarray(loss, dtype=np.float64)
    if not len(loss):
        return loss
    finite = np.isfinite(loss)
    width = max(width_frac * len(loss), 0.5)
    # A convolution needs memory for n values, not n * n. The weights beyond `reach` are below the rounding error.
    reach = min(math.ceil(9 * width), len(loss) - 1)
    weights = np.exp(-((np.arange(-reach, reach + 1) / width) ** 2) / 2)
    total, weight = (_convolve(x, weights, reach) for x in (np.where(finite, loss, 0.0), finite.astype(np.float64)))
    return np.where(finite, total / np.maximum(weight, 1.0), math.nan)


def _convolve(values: Floats, weights: Floats, reach: int) -> Floats:
    """Sum ``values`` around each point with ``2 * reach + 1`` weights, in O(n log n) for long records."""
    n = len(values)
    if n * len(weights) <= MAX_DIRECT_PRODUCTS:
        return np.convolve(values, weights)[reach : reach + n]
    size = 1 << (n + len(weights) - 2).bit_length()
    product = np.fft.rfft(values, size) * np.fft.rfft(weights, size)
    return np.fft.irfft(product, size)[reach : reach + n]


def thin(lr: Floats, values: Floats, max_points: int = MAX_CURVE_POINTS) -> tuple[Floats, Floats]:
    """Reduce a curve to at most ``max_points`` means of neighbouring values, each with the rate in their middle.

    A curve of at most ``max_points`` is returned unchanged.

    >>> lr, means = thin(np.arange(1.0, 8.0), np.arange(7.0), max_points=3)
    >>> lr.tolist(), means.tolist()
    ([2.0, 5.0, 7.0], [1.0, 4.0, 6.0])
    """
    n = len(values)
    if n <= max_points:
        return lr, values
    size = -(-n // max_points)
    begins = np.arange(0, n, size)
    sizes = np.diff(begins, append=n)
    return lr[begins + (sizes - 1) // 2], np.add.reduceat(values, begins) / sizes


def estimate_noise(loss: ArrayLike) -> float:
    """Estimate the standard deviation of the noise in ``loss`` (``[n]``) from the differences of neighbours.

    The estimate is a median, so neither a descent nor an explosion of the loss distorts it. It is 0 for fewer than 3
    finite values.

    >>> float(round(estimate_noise(np.random.default_rng(0).normal(size=2000)), 1))
    1.0
    """
    values = np.asarray(loss, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 3:
        return 0.0
    # Each value minus the mean of its two neighbours: a constant slope cancels.
    residuals = np.abs(values[1:-1] - (values[:-2] + values[2:]) / 2)
    return float(np.median(residuals) / (0.6745 * math.sqrt(1.5)))
