"""The losses of one run, and what is left of them without their noise. Pure NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .._checks import is_whole
from ..finder._noise import ROUNDING_FRAC, Floats, noise_std, smoothed

TREND_FRAC = 0.03
"""Width of the smoothing, as a fraction of the points: at its ends an even fall looks a fortieth of the run behind,
little beside the thirds that are compared."""

SIGMAS = 5.0
"""A change counts beyond so many standard errors of the smoothed loss. It is looked for in many places: 4 of 100 losses
that are nothing but noise seem to fall by four of them."""


@dataclass(frozen=True, eq=False)
class History:
    """Losses of one run, and the settings that made them, as far as they are known.

    Args:
        train_loss: ``[n]``, the loss of each step before its update (or of any other unit of time, such as an epoch).
        val_loss: ``[m]``, on held-out data.
        val_steps: whole numbers ``[m]``, ascending, in [0, n]: the updates before each of them. None: evenly spaced,
            the last one at the end.
        lr: ``[n]`` or one number, >= 0.
        weight_decay: >= 0.
        total_steps: of the whole training, at least n, where these losses are only its beginning.
    Raises:
        ValueError: shapes or values of the input.
    """

    train_loss: ArrayLike
    val_loss: ArrayLike
    val_steps: ArrayLike | None = None
    lr: ArrayLike | float | None = None
    weight_decay: float | None = None
    total_steps: int | None = None

    def __post_init__(self) -> None:
        train, val = (self._vector(name) for name in ("train_loss", "val_loss"))
        n, m = len(train), len(val)
        steps = np.arange(1, m + 1) * n // m if self.val_steps is None else np.asarray(self.val_steps)
        if steps.shape != (m,) or (np.diff(steps) <= 0).any() or steps[0] < 0 or steps[-1] > n or (steps % 1).any():
            raise ValueError(
                f"val_steps: got {self.val_steps} for {m} values of val_loss and {n} of train_loss; give the number of "
                f"updates before each, ascending, from 0 to {n}"
            )
        if self.lr is not None:
            lr = np.asarray(self.lr, dtype=np.float64)
            if lr.shape not in ((), (n,)) or not ((lr >= 0) & np.isfinite(lr)).all():
                raise ValueError(f"lr: got {self.lr}; give one rate, or one for each of the {n} steps, >= 0 and finite")
            object.__setattr__(self, "lr", np.broadcast_to(lr, (n,)))
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: got {self.weight_decay!r}; give a finite number, at least 0")
        if self.total_steps is not None and not (is_whole(self.total_steps) and self.total_steps >= n):
            raise ValueError(f"total_steps: got {self.total_steps!r}; give a whole number, at least the {n} steps made")
        object.__setattr__(self, "val_steps", steps.astype(np.int64))

    def _vector(self, name: str) -> Floats:
        values = np.asarray(getattr(self, name), dtype=np.float64)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"{name}: got shape {values.shape}; give one loss per step, at least one")
        object.__setattr__(self, name, values)
        return values


class Run:
    """A history without its noise, at the steps at which the validation loss is known."""

    def __init__(self, history: History):
        train, val = np.asarray(history.train_loss), np.asarray(history.val_loss)
        self.n, self.steps, self.decay = len(train), np.asarray(history.val_steps), history.weight_decay
        self.start, self.lr = float(train[0]), None if history.lr is None else np.asarray(history.lr)
        self.last = int(self.steps[-1])
        self.total_steps = history.total_steps or self.last
        every, self.train_error, train_fall = _trend(train)
        self.val, self.val_error, val_fall = _trend(val)
        self.train = np.interp(self.steps, np.arange(self.n), every)
        self.train_fell, self.fall = train_fall > 0, max(train_fall, val_fall)
        self.shrunk = None if self.lr is None or self.decay is None else float(self.lr.sum()) * self.decay
        self.until = self.last
        if self.lr is not None:
            high = np.flatnonzero(self.lr >= self.lr.max() / 2)
            self.until = min(max(int(high[-1]) + 1, math.ceil(self.n / 2)), self.last)

    def counts(self, change: float, frac: float, error: float) -> bool:
        """Whether a change of a loss with this error is more than ``frac`` of the whole fall, and than noise."""
        return change > max(frac * self.fall, SIGMAS * error)

    def thirds(self, loss: Floats) -> tuple[float, float, float]:
        """``loss`` at the ends of the three thirds of the steps up to ``until``."""
        begin, middle, end = np.interp(np.array([1, 2, 3]) / 3 * self.until, self.steps, loss)
        return float(begin), float(middle), float(end)

    def place(self, step: int) -> str:
        """The step in words, with its rate where that is known."""
        return f"step {step}" + ("" if self.lr is None else f" (lr {self.lr[min(step, self.n - 1)]:.3g})")

    def higher_rate(self) -> str:
        """What to try against underfitting."""
        return "a higher rate" + ("" if self.lr is None else f", such as {3 * self.lr.max():.2g}")

    def less_decay(self) -> str:
        """What to try against too much regularisation."""
        if not self.decay:
            return "take less regularisation (weight decay, dropout, augmentation)"
        return f"take a weight decay of {self.decay / 10:.2g} instead of {self.decay:.2g}"


def _trend(loss: Floats) -> tuple[Floats, float, float]:
    """The loss without spikes and noise, the standard error of that, and by how much it fell: 0 if by no more than
    noise or rounding would have it."""
    padded = np.concatenate((loss[:1], loss, loss[-1:]))
    trend = smoothed(np.median(np.lib.stride_tricks.sliding_window_view(padded, 3), axis=1), TREND_FRAC)
    single = max(noise_std(loss), ROUNDING_FRAC * np.abs(loss).max())
    # At the ends the weights reach to one side only: sqrt(pi) * width points of equal weight would do as much.
    error = single / math.sqrt(max(1.0, math.sqrt(math.pi) * TREND_FRAC * len(loss)))
    # A steep fall shows in the first of these, a slow one beneath the noise in the second.
    falls = ((loss[0] - trend.min(), single), (trend[0] - trend.min(), error))
    return trend, error, max(float(fall) if fall > SIGMAS * apart else 0.0 for fall, apart in falls)
