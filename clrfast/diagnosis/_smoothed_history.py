"""``SmoothedHistory``: the losses of a run without their noise, for ``diagnose``. Pure NumPy."""

from __future__ import annotations

import math

import numpy as np

from ..finder._smoothing import ROUNDING_FRAC, Floats, estimate_noise, smooth
from ._loss_history import History

TREND_WIDTH_FRAC = 0.03
"""Width of the smoothing, as a fraction of the points. At the ends of an even fall the smoothed loss lags by a fortieth
of the run, which is little compared with the thirds that are judged."""

MIN_SIGMAS = 5.0
"""Minimum change of a smoothed loss, in its standard errors, that is not noise. Changes are tested in many places, so 4
of 100 losses that are pure noise seem to fall by four standard errors."""


class SmoothedHistory:
    """The smoothed losses of a run at the steps of its validations, with their noise and falls.

    Attributes:
        steps: int64 ``[m]``, the updates before each validation.
        last_step: the updates before the last validation.
        judged_until: the step up to which slow falling and plateaus are judged: the last step at half of the highest
            rate, or the middle of the run if that is later; ``last_step`` without rates.
        train_loss, val_loss: float64 ``[m]``, smoothed.
        train_error, val_error: their standard errors.
        initial_train_loss: the first training loss, not smoothed.
        fall: how far the training or the validation loss has fallen, whichever is more; 0 if neither fell by more than
            noise.
        train_fell: whether the training loss fell by more than noise.
        decay_exponent: sum of lr * weight_decay: the decay alone shrinks the weights by exp(decay_exponent). None if
            the settings are not known.
    """

    def __init__(self, history: History):
        train, val = np.asarray(history.train_loss), np.asarray(history.val_loss)
        self._n = len(train)
        self.steps, self.weight_decay = np.asarray(history.val_steps), history.weight_decay
        self.initial_train_loss, self.lr = float(train[0]), None if history.lr is None else np.asarray(history.lr)
        self.last_step = int(self.steps[-1])
        self.total_steps = history.total_steps or self.last_step
        trend, self.train_error, train_fall = _trend(train)
        self.val_loss, self.val_error, val_fall = _trend(val)
        self.train_loss = np.interp(self.steps, np.arange(self._n), trend)
        self.train_fell, self.fall = train_fall > 0, max(train_fall, val_fall)
        self.decay_exponent, self.judged_until = None, self.last_step
        if self.lr is not None:
            if self.weight_decay is not None:
                self.decay_exponent = float(self.lr.sum()) * self.weight_decay
            high = np.flatnonzero(self.lr >= self.lr.max() / 2)
            self.judged_until = min(max(int(high[-1]) + 1, math.ceil(self._n / 2)), self.last_step)

    def is_significant(self, change: float, frac: float, error: float) -> bool:
        """Return whether a change of a loss with this standard error exceeds ``frac`` of the whole fall, and noise."""
        return change > max(frac * self.fall, MIN_SIGMAS * error)

    def at_thirds(self, loss: Floats) -> tuple[float, float, float]:
        """Return ``loss``, ``[m]``, at one third, two thirds and the end of the steps up to ``judged_until``."""
        first, second, end = np.interp(np.array([1, 2, 3]) / 3 * self.judged_until, self.steps, loss)
        return float(first), float(second), float(end)

    def describe_step(self, step: int) -> str:
        """Return the step in words, with its rate if that is known."""
        return f"step {step}" + ("" if self.lr is None else f" (lr {self.lr[min(step, self._n - 1)]:.3g})")

    def describe_span(self, first: int, last: int) -> str:
        """Return both steps in words."""
        return f"from {self.describe_step(first)} to {self.describe_step(last)}"

    def suggest_higher_rate(self) -> str:
        """Return what to try against underfitting."""
        return "a higher rate" + ("" if self.lr is None else f", such as {3 * self.lr.max():.2g}")

    def suggest_less_decay(self) -> str:
        """Return what to try against too much regularisation."""
        if not self.weight_decay:
            return "take less regularisation (weight decay, dropout, augmentation)"
        return f"take a weight decay of {self.weight_decay / 10:.2g} instead of {self.weight_decay:.2g}"


def _trend(loss: Floats) -> tuple[Floats, float, float]:
    """Return the loss without spikes and noise, its standard error, and its fall: 0 unless it exceeds the noise."""
    padded = np.concatenate((loss[:1], loss, loss[-1:]))
    trend = smooth(np.median(np.lib.stride_tricks.sliding_window_view(padded, 3), axis=1), TREND_WIDTH_FRAC)
    single = max(estimate_noise(loss), ROUNDING_FRAC * np.abs(loss).max())
    # At the ends the weights cover one side only, which averages like sqrt(pi) * width points of equal weight.
    error = single / math.sqrt(max(1.0, math.sqrt(math.pi) * TREND_WIDTH_FRAC * len(loss)))
    # The first of these finds a steep fall, the second a slow one that the noise hides.
    falls = ((loss[0] - trend.min(), single), (trend[0] - trend.min(), error))
    return trend, error, max(float(fall) if fall > MIN_SIGMAS * sigma else 0.0 for fall, sigma in falls)
