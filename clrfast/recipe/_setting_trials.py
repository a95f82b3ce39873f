"""Results of short trials with several weight decays or momenta, and the best of these values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..diagnosis import History
from ..finder._smoothing import ROUNDING_FRAC, Floats
from ..finder._suggestion import NoSuggestionError
from ..plot import Chosen, ValLosses, setting_trials
from ..schedules._policies import Momentum
from ._optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NOISE_SIGMAS = 2.0
"""Maximum difference of two mean losses, in its standard errors, that counts as noise."""

MAX_CLIMB_FRAC = 0.1
"""Maximum climb of the validation loss above its lowest so far, as a fraction of its whole fall, at a stable rate."""

GRID = (1e-3, 1e-4, 1e-5, 0.0)
"""Smith's grid of weight decays for a task about which nothing is known."""

SMALL_GRID = (1e-3, 1e-4, 0.0)
"""Weight decays for a budget that is too small for ``GRID``."""

MOMENTUM_VALUES = (0.9, 0.95, 0.97, 0.99)
"""Momenta to try, from Smith's report."""

DEFAULT_STEPS, DEFAULT_REPEATS = 200, 2
"""Default length of a trial, and number of trials for each value. Compared with 2,000 steps of a small network on few
digits, 100 steps were too few to show overfitting, and 200 to 300 were enough."""

MIN_MOMENTUM_STEPS = 100
"""Minimum length of a trial with a momentum, for the momentum to show its effect."""

GRID_TRIALS = (len(GRID) + 2) * DEFAULT_REPEATS
"""Number of trials with weight decays: those of ``GRID``, and two values that bisect the exponent."""

SMALL_GRID_TRIALS = len(SMALL_GRID) * DEFAULT_REPEATS
"""Number of trials with the weight decays of ``SMALL_GRID``."""

MOMENTUM_TRIALS = (len(MOMENTUM_VALUES) + 1) * DEFAULT_REPEATS
"""Number of trials with momenta: those of ``MOMENTUM_VALUES``, and the cycle."""

DEFAULT_WEIGHT_DECAY = 1e-4
"""Weight decay of SGD if none was measured or trials are inconclusive: in the middle of Smith's grid."""

DEFAULT_MOMENTUM_CYCLE = (0.95, 0.85)
"""Cycle of the momentum if none was measured, from Smith's report. The result depends little on the lower bound."""

LOWER_MOMENTUM, LOWER_MOMENTUM_OF_SMALL = 0.85, 0.8
"""Lower bounds of the cycle: for an upper bound of at least 0.9, and for a smaller one."""

Repeats = tuple[History, ...]
"""Losses of trainings that differ in their batches alone."""

SettingRuns = Mapping[tuple[Momentum, int], History]
"""Losses of trainings, by the value of the setting and the index of the repeat."""


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
                f"the validation loss fell below its start, {initial:.4g}, in no trial with a rate of up to "
                f"{self.max_lr:.3g}; take more steps or another max_lr, or look at the data"
            )
        tolerance = np.maximum(self.noise_tolerance, ROUNDING_FRAC * abs(mean[best]))
        good = np.isfinite(mean) & (mean - mean[best] <= tolerance)
        low = high = best
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(good) and good[high + 1]:
            high += 1
        most = tolerance[low : high + 1].max()
        reason = f"the validation loss after the trials is lowest with {self.values[best]:g} ({mean[best]:.4g})"
        if high - low + 1 == len(mean) > 1:
            reason += f", and all tried values are as good: other batches alone change it by {most:.2g}"
        elif low < high:
            reason += f"; from {self.values[low]:g} to {self.values[high]:g} it is as low within the noise, {most:.2g}"
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
        rows = [f"{'value':>8}  {'loss after':>10}  {'lowest':>10}  {'at step':>7}  {'stable lr':>8}"]
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


@dataclass(frozen=True, eq=False)
class WeightDecayTrials(SettingTrials):
    """The results of trials with several weight decays; see ``SettingTrials``.

    Attributes:
        values: float64 ``[k]``, ascending: the weight decays.
        optimizer: name of the optimizer.
    """

    optimizer: str = "sgd"

    @classmethod
    def of(cls, runs: SettingRuns, max_lr: float, optimizer: str) -> WeightDecayTrials | None:
        """Return the results of trainings; None unless two values have all their repeats."""
        complete = _complete_repeats(runs)
        if len(complete) < 2:
            return None
        return cls(np.array(list(complete)), tuple(complete.values()), max_lr, optimizer=optimizer)

    def suggest(self) -> SettingSuggestion:
        """Return the best weight decay, or the default if trials are inconclusive: 1e-4 of SGD, 0.01 of AdamW.

        The cost of weight decay shows at once, but its benefit only when a training overfits. So trials in which no
        decay beats the smallest one do not show what a longer training needs. The suggestion is then the default, or
        the value nearest to it that is as good as the best.

        Raises:
            NoSuggestionError: the validation loss fell in no trial.
        """
        best, low, high, reason = self.best_range()
        chosen, least, most = (float(self.values[index]) for index in (best, low, high))
        if self.is_inconclusive:
            default = OPTIMIZERS[self.optimizer].scaled(DEFAULT_WEIGHT_DECAY)
            chosen = min(max(default, least), most)
            usual = "the usual value" if chosen == default else "the nearest to the usual one"
            reason += f"; so the trials do not show what a longer training needs, and {chosen:g}, {usual}, is chosen"
        elif low < high:
            reason += "; with less the loss is higher, so weight decay helps, and the best is chosen"
        if chosen == self.values[-1]:
            reason += f"; {chosen:g} is the largest tried value, and a larger one may be better"
        return SettingSuggestion(chosen, least, most, reason)

    @property
    def is_inconclusive(self) -> bool:
        """Whether the smallest value, among others, is as good as the best."""
        _, low, high, _ = self.best_range()
        return low == 0 < high

    @property
    def refinement_center(self) -> float:
        """The value to refine around: the best, or the largest that is as good if trials are inconclusive."""
        best, _, high, _ = self.best_range()
        return float(self.values[high if self.is_inconclusive else best])


@dataclass(frozen=True, eq=False)
class MomentumTrials(SettingTrials):
    """The results of trials with several constant momenta; see ``SettingTrials``.

    Attributes:
        values: float64 ``[k]``, ascending: the momenta.
        cyclical: histories of the trials in which the suggested momentum was cycled; empty without a suggestion.
    """

    cyclical: Repeats = field(default=(), repr=False)

    @classmethod
    def of(cls, runs: SettingRuns, max_lr: float) -> MomentumTrials | None:
        """Return the results of trainings; None unless two constant momenta have all their repeats.

        A value ``(upper, lower)`` is a cycled momentum.
        """
        cycled = {repeat: run for (value, repeat), run in runs.items() if isinstance(value, tuple)}
        complete = _complete_repeats({key: run for key, run in runs.items() if not isinstance(key[0], tuple)})
        if len(complete) < 2:
            return None
        n = len(next(iter(complete.values())))
        cyclical = tuple(cycled[repeat] for repeat in range(n)) if len(cycled) == n else ()
        return cls(np.array(list(complete)), tuple(complete.values()), max_lr, cyclical)

    @property
    def cycle(self) -> tuple[float, float]:
        """(upper, lower) for ``one_cycle(..., momentum=...)``.

        Upper is the suggested value. Lower is 0.85 if upper is at least 0.9, else 0.8, and at most upper.

        Raises:
            NoSuggestionError: see ``suggest``.
        """
        return _cycle_below(self.suggest().value)

    def suggest(self) -> SettingSuggestion:
        """Return the best constant momentum; of several that are as good, the nearest to the default 0.95.

        A larger one needs a longer trial to show its effect, and a rate of its own.

        Raises:
            NoSuggestionError: the validation loss fell in no trial.
        """
        _, low, high, reason = self.best_range()
        good = self.values[low : high + 1]
        value = float(good[np.abs(good - DEFAULT_MOMENTUM_CYCLE[0]).argmin()])
        if low < high:
            reason += f"; {value:g} is the nearest of them to the usual {DEFAULT_MOMENTUM_CYCLE[0]:g}"
        upper, lower = _cycle_below(value)
        if self.cyclical and upper > lower:
            reason += f"; with a cycle from {upper:g} to {lower:g} it is {final_losses(self.cyclical).mean():.4g}"
        return SettingSuggestion(value, float(good[0]), float(good[-1]), reason)


def _complete_repeats(runs: SettingRuns) -> dict[float, Repeats]:
    """Return the repeats, at least 2, of each value that has all of them, in ascending order of the values."""
    n = max(2, 1 + max((repeat for _, repeat in runs), default=0))
    values = sorted({float(value) for value, _ in runs})  # type: ignore[arg-type]
    complete = (value for value in values if all((value, repeat) in runs for repeat in range(n)))
    return {value: tuple(runs[value, repeat] for repeat in range(n)) for value in complete}


def _cycle_below(upper: float) -> tuple[float, float]:
    return upper, LOWER_MOMENTUM if upper >= 0.9 else min(LOWER_MOMENTUM_OF_SMALL, upper)


def count_steps(histories: Iterable[History]) -> int:
    """Return the total number of steps. A run that diverged has fewer than were planned."""
    return sum(np.size(history.train_loss) for history in histories)


def final_losses(histories: Iterable[History]) -> Floats:
    """Return the validation loss after each run, float64 ``[n]``; inf where it is not finite."""
    loss = np.array([float(np.asarray(history.val_loss)[-1]) for history in histories])
    return np.where(np.isfinite(loss), loss, math.inf)


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
