"""A Gaussian process over rate and weight decay, and the expected improvement on the lowest loss. Pure NumPy."""

from __future__ import annotations

import math

import numpy as np

from ..finder._smoothing import Floats

LENGTH_SCALES = (0.7, 1.0)
"""Length scales of the kernel along the two coordinates, in decades. The losses of the 15 development tasks of
``benchmarks.recipe_quality`` are most likely with 0.9 and 1.0, and simulated searches on them end lower with 0.7."""

NOISE = 0.2
"""Standard deviation of the noise, as a fraction of the kernel's standard deviation; by the same likelihood."""

PRIOR_STD = 1.0
"""Prior guess of the kernel's standard deviation, by the same likelihood. It weighs as much as one observed value."""

REGRET_FLOOR = 0.2
"""Constant added to the regret before its logarithm, so that differences well below it count little."""


def log_regret(losses: Floats, lowest: float, initial_loss: float) -> Floats:
    """Return the log of each loss's distance to the lowest one, as a fraction of the whole fall of the loss.

        log((min(loss, initial_loss) - lowest) / (initial_loss - lowest) + REGRET_FLOOR)

    The logarithm separates good losses from the best one and gives all failed runs the same value.

    Args:
        losses: float64 ``[n]``; may contain inf.
        lowest: the lowest of these losses and of others to compare with, < ``initial_loss``.
        initial_loss: the loss before the first update.
    Returns:
        float64 ``[n]``.
    """
    return np.log((np.minimum(losses, initial_loss) - lowest) / (initial_loss - lowest) + REGRET_FLOOR)


class GaussianProcess:
    """A Gaussian process with a Matérn 5/2 kernel, a constant mean and white noise, conditioned on observed values.

    The mean is the generalised least-squares estimate, and the variance is estimated from the values and a prior.

    Args:
        points: float64 ``[n, 2]``, in decades.
        values: float64 ``[n]``, observed at the points.

    Source: Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", sections 2.2, 2.7 and 4.2.
    """

    def __init__(self, points: Floats, values: Floats):
        self._points = points
        self._precision = np.linalg.inv(_correlation(points, points) + NOISE**2 * np.eye(len(values)))
        weights = self._precision.sum(axis=0)
        self.mean = float(weights @ values / weights.sum())
        self._coefficients = self._precision @ (values - self.mean)
        misfit = float((values - self.mean) @ self._coefficients)
        self.variance = (misfit + PRIOR_STD**2) / (len(values) + 1)

    def posterior(self, points: Floats) -> tuple[Floats, Floats]:
        """Return the mean and the standard deviation, without noise, at ``points`` ``[m, 2]``."""
        correlation = _correlation(points, self._points)
        unexplained = 1 - ((correlation @ self._precision) * correlation).sum(axis=1)
        return self.mean + correlation @ self._coefficients, np.sqrt(self.variance * np.maximum(unexplained, 1e-9))

    def expected_improvement(self, points: Floats, lowest: float) -> Floats:
        """Return how far the values without noise at ``points`` ``[m, 2]`` are expected to fall below ``lowest``.

        Source: Jones, Schonlau & Welch 1998, "Efficient global optimization of expensive black-box functions".
        """
        mean, std = self.posterior(points)
        z = (lowest - mean) / std
        cdf = 0.5 * (1 + np.array([math.erf(x) for x in z / math.sqrt(2)]))
        return std * (z * cdf + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))


def _correlation(a: Floats, b: Floats) -> Floats:
    """Return the kernel with unit variance, ``[len(a), len(b)]``."""
    d = np.sqrt(5 * (((a[:, None] - b[None]) / np.array(LENGTH_SCALES)) ** 2).sum(axis=-1))
    correlation: Floats = (1 + d + d**2 / 3) * np.exp(-d)
    return correlation
