"""The regret of a learning rate: how far the training at that rate stays behind the best one.

score(lr)  = mean over the seeds of the final validation loss, each at most the untrained one; linear in log lr
regret(lr) = (score(lr) - best) / (untrained - best)     0: the best rate there is, 1: as bad as no training
"""

from __future__ import annotations

import math

import numpy as np

from ..oracle import Oracle

NEAR_OPTIMAL = 0.05
"""A smaller regret counts as near optimal."""


class RegretCurve:
    """The regret of every learning rate of a task.

    A rate is divergent if the run at the next grid rate above it ends with a loss that is not finite or above the
    untrained one, with any of the seeds.

    Attributes:
        rates: of the grid, ascending, ``[n]``.
        untrained: mean loss before training.
        scores: mean final loss at every rate, ``[n]``.
        regrets: in [0, 1], ``[n]``.
        divergent: bool, ``[n]``. Only above the best rate: below it a run without effect may end a hair above its
            start.
    """

    def __init__(self, oracle: Oracle):
        self.rates = np.array(oracle.rates)
        self.untrained = float(np.mean(oracle.untrained))
        self.scores = oracle.scores()[:, 0]
        best = self.scores.min()
        self.regrets = (self.scores - best) / (self.untrained - best)
        failed = ~(np.array(oracle.losses)[:, :, 0] <= np.array(oracle.untrained)[:, None])
        self.divergent = failed.any(0) & (self.rates > self.best_lr)

    def regret(self, lr: float) -> float:
        """Interpolate over log lr. Beyond the grid, the regret is that of its end."""
        return float(np.interp(math.log(lr), np.log(self.rates), self.regrets))

    @property
    def best_lr(self) -> float:
        return float(self.rates[self.scores.argmin()])

    def is_divergent(self, lr: float) -> bool:
        """Return whether the run at the next grid rate above ``lr`` diverges; beyond the grid, the run at its end."""
        above = min(int(np.searchsorted(self.rates, lr * (1 - 1e-9))), len(self.rates) - 1)
        return bool(self.divergent[above])

    @property
    def divergence_lr(self) -> float | None:
        """The lowest grid rate that diverges."""
        return float(self.rates[self.divergent.argmax()]) if self.divergent.any() else None

    def near_optimal_range(self) -> tuple[float, float]:
        """Return the lowest and the highest grid rate around the best one whose regrets are all near optimal."""
        good = self.regrets < NEAR_OPTIMAL
        low = high = int(self.scores.argmin())
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(good) and good[high + 1]:
            high += 1
        return float(self.rates[low]), float(self.rates[high])

    def __str__(self) -> str:
        low, high = self.near_optimal_range()
        divergence = "none" if self.divergence_lr is None else f"{self.divergence_lr:.2g}"
        return (
            f"best rate {self.best_lr:8.2g} (regret < {NEAR_OPTIMAL} from {low:8.2g} to {high:8.2g})  "
            f"diverges at {divergence:>8}  loss {self.untrained:9.4g} -> {self.scores.min():9.4g}"
        )
