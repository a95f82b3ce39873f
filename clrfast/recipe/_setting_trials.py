"""``SettingTrials``: the results of trials with several values of one setting, and the best of the values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..finder._smoothing import ROUNDING_FRAC, Floats
from ..finder._suggestion import NoSuggestionError
from ..plot import Chosen, ValLosses, setting_trials
from ._loss_history import History
from ._trials import Repeats, final_losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NOISE_SIGMAS = 2.0
"""Maximum difference of two mean losses, in its standard errors, that counts as noise."""

MAX_CLIMB_FRAC = 0.1
"""Maximum climb of the validation loss above its lowest so far, as a fraction of its whole fall, at a stable rate."""


@dataclass(frozen=True)
class SettingSuggestion:
    """The value of a setting to train with.

    Attributes:
        value: the suggested value.
        low, high: the smallest and the largest tried value that is as good as the best.
        reason: the measurements, and what follows from them.
    """

    value: float
    low: float
    high: float
    reason: str


class BestRange(NamedTuple):
    """Indices of the best value and of the first and last around it that are as good, and a sentence about them."""

    best: int
    low: int
    high: int
    reason: str


@dataclass(frozen=True, eq=False)
class SettingTrials:
    """The results of trials with ``k`` values of one setting; ``print`` shows a table.

    Attributes:
        values: float64 ``[k]``, ascending.
        histories: the repeats of each value, one ``History`` each. All values have seen the same batches. ``val_loss``
            starts before the first update, and ends with inf if the run diverged.
        max_lr: highest rate of the trials.
    """

    values: Floats
    histories: tuple[Repeats, ...] = field(repr=False)
    max_lr: float

    def suggest(self) -> SettingSuggestion:
        """Return the value to train with."""
        raise NotImplementedError

    @property
    def loss(self) -> Floats:
        """Validation loss after each trial, float64 ``[k, repeats]``; inf where it is not finite."""
        return np.array([final_losses(repeats) for repeats in self.histories])

    @property
    def min_loss(self) -> Floats:
        """Lowest validation loss of the trials, float64 ``[k]``, the mean over the repeats."""
        return self._mean(lambda history: _min_loss(history)[0])

    @property
    def min_loss_step(self) -> Floats:
        """Number of updates before the lowest validation loss, float64 ``[k]``, the mean over the repeats."""
        return self._mean(lambda history: _min_loss(history)[1])

    @property
    def max_stable_lr(self) -> Floats:
        """Highest stable rate, float64 ``[k]``, the mean over the repeats.

        As the rate rises, it is stable up to the last validation whose loss exceeds the lowest so far by at most a
        tenth of the whole fall; ``max_lr`` if it is stable to the top.
        """
        return self._mean(_max_stable_lr)

    def _mean(self, measure: Callable[[History], float]) -> Floats:
        return np.array([np.mean([measure(history) for history in repeats]) for repeats in self.histories])

    @property
    def noise_tolerance(self) -> Floats:
        """Difference of two mean losses that other batches alone would cause, float64 ``[k]``; inf after divergence.

            2 * std * sqrt(2 / repeats),  std: standard deviation of the loss over the repeats

        All values have seen the same batches, so their order is known better than this. But if another order of the
        data changes the loss more than the setting does, there is no reason to prefer a value. The standard deviation
        is estimated by the median distance of the losses from their means, for each value together with all better
        ones, because worse values have more noise.
        """
        loss = self.loss
        repeats, mean = loss.shape[1], loss.mean(axis=1)
        tolerance = np.full(len(mean), math.inf)
        distances = np.empty((0, repeats))
        for index in np.flatnonzero(np.isfinite(mean))[mean[np.isfinite(mean)].argsort(kind="stable")]:
            distances = np.vstack((distances, np.abs(loss[index] - mean[index])))
            # The mean is taken from the same few repeats, and is closer to them than the true one.
            std = np.median(distances) / 0.6745 * math.sqrt(repeats / (repeats - 1))
            tolerance[index] = MAX_NOISE_SIGMAS * std * math.sqrt(2 / repeats)
        return tolerance

    def best_range(self) -> BestRange:
        """Return the best value and the range of values around it that are as good.

            as good: mean loss <= lowest mean loss + noise_tolerance, or equal up to rounding

        Raises:
            NoSuggestionError: the validation loss fell in no trial.
        """
        mean = self.loss.mean(axis=1)
        initial = float(np.asarray(self.histories[0][0].val_loss)[0])
        best = int(mean.argmin())
        if not (self.min_loss.min() < initial and math.isfinite(mean[best])):
            raise NoSuggestionError(
                f"in no short run, with a rate of up to {self.max_lr:.3g}, the validation loss fell below its "
                f"{initial:.4g} at the start: take more steps or another max_lr, or look at the data"
            )
        tolerance = np.maximum(self.noise_tolerance, ROUNDING_FRAC * abs(mean[best]))
        good = np.isfinite(mean) & (mean - mean[best] <= tolerance)
        low = high = best
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(good) and good[high + 1]:
            high += 1
        most = tolerance[low : high + 1].max()
        reason = f"after the short runs the validation loss is lowest with {self.values[best]:g} ({mean[best]:.4g})"
        if high - low + 1 == len(mean) > 1:
            reason += f", and all that was tried is alike: other batches alone change it by {most:.2g}"
        elif low < high:
            reason += f", and within the noise, {most:.2g}, from {self.values[low]:g} to {self.values[high]:g}"
        return BestRange(best, low, high, reason)

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> Axes:
        """Draw the validation losses over the steps; see ``clrfast.plot.setting_trials``."""
        try:
            suggestion = self.suggest()
        except NoSuggestionError:
            chosen = None
        else:
            chosen = Chosen(suggestion.value, suggestion.low, suggestion.high)
        losses = [
            [ValLosses(np.asarray(history.val_steps), np.asarray(history.val_loss)) for history in repeats]
            for repeats in self.histories
        ]
        return setting_trials(self.values, losses, ax, chosen=chosen, title=title)

    def table(self) -> list[tuple[float, ...]]:
        """Return a row for each value: value, mean final loss, ``min_loss``, ``min_loss_step``, ``max_stable_lr``."""
        columns = self.values, self.loss.mean(axis=1), self.min_loss, self.min_loss_step, self.max_stable_lr
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def __str__(self) -> str:
        rows = [f"{'value':>8}  {'loss after':>10}  {'lowest':>10}  {'at step':>7}  {'bears lr':>8}"]
        rows += [
            f"{value:>8g}  {loss:>10.5g}  {lowest:>10.5g}  {step:>7.0f}  {lr:>8.3g}"
            for value, loss, lowest, step, lr in self.table()
        ]
        try:
            suggestion = self.suggest()
            rows.append(f"chosen: {suggestion.value:g}; {suggestion.reason}")
        except NoSuggestionError as error:
            rows.append(f"no suggestion: {error}")
        return "\n".join(rows)


def _finite_val_loss(history: History) -> Floats:
    """Return the validation losses, inf where they are not finite."""
    val_loss = np.asarray(history.val_loss)
    return np.where(np.isfinite(val_loss), val_loss, math.inf)


def _min_loss(history: History) -> tuple[float, float]:
    """Return the lowest validation loss, and the number of updates before it."""
    val_loss = _finite_val_loss(history)
    index = int(val_loss.argmin())
    return float(val_loss[index]), float(np.asarray(history.val_steps)[index])


def _max_stable_lr(history: History) -> float:
    val_loss, steps, lr = _finite_val_loss(history), np.asarray(history.val_steps), np.asarray(history.lr)
    rising = steps <= int(lr.argmax()) + 1  # the updates before a validation have used lr[:steps]
    climb = val_loss[rising] - np.minimum.accumulate(val_loss[rising])
    stable = np.flatnonzero(climb <= MAX_CLIMB_FRAC * (val_loss[0] - val_loss.min()))
    if stable[-1] == rising.sum() - 1:
        return float(lr.max())
    return float(lr[max(int(steps[rising][stable[-1]]) - 1, 0)])
