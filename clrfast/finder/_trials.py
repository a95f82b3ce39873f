"""``Trials``: the losses after short 1cycles at several rates, and the range of good rates. Pure NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._fields import Fields
from ._measured_curve import find_fitted
from ._smoothing import Floats

SHORT_STEPS = 20
"""Number of updates of the shortest trials."""

GOOD_FRAC = 0.1
"""Maximum excess of a good rate's loss over the best loss, as a fraction of the best trial's fall."""

MIN_PAIRS = 3
"""Minimum number of probe batches whose changes of the loss are compared."""

LOST_FRAC = 0.5
"""Fraction of the fall at lower rates that is lost at the first unstable rate. Trials above that rate do not count,
because a collapsed model may end lower at an even higher rate."""


@dataclass(frozen=True, eq=False)
class Trials:
    """Losses after short 1cycles of one length, from the same weights and on the same batches.

    Attributes:
        steps: number of updates of each trial.
        lr: float64 ``[n]``, ascending: the highest rate of each trial.
        loss: float64 ``[n]``: the loss of the probe batches after each trial; inf if it was not finite.
        noise: float64 ``[n]``: the uncertainty of each trial's change of the loss, at most the noise of a training
            batch's loss; see ``estimate_noise_of_change``.
        initial_loss: the loss of the probe batches before training.
    """

    steps: int
    lr: Floats
    loss: Floats
    noise: Floats
    initial_loss: float

    def __post_init__(self) -> None:
        for name, values in (("loss", self.loss), ("noise", self.noise)):
            if self.lr.ndim != 1 or not len(self.lr) or self.lr.shape != values.shape:
                raise ValueError(
                    f"lr, {name}: got shapes {self.lr.shape} and {values.shape}; give arrays of one length"
                )
        if not (self.lr > 0).all():
            raise ValueError(f"lr: got {float(self.lr.min())}; give rates above 0")
        if np.isnan(self.loss).any():
            raise ValueError("loss: got nan; give inf for a trial that diverged")

    def __repr__(self) -> str:
        return f"Trials(1cycles of {self.steps} steps, {describe_points(self.lr)})"

    @classmethod
    def from_plain(cls, data: Fields) -> Trials:
        """Make trials from the plain data of ``saving.to_plain``.

        Raises:
            ValueError: an entry is missing, unknown or of another kind; the message names it.
        """
        data.require_known("steps", "lr", "loss", "noise", "initial_loss")
        lr, loss, noise = data.ascending("lr", 0.0), data.numbers("loss"), data.finite_numbers("noise", 0.0)
        steps, initial_loss = data.integer("steps", 1), data.finite("initial_loss", -math.inf)
        with data.prefix_errors():
            return cls(steps, lr, loss, noise, initial_loss)

    @property
    def n_stable(self) -> int:
        """Number of trials below the first one that lost half of the fall at lower rates; at least 1."""
        best = self.initial_loss
        for index, loss in enumerate(self.loss.tolist()):
            fall = self.initial_loss - best
            if fall > 0 and not loss <= best + LOST_FRAC * fall:
                return index
            best = min(best, loss)
        return len(self.loss)

    @property
    def n_counted(self) -> int:
        """Number of stable trials up to the first that fitted the data; at least 1.

        Gradients vanish where the data are fitted, so the loss at a higher rate says nothing about that rate.
        """
        fitted = self._fitted[: self.n_stable]
        return int(fitted.argmax()) + 1 if fitted.any() else self.n_stable

    @property
    def fits_data(self) -> bool:
        """Whether a stable trial fitted the data."""
        return bool(self._fitted[: self.n_stable].any())

    @property
    def _fitted(self) -> NDArray[np.bool_]:
        return find_fitted(self.loss, self.initial_loss)

    @property
    def best(self) -> int:
        """Index of the lowest loss that counts."""
        return int(self.loss[: self.n_counted].argmin())

    @property
    def fall(self) -> float:
        """Fall of the loss in the best trial; negative or NaN if no trial lowers it."""
        return float(self.initial_loss - self.loss[self.best])

    def good_range(self) -> tuple[float, float]:
        """Return the lowest and the highest rate whose loss is at most the best one plus a tenth of the fall.

        Between two trials the loss is interpolated linearly in log lr. Towards a loss that is not finite, it crosses
        the limit halfway. Nothing is known beyond the first and the last trial, so the range ends there.
        """
        limit = float(self.loss[self.best]) + GOOD_FRAC * max(self.fall, 0.0)
        return self._crossing(-1, limit), self._crossing(1, limit)

    @property
    def middle(self) -> float:
        """Geometric mean of the ends of the good range."""
        return math.sqrt(math.prod(self.good_range()))

    def _crossing(self, side: int, limit: float) -> float:
        """Find the rate below (side -1) or above (1) the best trial at which the loss exceeds ``limit``."""
        inside = self.best
        while 0 <= inside + side < self.n_counted and self.loss[inside + side] <= limit:
            inside += side
        outside = inside + side
        if not 0 <= outside < len(self.lr) or self.loss[outside] <= limit:
            return float(self.lr[inside])
        rise = float(self.loss[outside] - self.loss[inside])
        share = (limit - self.loss[inside]) / rise if rise < math.inf else 0.5
        return float(self.lr[inside] * (self.lr[outside] / self.lr[inside]) ** share)


def describe_points(lr: Floats) -> str:
    """Return the number of points and the range of their rates."""
    return f"{len(lr)} points, lr {lr[0]:.3g} to {lr[-1]:.3g}" if len(lr) else "0 points"


def make_trials(steps: int, found: dict[float, tuple[float, float]], initial_loss: float) -> Trials:
    """Make ``Trials`` from the loss and its noise by the rate."""
    rates = sorted(found)
    loss, noise = zip(*(found[rate] for rate in rates), strict=True)
    return Trials(steps, np.array(rates), np.array(loss), np.array(noise), initial_loss)


def estimate_noise_of_change(before: Floats, after: Floats, noise: float) -> float:
    """Estimate the uncertainty of the change of the mean loss from the changes of single batches.

    It is two standard errors of the mean change, because the same batches are measured before and after. It is at most
    ``noise``, and equal to it for fewer than ``MIN_PAIRS`` batches.

    Args:
        before, after: float64 ``[n]``: losses of the same probe batches.
        noise: standard deviation of the noise of a training batch's loss.
    """
    change = after - before
    if len(change) < MIN_PAIRS or not np.isfinite(change).all():
        return noise
    return min(noise, 2 * float(change.std(ddof=1)) / math.sqrt(len(change)))
