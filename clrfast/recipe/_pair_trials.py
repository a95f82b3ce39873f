"""``PairTrials``: the results of trials with pairs of a rate and a weight decay, and the best pair."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..finder._smoothing import Floats
from ..finder._suggestion import NoSuggestionError
from ..plot import pair_trials
from ._gaussian_process import GaussianProcess, log_regret
from ._lattice import DECAYS, MIN_RATE_EXPONENT, RATE_RATIO
from ._optimizers import OPTIMIZERS
from ._trials import Repeats, final_losses

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
    def loss(self) -> Floats:
        """Validation loss after each trial, float64 ``[n]``; inf where it is not finite."""
        return final_losses(self.histories)

    @property
    def initial_loss(self) -> float:
        """Validation loss before all trials; if it is not finite, the highest finite loss after one."""
        initial = float(np.asarray(self.histories[0].val_loss)[0])
        if math.isfinite(initial):
            return initial
        return float(self.loss[np.isfinite(self.loss)].max(initial=-math.inf))

    @property
    def gaussian_process(self) -> GaussianProcess:
        """A Gaussian process through the log regret over ``[log10(max_lr), log10(weight_decay)]``.

        One artificial observation is added at the lowest rate and decay: the initial loss, because hardly anything is
        trained there.
        """
        rates = np.append(self.max_lr, self.max_lr[0] * RATE_RATIO**MIN_RATE_EXPONENT)
        decays = np.append(self.weight_decay, OPTIMIZERS[self.optimizer].scaled(DECAYS[0]))
        losses = np.append(self.loss, self.initial_loss)
        return GaussianProcess(np.log10(np.stack([rates, decays], axis=1)), log_regret(losses, self.initial_loss))

    @property
    def failing_lr(self) -> Floats:
        """Lowest rate above that of each trial at which a trial failed, with any decay, float64 ``[n]``.

        A trial failed if it ended above the middle between the loss at the start and the lowest loss. Without such a
        rate it is the next rate above all tried ones, about which nothing is known.
        """
        failed = self.max_lr[~(self.loss <= (self.initial_loss + self.loss.min()) / 2)]
        above = np.where(failed > self.max_lr[:, None], failed, math.inf)
        return above.min(axis=1, initial=self.max_lr.max() * RATE_RATIO)

    @property
    def expected_loss(self) -> Floats:
        """Expected loss of a training with each pair and other random numbers, float64 ``[n]``.

            loss + chance * (initial_loss - loss) / 2,  chance = (max_lr / failing_lr)**4

        One trial shows the loss at a stable rate, but not whether the next training is stable too. The chance of
        failure is by ``benchmarks.recipe_quality.stability_edge``: of the best pairs half a decade below a failing
        rate, 1 in 70 failed with another seed; a decade below, none did. Its cost counts half, because a failure is
        noticed and the training repeated. The full cost would reject more good pairs than bad ones on the tasks that
        the search was developed on.
        """
        chance = (self.max_lr / self.failing_lr) ** 4
        return self.loss + chance * np.maximum(self.initial_loss - self.loss, 0.0) / 2

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
            failing, highest = self.failing_lr[lowest], self.max_lr.max()
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

        The posterior mean of ``gaussian_process`` is shaded, unless the validation loss fell in no trial.
        """
        best, process = None, None
        with contextlib.suppress(NoSuggestionError):
            best, process = self.best, self.gaussian_process
        predict = None if process is None else lambda points: process.posterior(points)[0]
        columns = self.max_lr, self.weight_decay, self.loss
        return pair_trials(*columns, ax, initial_loss=self.initial_loss, best=best, predict=predict)

    def __str__(self) -> str:
        rows = [f"{'rate':>8}  {'decay':>8}  {'loss after':>10}"]
        rows += [f"{lr:>8.3g}  {decay:>8g}  {loss:>10.5g}" for lr, decay, loss in self.table()]
        return "\n".join(rows)
