"""``PairTrials``: the results of trials with pairs of a rate and a weight decay, and the best pair."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..finder._smoothing import Floats
from ..finder._suggestion import NoSuggestionError
from ..plot import pair_trials
from ._gaussian_process import log_regret
from ._pair_sampler import PairPoint, PairResult, coordinates, expected_losses, failing_lrs, finite_losses, pair_process
from ._setting_trials import Repeats

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class PairSuggestion:
    """The highest rate of the 1cycle and the weight decay to train with, and the reason in one sentence."""

    max_lr: float
    weight_decay: float
    reason: str


@dataclass(frozen=True, eq=False)
class PairTrials:
    """The results of trials with ``n`` pairs of a rate and a weight decay, in the order of the trials.

    Attributes:
        max_lr: float64 ``[n]``, the highest rate of each trial.
        weight_decay: float64 ``[n]``.
        steps: length of each trial.
        histories: a ``History`` of each trial. ``val_loss`` ends with inf if the trial diverged.
        optimizer: name of the optimizer.
    """

    max_lr: Floats
    weight_decay: Floats
    steps: int
    histories: Repeats = field(repr=False)
    optimizer: str = "sgd"

    @property
    def results(self) -> list[PairResult]:
        """The settings and the losses of each trial, ``[n]``."""
        points = self._points(self.max_lr, self.weight_decay)
        losses = (np.asarray(history.val_loss) for history in self.histories)
        return [PairResult(point, float(loss[-1]), float(loss[0])) for point, loss in zip(points, losses, strict=True)]

    @property
    def loss(self) -> Floats:
        """Validation loss after each trial, float64 ``[n]``; inf where it is not finite."""
        return finite_losses(self.results)[0]

    @property
    def initial_loss(self) -> float:
        """Validation loss before all trials; if it is not finite, the highest finite loss after one."""
        return finite_losses(self.results)[1]

    @property
    def expected_loss(self) -> Floats:
        """Expected loss of a training with each pair and other random numbers; see ``expected_losses``."""
        return expected_losses(self.results)

    @property
    def best(self) -> int:
        """Index of the lowest expected loss.

        Raises:
            NoSuggestionError: the validation loss fell in no trial.
        """
        best, initial = int(self.expected_loss.argmin()), self.initial_loss
        if not self.loss[best] < initial:
            raise NoSuggestionError(
                f"in no run of {self.steps} steps, with rates from {self.max_lr.min():.3g} to {self.max_lr.max():.3g}, "
                f"the validation loss fell below its {initial:.4g} at the start: look at the data, or give another "
                "max_lr"
            )
        return best

    def suggest(self) -> PairSuggestion:
        """Return the best of the tried pairs.

        Raises:
            NoSuggestionError: see ``best``.
        """
        best, lowest = self.best, int(self.loss.argmin())
        result = f"ends with the lowest validation loss ({self.loss[best]:.4g})"
        if best != lowest:
            failing, highest = failing_lrs(self.results)[lowest], self.max_lr.max()
            result = (
                f"is taken, with a validation loss of {self.loss[best]:.4g} at the end: with {self.max_lr[lowest]:.3g} "
                f"and {self.weight_decay[lowest]:g} it is {self.loss[lowest]:.4g}, but "
                + (f"a run failed at {failing:.3g}" if failing <= highest else "no higher rate was tried")
                + ", and so another training may fail there"
            )
        reason = (
            f"of {len(self.histories)} runs of {self.steps} steps, with rates from {self.max_lr.min():.3g} to "
            f"{self.max_lr.max():.3g} and weight decays from {self.weight_decay.min():g} to "
            f"{self.weight_decay.max():g}, the one with {self.max_lr[best]:.3g} and {self.weight_decay[best]:g} "
            f"{result}"
        )
        return PairSuggestion(float(self.max_lr[best]), float(self.weight_decay[best]), reason)

    def table(self) -> list[tuple[float, ...]]:
        """Return a row for each trial: rate, weight decay, and loss after it."""
        columns = self.max_lr, self.weight_decay, self.loss
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the trials over rate and weight decay; see ``clrfast.plot.pair_trials``.

        The log regret that a Gaussian process predicts is shaded, unless the validation loss fell in no trial.
        """
        best, predict = None, None
        with contextlib.suppress(NoSuggestionError):
            best, predict = self.best, self._predict
        columns = self.max_lr, self.weight_decay, self.loss
        return pair_trials(*columns, ax, initial_loss=self.initial_loss, best=best, predict=predict)

    def _points(self, rates: Floats, decays: Floats) -> list[PairPoint]:
        return [PairPoint(self.optimizer, *pair) for pair in zip(rates.tolist(), decays.tolist(), strict=True)]

    def _predict(self, places: Floats) -> Floats:
        """Return the expected log regret at ``[log10(max_lr), log10(weight_decay)]``."""
        regrets = log_regret(self.loss, self.loss.min(), self.initial_loss)
        points = self._points(self.max_lr, self.weight_decay)
        process = pair_process(points, regrets, float(self.max_lr[0]), self.steps)
        return process.posterior(coordinates(self._points(*(10**places).T), self.steps))[0]

    def __str__(self) -> str:
        rows = [f"{'rate':>8}  {'decay':>8}  {'loss after':>10}"]
        rows += [f"{lr:>8.3g}  {decay:>8g}  {loss:>10.5g}" for lr, decay, loss in self.table()]
        return "\n".join(rows)
