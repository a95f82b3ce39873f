"""What the losses met so far let expect elsewhere: a Gaussian process, and the improvement on the lowest."""

from __future__ import annotations

import math

import numpy as np

from ..finder._noise import Floats

LENGTHS = (0.7, 1.6)
"""Decades of the rate and of the weight decay over which a loss changes much."""

NOISE = 0.3
"""Of a value, in spreads of the surface."""

SPREAD = 0.5
"""Of the surface's values, to begin with: it counts as much as one of those that were met."""

FLOOR = 0.05
"""Differences between losses that are smaller than this part of the whole fall count little."""


def heights(losses: Floats, initial: float) -> Floats:
    """What the surface goes through: the logarithm of what is missing to the lowest loss, of the whole fall.

    So the surface tells apart what is near the best; what failed is all at one height. ``losses``, float64 ``[n]``,
    may be inf; the lowest is below ``initial``, the loss at the start.
    """
    lowest = losses.min()
    return np.log((np.minimum(losses, initial) - lowest) / (initial - lowest) + FLOOR)


class Surface:
    """A Gaussian process through ``values``, float64 ``[n]``.

    It lies over ``places``, float64 ``[n, 2]``: decades of the rate and of the weight decay. Its covariance is Matérn's
    with 5/2, its mean is constant; mean and spread follow from the values.

    Source: Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", sections 2.2, 2.7 and 4.2.
    """

    def __init__(self, places: Floats, values: Floats):
        self._places = places
        self._inverse = np.linalg.inv(_covariance(places, places) + NOISE**2 * np.eye(len(values)))
        weights = self._inverse.sum(axis=0)
        self._mean = float(weights @ values / weights.sum())
        self._weighted = self._inverse @ (values - self._mean)
        fitted = float((values - self._mean) @ self._weighted)
        self._variance = (fitted + SPREAD**2) / (len(values) + 1)

    def __call__(self, places: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, noise included, of the values to expect at ``places``, float64 ``[m, 2]``."""
        near = _covariance(places, self._places)
        left = 1 + NOISE**2 - ((near @ self._inverse) * near).sum(axis=1)
        return self._mean + near @ self._weighted, np.sqrt(self._variance * left)

    def improvement(self, places: Floats) -> Floats:
        """By how much the values at ``places`` are expected to be below the lowest mean at those that were met.

        Source: Jones, Schonlau & Welch 1998, "Efficient global optimization of expensive black-box functions".
        """
        (mean, spread), (met, _) = self(places), self(self._places)
        z = (met.min() - mean) / spread
        below = 0.5 * (1 + np.array([math.erf(x) for x in z / math.sqrt(2)]))
        return spread * (z * below + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))


def _covariance(a: Floats, b: Floats) -> Floats:
    """``[len(a), len(b)]``, of surfaces with a variance of 1."""
    d = np.sqrt(5 * (((a[:, None] - b[None]) / np.array(LENGTHS)) ** 2).sum(axis=-1))
    covariance: Floats = (1 + d + d**2 / 3) * np.exp(-d)
    return covariance
