"""``PairSampler``: places each trial with a pair where a Gaussian process expects the most improvement."""

from __future__ import annotations

from itertools import product

import numpy as np

from ..finder._smoothing import Floats
from ._deadline import Deadline
from ._lattice import (
    DECAYS,
    FIRST_DECAY,
    LARGE_DECAY,
    MAX_RATE_EXPONENT,
    MIN_RATE_EXPONENT,
    LatticePoint,
    pair_at,
    point_of,
)
from ._loss_history import History
from ._optimizers import OPTIMIZERS
from ._pair_trials import PairTrials
from ._trials import count_steps

MIN_PAIR_TRIALS = 3
"""Minimum number of trials. Fewer give no answer."""

MIN_IMPROVEMENT = 0.01
"""Smallest expected improvement of the log regret for which another trial runs."""


class PairSampler:
    """The finished trials by their lattice points, and the choice of the next point.

    Args:
        first_lr: rate of the first trial.
        steps: length of each trial.
        max_steps: limit on the steps of all trials together.
        deadline: no trial starts that would end after it, except the first ``MIN_PAIR_TRIALS``.
        finished: results of an earlier search with the same ``first_lr`` and ``steps``.
        optimizer: name of the optimizer; the lattice has its weight decays.
    Attributes:
        histories: the finished trials' histories by their points; add to it after each trial.
    """

    def __init__(
        self,
        first_lr: float,
        steps: int,
        max_steps: int,
        deadline: Deadline | None = None,
        finished: PairTrials | None = None,
        optimizer: str = "sgd",
    ):
        self.optimizer = optimizer
        self.first_lr, self.steps, self.max_steps, self._deadline = first_lr, steps, max_steps, deadline
        self.histories: dict[LatticePoint, History] = {}
        if finished is not None:
            pairs = zip(finished.max_lr.tolist(), finished.weight_decay.tolist(), strict=True)
            points = (point_of(lr, decay, first_lr) for lr, decay in pairs)
            self.histories = dict(zip(points, finished.histories, strict=True))

    @property
    def done_steps(self) -> int:
        """Steps of all finished trials."""
        return count_steps(self.histories.values())

    @property
    def results(self) -> PairTrials:
        """The finished trials, at least one."""
        rates, decays = zip(*(pair_at(point, self.first_lr) for point in self.histories), strict=True)
        return PairTrials(np.array(rates), np.array(decays), self.steps, tuple(self.histories.values()), self.optimizer)

    def next_point(self) -> LatticePoint | None:
        """Return the point of the next trial; None if no improvement is expected or no more trials are allowed."""
        in_time = self._deadline is None or self._deadline.allows_another()
        if len(self.histories) >= MIN_PAIR_TRIALS and not (in_time and self.done_steps + self.steps <= self.max_steps):
            return None
        if not self.histories:
            return 0, self._scaled(FIRST_DECAY)
        results = self.results
        if not results.loss.min() < results.initial_loss:
            return min(exponent for exponent, _ in self.histories) - 2, self._scaled(FIRST_DECAY)  # a decade lower
        exponents = range(MIN_RATE_EXPONENT, MAX_RATE_EXPONENT + 1)
        free = [point for point in product(exponents, self._decays(results.loss)) if point not in self.histories]
        if not free:
            return None
        places = np.log10([pair_at(point, self.first_lr) for point in free])
        improvement = results.gaussian_process.expected_improvement(places)
        if len(self.histories) >= MIN_PAIR_TRIALS and improvement.max() < MIN_IMPROVEMENT:
            return None
        return free[improvement.argmax()]

    def _decays(self, losses: Floats) -> tuple[float, ...]:
        """Return the weight decays to search, up to the one above the best at any rate at which several were tried."""
        by_rate: dict[int, dict[float, float]] = {}
        for (exponent, decay), loss in zip(self.histories, losses.tolist(), strict=True):
            by_rate.setdefault(exponent, {})[decay] = loss
        best = max((min(row, key=row.__getitem__) for row in by_rate.values() if len(row) > 1), default=0.0)
        decays = tuple(map(self._scaled, DECAYS))
        n_always = DECAYS.index(LARGE_DECAY) + 1
        n_above = sum(decay <= best for decay in decays[n_always - 1 :])
        return decays[: n_always + n_above]

    def _scaled(self, weight_decay: float) -> float:
        return OPTIMIZERS[self.optimizer].scaled(weight_decay)
