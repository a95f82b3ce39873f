"""Slopes of a curve: the change of the loss with the rate."""

from __future__ import annotations

import numpy as np

from ._smoothing import Floats, thin

SLOPE_DECADES = 0.15
"""Standard deviation of the weights of a slope over log10 of the rate, in decades."""

SLOPE_FRAC = 0.02
"""Standard deviation of the weights of a slope over the rate itself, as a fraction of the range of rates."""

SLOPE_POINTS = 1_000
"""Maximum number of points that slopes are fitted to. The number of weights is its square."""


def are_evenly_spaced(lr: Floats) -> bool:
    """Return whether neighbouring rates, ``[n]``, have equal differences, as those of a linear ramp have."""
    differences = np.diff(lr)
    return len(differences) > 1 and np.allclose(differences, differences.mean(), rtol=1e-6, atol=0.0)


def compute_slopes(lr: Floats, loss: Floats) -> Floats:
    """Return the change of ``loss`` with the rate.

    Args:
        lr: ``[n]``, ascending, above 0.
        loss: ``[n]``; a value that is not finite has no weight.
    Returns:
        float64 ``[n]``: the change per decade of the rate, or per unit of the rate where rates are evenly spaced.
    """
    if are_evenly_spaced(lr):
        return _local_slopes(lr, loss, SLOPE_FRAC * float(lr[-1] - lr[0]))
    return _local_slopes(np.log10(lr), loss, SLOPE_DECADES)


def _local_slopes(every_x: Floats, loss: Floats, min_width: float) -> Floats:
    """Return the slopes, ``[n]``, of lines fitted around each point with Gaussian weights.

    The width of the weights is ``min_width``, or 0.7 times the distance to the neighbours if that is more: differences
    of dense neighbours are noise. A long curve is thinned first, and its slopes are interpolated. All are NaN if fewer
    than two losses are finite.
    """
    x, values = thin(every_x, loss, SLOPE_POINTS)
    finite = np.isfinite(values)
    if finite.sum() < 2:
        return np.full(len(every_x), np.nan)
    width = np.maximum(min_width, 0.7 * np.gradient(x))
    weights = np.exp(-(((x[:, None] - x) / width[:, None]) ** 2) / 2) * finite
    weights /= weights.sum(axis=1, keepdims=True)
    dx = x - (weights @ x)[:, None]
    fitted = (weights * dx) @ np.where(finite, values, 0.0) / (weights * dx**2).sum(axis=1)
    return np.interp(every_x, x, fitted)
