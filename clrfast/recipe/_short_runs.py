"""What short runs with several values of one setting measured, and which of these values are as good as the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..finder._noise import ROUNDING_FRAC, Floats
from ..finder._suggestion import NoSuggestionError
from ..plot import Chosen, ValLosses, short_runs
from ..schedules._policies import Momentum
from ._history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Runs = tuple[History, ...]
"""The repeats of one schedule, each on other batches."""

Job = tuple[Momentum, float, int]
"""Of a run: momentum, weight decay and the number of the repeat."""

Made = Mapping[Job, History]
"""The runs that have ended."""

Keep = Callable[[Made, int], None]
"""Gets all runs so far, before the next begin, and the updates of those that begin now."""

SIGMAS = 2.0
"""Standard errors of a difference, up to which it is noise."""

CLIMB = 0.1
"""Of the whole fall of the validation loss: a rate at which it has climbed by more, and stays so, is too large."""


@dataclass(frozen=True)
class Choice:
    """The value to train with, and why.

    Attributes:
        value: the choice.
        low, high: the first and the last of the tried values that are as good as the best.
        reason: what was seen, and what follows.
    """

    value: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True, eq=False)
class Begun:
    """Short runs with several values of one setting, some of which are still to be made.

    Attributes:
        values: to try at first, ascending or not.
        steps: of each run.
        max_lr: the highest rate of the runs.
        refine: whether to try more values around the best, see ``find_weight_decay``.
        jobs: of the runs that have ended.
        runs: these, in the same order.
    """

    values: tuple[float, ...]
    steps: int
    max_lr: float
    refine: bool = False
    jobs: tuple[Job, ...] = ()
    runs: Runs = field(default=(), repr=False)

    @property
    def made(self) -> Made:
        return dict(zip(self.jobs, self.runs, strict=True))

    @property
    def updates(self) -> int:
        """Of the runs that have ended."""
        return sum(np.size(history.train_loss) for history in self.runs)

    def with_runs(self, made: Made) -> Begun:
        """The same, after more runs."""
        return replace(self, jobs=tuple(made), runs=tuple(made.values()))


@dataclass(frozen=True, eq=False)
class ShortRuns:
    """What short runs with ``k`` values of one setting measured; ``print`` shows it as a table.

    Attributes:
        values: float64 ``[k]``, ascending.
        runs: for each value its repeats, as a ``History`` each. All values had the same batches. ``val_loss`` begins
            before the first update, and ends with inf where the run diverged.
        max_lr: the highest rate of the runs.
    """

    values: Floats
    runs: tuple[Runs, ...] = field(repr=False)
    max_lr: float

    def suggest(self) -> Choice:
        """The value to train with."""
        raise NotImplementedError

    @property
    def loss(self) -> Floats:
        """float64 ``[k, repeats]``: the validation loss after each run; inf where it is not finite."""
        return np.array([final_losses(runs) for runs in self.runs])

    @property
    def minimum(self) -> Floats:
        """float64 ``[k]``: the lowest validation loss on the way, a mean over the repeats."""
        return self._mean(lambda history: _lowest(history)[0])

    @property
    def minimum_step(self) -> Floats:
        """float64 ``[k]``: the updates before that, likewise."""
        return self._mean(lambda history: _lowest(history)[1])

    @property
    def borne_lr(self) -> Floats:
        """float64 ``[k]``: the largest rate that the runs bore, likewise: on the way up of the rate, the one at the
        last look at which the validation loss was above its lowest so far by no more than a tenth of its whole fall;
        ``max_lr`` if it was so to the top."""
        return self._mean(_borne)

    def _mean(self, measure: Callable[[History], float]) -> Floats:
        return np.array([np.mean([measure(history) for history in runs]) for runs in self.runs])

    @property
    def allowed(self) -> Floats:
        """float64 ``[k]``: the difference of two mean losses that other batches alone would make.

            2 * sd * sqrt(2 / repeats),  sd: of the loss, from repeat to repeat

        All values have the same batches, so their order is known better than that; but what another order of the data
        changes more than the setting does is no reason to choose. The sd is from the median distance of the losses
        from their means, for each value together with all better ones: worse ones have more noise. Inf where a run
        diverged.
        """
        loss = self.loss
        repeats, mean = loss.shape[1], loss.mean(axis=1)
        allowed = np.full(len(mean), math.inf)
        distances = np.empty((0, repeats))
        for place in np.flatnonzero(np.isfinite(mean))[mean[np.isfinite(mean)].argsort(kind="stable")]:
            distances = np.vstack((distances, np.abs(loss[place] - mean[place])))
            # The mean is taken from the same few repeats, and so lies nearer to them than the true one.
            sd = np.median(distances) / 0.6745 * math.sqrt(repeats / (repeats - 1))
            allowed[place] = SIGMAS * sd * math.sqrt(2 / repeats)
        return allowed

    def as_good(self) -> tuple[int, int, int, str]:
        """The place in ``values`` of the best, the first and the last of those around it that are as good, and a
        sentence on them.

            good where mean loss <= lowest mean loss + allowed, or equal but for rounding

        Raises:
            NoSuggestionError: the validation loss fell in no run.
        """
        mean = self.loss.mean(axis=1)
        initial = float(np.asarray(self.runs[0][0].val_loss)[0])
        best = int(mean.argmin())
        if not (self.minimum.min() < initial and math.isfinite(mean[best])):
            raise NoSuggestionError(
                f"in no short run, with a rate of up to {self.max_lr:.3g}, the validation loss fell below its "
                f"{initial:.4g} at the start: take more steps or another max_lr, or look at the data"
            )
        allowed = np.maximum(self.allowed, ROUNDING_FRAC * abs(mean[best]))
        good = np.isfinite(mean) & (mean - mean[best] <= allowed)
        low = high = best
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(good) and good[high + 1]:
            high += 1
        most = allowed[low : high + 1].max()
        told = f"after the short runs the validation loss is lowest with {self.values[best]:g} ({mean[best]:.4g})"
        if high - low + 1 == len(mean) > 1:
            told += f", and all that was tried is alike: other batches alone change it by {most:.2g}"
        elif low < high:
            told += f", and within the noise, {most:.2g}, from {self.values[low]:g} to {self.values[high]:g}"
        return best, low, high, told

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> Axes:
        """Draw the validation losses over the steps; see ``clrfast.plot.short_runs``."""
        try:
            choice = self.suggest()
        except NoSuggestionError:
            chosen = None
        else:
            chosen = Chosen(choice.value, choice.low, choice.high)
        losses = [
            [ValLosses(np.asarray(run.val_steps), np.asarray(run.val_loss)) for run in runs] for runs in self.runs
        ]
        return short_runs(self.values, losses, ax, chosen=chosen, title=title)

    def table(self) -> list[tuple[float, ...]]:
        """For each value: itself, the mean loss after its runs, ``minimum``, ``minimum_step`` and ``borne_lr``."""
        columns = self.values, self.loss.mean(axis=1), self.minimum, self.minimum_step, self.borne_lr
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def __str__(self) -> str:
        rows = [f"{'value':>8}  {'loss after':>10}  {'lowest':>10}  {'at step':>7}  {'bears lr':>8}"]
        rows += [
            f"{value:>8g}  {loss:>10.5g}  {lowest:>10.5g}  {step:>7.0f}  {lr:>8.3g}"
            for value, loss, lowest, step, lr in self.table()
        ]
        try:
            chosen = self.suggest()
            rows.append(f"chosen: {chosen.value:g}; {chosen.reason}")
        except NoSuggestionError as error:
            rows.append(f"no suggestion: {error}")
        return "\n".join(rows)


def final_losses(runs: Iterable[History]) -> Floats:
    """float64 ``[repeats]``: the validation loss after each run; inf where it is not finite."""
    loss = np.array([float(np.asarray(history.val_loss)[-1]) for history in runs])
    return np.where(np.isfinite(loss), loss, math.inf)


def _finite(history: History) -> Floats:
    val = np.asarray(history.val_loss)
    return np.where(np.isfinite(val), val, math.inf)


def _lowest(history: History) -> tuple[float, float]:
    """The lowest validation loss, and the updates before it."""
    val = _finite(history)
    at = int(val.argmin())
    return float(val[at]), float(np.asarray(history.val_steps)[at])


def _borne(history: History) -> float:
    val, steps, lr = _finite(history), np.asarray(history.val_steps), np.asarray(history.lr)
    up = steps <= int(lr.argmax()) + 1  # the updates before a look have used lr[:steps]
    near = np.flatnonzero(val[up] - np.minimum.accumulate(val[up]) <= CLIMB * (val[0] - val.min()))
    if near[-1] == up.sum() - 1:
        return float(lr.max())
    return float(lr[max(int(steps[up][near[-1]]) - 1, 0)])
