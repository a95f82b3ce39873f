"""``MeasuredCurve``: the losses of one ramp against the rate, smoothed, with their noise, divergence and stability."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ._divergence import find_divergence
from ._metrics import VALIDATION_LOSS
from ._slopes import are_evenly_spaced, compute_slopes
from ._smoothing import Floats, estimate_noise, smooth
from ._stability import estimate_stability_lr, find_divergence_lr
from ._suggestion import NoSuggestionError
from ._suggestion_rules import MIN_POINTS

StopReason = Literal["completed", "diverged", "non-finite"]

MIN_NOISE_POINTS = 10
"""Minimum number of points from which ``noise`` is estimated. Longer curves use their first eighth, where the loss
hardly falls."""

FITTED_FRAC = 1e-2
"""Maximum loss of a model that has fitted the data, as a fraction of the initial loss. Its gradients vanish there."""


def find_fitted(loss: Floats, initial_loss: float) -> NDArray[np.bool_]:
    """Find the losses at which the model has fitted the data: at most 1 % of the initial loss.

    A loss that can be negative shows no fit, because its minimum is not 0 (a negative log-likelihood, for example).
    Values down to minus 1 % of the initial loss count as rounding errors of 0.

    Args:
        loss: float64 ``[n]``; may contain NaN and inf.
    Returns:
        bool ``[n]``; False everywhere if the initial loss or any other one is negative.
    """
    limit = FITTED_FRAC * initial_loss
    if limit < 0 or (loss < -limit).any():
        return np.zeros(len(loss), dtype=np.bool_)
    return loss <= limit


@dataclass(frozen=True, eq=False)
class MeasuredCurve:
    """The measurements of one ramp of the learning rate, and what is derived from them without a rule.

    The attributes are described in ``LRCurve``.
    """

    lr: Floats
    loss: Floats
    initial_loss: float
    stopped: StopReason
    stop_reason: str
    metric: Floats | None = None
    metric_name: str = ""
    momentum: float | None = None
    probe_loss: Floats | None = None

    def __post_init__(self) -> None:
        for name, values in (("loss", self.loss), ("metric", self.metric), ("probe_loss", self.probe_loss)):
            if values is not None and (self.lr.ndim != 1 or self.lr.shape != values.shape):
                raise ValueError(
                    f"lr, {name}: got shapes {self.lr.shape} and {values.shape}; give two arrays of one length"
                )
        if self.stopped not in get_args(StopReason):
            raise ValueError(f"stopped: got {self.stopped!r}; give one of {get_args(StopReason)}")

    @cached_property
    def bounded(self) -> Floats:
        """Loss clipped at the divergence limit, which also replaces NaN and infinities: float64 ``[n]``."""
        _, limit = find_divergence(np.concatenate(([self.initial_loss], self.loss)))
        return np.where(np.isfinite(self.loss), np.minimum(self.loss, limit), limit)

    @cached_property
    def smoothed(self) -> Floats:
        """Bounded loss without its noise, a centred average with Gaussian weights: float64 ``[n]``."""
        return smooth(self.bounded)

    @property
    def spacing(self) -> Literal["exponential", "linear"]:
        """Spacing of the rates: "linear" if neighbours have equal differences, else "exponential"."""
        return "linear" if are_evenly_spaced(self.lr) else "exponential"

    @cached_property
    def slope(self) -> Floats:
        """Change of the loss per decade of the rate, or per unit of the rate if ``spacing`` is linear: float64 ``[n]``.

        NaN if fewer than two points are finite.
        """
        return compute_slopes(self.lr, self.bounded)

    @property
    def metric_is_loss(self) -> bool:
        """Whether ``metric`` is the loss on validation batches."""
        return self.metric_name == VALIDATION_LOSS

    @property
    def fitted_from(self) -> int | None:
        """First index from which the model has fitted the data at all points; see ``find_fitted``.

        None if fewer than 5 points are left from there.
        """
        unfitted = np.flatnonzero(~find_fitted(self.loss, self.initial_loss))
        first = int(unfitted[-1]) + 1 if len(unfitted) else 0
        return first if first + MIN_POINTS <= len(self.loss) else None

    @property
    def divergence_lr(self) -> float | None:
        """Lowest rate from which the smoothed loss stays above its highest value up to its minimum.

        The last rate if the run was stopped before that; None if the curve did not diverge.
        """
        at = find_divergence_lr(self.lr, self.bounded, self.smoothed)
        return float(self.lr[-1]) if at is None and self.stopped != "completed" else at

    @property
    def stability_lr(self) -> float | None:
        """Largest rate at which gradient descent is stable, estimated from the growth of the diverging loss.

        On a quadratic with the largest curvature ``lambda_max`` it is ``2 * (1 + momentum) / lambda_max``. Without a
        known momentum (other optimizers than SGD) it is the rate at which the final climb began. None for a curve that
        did not diverge.
        """
        if self.stopped == "completed" or not len(self.loss):
            return None
        return estimate_stability_lr(self.lr, self.loss, self.initial_loss, self.momentum)

    @property
    def noise(self) -> float:
        """Standard deviation of the noise of a training batch's loss, at the lowest rates."""
        return estimate_noise(self.loss[: max(MIN_NOISE_POINTS, len(self.loss) // 8)])

    @property
    def informative_end(self) -> int:
        """Number of points up to a perfect fit of the data, and a few more; all points if the loss diverged."""
        if self.stopped != "completed" or self.fitted_from is None:
            return len(self.lr)
        return self.fitted_from + MIN_POINTS

    def measured_metric(self, rises: bool, method: str) -> tuple[Floats, Floats]:
        """Return the rates at which the metric was measured, and its values."""
        if self.metric is None:
            raise ValueError(
                f"method: {method!r} needs a held-out metric, and none was measured; call range_test with val_loader"
                + (" and metric='accuracy'" if rises else "")
            )
        if rises == self.metric_is_loss:
            better = "one that rises, such as the accuracy" if rises else "the validation loss"
            raise ValueError(f"method: {method!r} needs {better}, and the metric measured is the {self.metric_name}")
        at = ~np.isnan(self.metric)
        if at.sum() < MIN_POINTS:
            raise NoSuggestionError(
                f"the {self.metric_name} was measured {at.sum()} times up to {self.lr[-1]:.3g}, fewer than "
                f"{MIN_POINTS}: take a smaller val_every or more steps, or, if the ramp diverged, a lower max_lr"
            )
        return self.lr[at], self.metric[at]
