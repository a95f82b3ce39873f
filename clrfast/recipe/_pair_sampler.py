"""``next_pair`` places the next trial of a search for a rate and a weight decay. Pure functions of plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from ..finder._smoothing import Floats
from ._gaussian_process import REGRET_FLOOR, GaussianProcess, log_regret
from ._optimizers import OPTIMIZERS

RATE_RATIO = 10**0.25
"""Ratio of neighbouring rates. Half decades miss the best rate of tasks whose loss rises steeply above it."""

MIN_RATE_EXPONENT, MAX_RATE_EXPONENT = -12, 8
"""Lowest and highest exponent of ``RATE_RATIO``, relative to the first rate: three decades below it, where a network
overfits, and two above."""

COARSE_TRIALS = 4
"""Number of trials of an optimizer that are placed at every other rate, so that they cover more of them."""

DECAYS = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Weight decays of SGD. Below 1e-3 they change a training little, so their steps are wider."""

LARGE_DECAY = 0.1
"""The largest weight decay that is always searched. A larger one is tried if the largest tried one is the best at some
rate. Larger ones raised the loss at any rate on the 15 development tasks of ``benchmarks.recipe_quality``; a linear
model on few samples may need them."""

FIRST_DECAY = 1e-3
"""Weight decay of the first trial, in the middle of ``DECAYS``."""

MIN_PAIR_TRIALS = 3
"""Minimum number of trials. Fewer give no answer."""

MIN_IMPROVEMENT = 1e-3
"""Smallest expected improvement of the log regret for which another trial runs."""

REPEATED_UPDATES = {"sgd": 10.0, "adamw": 1.0}
"""Number of times that a weight decay is applied for each step: SGD's momentum of 0.9 repeats it."""


@dataclass(frozen=True)
class PairPoint:
    """The settings of one trial.

    Attributes:
        optimizer: its name.
        max_lr: highest rate of the 1cycle, > 0.
        weight_decay: > 0, in the optimizer's own scale.
        repeat: index of the batches to train on. ``next_pair`` gives 0: another pair tells more than the same again.
    """

    optimizer: str
    max_lr: float
    weight_decay: float
    repeat: int = 0


class PairResult(NamedTuple):
    """The settings of a trial, and the validation loss after it (inf or NaN if it failed) and before it."""

    point: PairPoint
    loss: float
    initial_loss: float


def next_pair(
    finished: Sequence[PairResult], running: Sequence[PairPoint], first_lrs: Mapping[str, float], steps: int
) -> PairPoint | None:
    """Return the settings of the next trial; None if no improvement is expected.

    Each optimizer is first tried at its own first rate, and a decade lower until a loss falls, down to the lowest rate
    of the lattice. Later trials are placed where a Gaussian process through the log regrets of one optimizer expects
    the largest improvement on the best trial of all optimizers. A running trial counts with the loss that its process
    predicts.

    Args:
        finished: in the order of the trials' numbers. The result depends on the arguments alone.
        running: trials that have started and not ended.
        first_lrs: the optimizers to try, and the rate of the first trial of each.
        steps: length of each trial.
    """
    arms = [_Arm(name, lr, finished, running) for name, lr in first_lrs.items()]
    for arm in arms:
        if not arm.points:
            return arm.first_at(arm.first_lr)
    losses, initial = finite_losses(finished) if finished else (np.zeros(1), 1.0)
    fell = any(losses < initial)
    for arm in arms:
        if len(arm.losses) and not any(arm.losses < initial) and (not fell or len(arm.points) < MIN_PAIR_TRIALS):
            lower = min(point.max_lr for point in arm.points) / 10
            if lower > 0.9 * arm.lowest_lr:
                return arm.first_at(lower)
    if finished and not fell:
        return None
    processes = [arm.process(float(losses.min()), initial, steps) for arm in arms]
    means = [process.posterior(coordinates(arm.points, steps))[0] for arm, process in zip(arms, processes, strict=True)]
    lowest = min(mean.min() for mean in means)
    best, largest = None, MIN_IMPROVEMENT if len(finished) + len(running) >= MIN_PAIR_TRIALS else 0.0
    for arm, process in zip(arms, processes, strict=True):
        free = arm.free()
        improvement = process.expected_improvement(coordinates(free, steps), lowest)
        if free and improvement.max() >= largest:
            best, largest = free[improvement.argmax()], improvement.max()
    return best


def expected_losses(results: Sequence[PairResult]) -> Floats:
    """Return the expected loss of a training with each trial's pair and other random numbers, float64 ``[n]``.

        loss + failure_chance(max_lr / failing_lr) * (initial_loss - loss) / 2

    One trial shows the loss at a stable rate, but not whether the next training is stable too. The cost of a failure
    counts half, because it is noticed and the training repeated.
    """
    losses, initial = finite_losses(results)
    rates = np.array([result.point.max_lr for result in results])
    return losses + failure_chance(rates / failing_lrs(results)) * np.maximum(initial - losses, 0.0) / 2


def failure_chance(ratio: Floats) -> Floats:
    """Return the chance that a good pair fails with another seed, ``ratio**3 / 5``.

    ``benchmarks.recipe_quality.stability_edge`` compares it with trainings at half decades.

    Args:
        ratio: the pair's rate over the lowest failing rate above it.
    """
    chance: Floats = ratio**3 / 5
    return chance


def failing_lrs(results: Sequence[PairResult]) -> Floats:
    """Return the lowest rate above that of each trial at which its optimizer failed, with any decay, float64 ``[n]``.

    A trial failed if it ended above the middle between the loss at the start and the lowest loss. Without such a rate
    it is half a decade above all tried ones, about which nothing is known.
    """
    losses, initial = finite_losses(results)
    names, rates = (np.array([getattr(result.point, field) for result in results]) for field in ("optimizer", "max_lr"))
    same = names[:, None] == names
    failed = (
        ~(losses <= (initial + losses.min()) / 2) & same & (rates > 1.01 * rates[:, None])
    )  # rounding makes no other rate
    unknown = math.sqrt(10) * np.where(same, rates, 0.0).max(axis=1)
    return np.minimum(np.where(failed, rates, math.inf).min(axis=1), unknown)


def finite_losses(results: Sequence[PairResult]) -> tuple[Floats, float]:
    """Return the loss after each trial, inf where it is not finite, ``[n]``, and the loss before all, n >= 1.

    If the loss before is not finite, the highest finite one after a trial replaces it.
    """
    losses = np.array([result.loss if math.isfinite(result.loss) else math.inf for result in results])
    initial = results[0].initial_loss
    return losses, initial if math.isfinite(initial) else float(losses[np.isfinite(losses)].max(initial=-math.inf))


def coordinates(points: Iterable[PairPoint], steps: int) -> Floats:
    """Return the coordinates of points for a Gaussian process, float64 ``[n, 2]``.

        log10(max_lr),  log10(weight_decay + 1 / (REPEATED_UPDATES * max_lr * steps))

    A weight decay shrinks the weights within 1 / (rate * decay) updates. One that would need more than ``steps`` has no
    effect, whatever it is.
    """
    rows = [
        (point.max_lr, point.weight_decay + 1 / (REPEATED_UPDATES[point.optimizer] * point.max_lr * steps))
        for point in points
    ]
    return np.log10(rows).reshape(-1, 2)


def pair_process(points: Sequence[PairPoint], regrets: Floats, first_lr: float, steps: int) -> GaussianProcess:
    """Return a Gaussian process through the log regrets ``[n]`` of trials with one optimizer, n >= 1.

    One artificial observation is added at the lowest rate and decay: the initial loss, because hardly anything is
    trained there.
    """
    name = points[0].optimizer
    untrained = PairPoint(name, first_lr * RATE_RATIO**MIN_RATE_EXPONENT, OPTIMIZERS[name].scaled(DECAYS[0]))
    return GaussianProcess(coordinates([*points, untrained], steps), np.append(regrets, math.log(1 + REGRET_FLOOR)))


class _Arm:
    """The trials with one optimizer, finished ones first, and the lattice of those that may follow."""

    def __init__(self, name: str, first_lr: float, finished: Sequence[PairResult], running: Sequence[PairPoint]):
        own = [result for result in finished if result.point.optimizer == name]
        self.name, self.first_lr = name, first_lr
        self.losses = finite_losses(own)[0] if own else np.empty(0)
        self._running = [point for point in running if point.optimizer == name]
        self.points = [result.point for result in own] + self._running

    @property
    def lowest_lr(self) -> float:
        """Lowest rate of the lattice."""
        return float(self.first_lr * RATE_RATIO**MIN_RATE_EXPONENT)

    def first_at(self, max_lr: float) -> PairPoint:
        """Return the point with a rate and ``FIRST_DECAY``."""
        return PairPoint(self.name, max_lr, OPTIMIZERS[self.name].scaled(FIRST_DECAY))

    def process(self, lowest: float, initial: float, steps: int) -> GaussianProcess:
        """Return the process through the finished trials, and through its own predictions for the running ones.

        Args:
            lowest, initial: the lowest loss after any trial, and the loss before all.
        """
        regrets = log_regret(self.losses, lowest, initial)
        finished = self.points[: len(regrets)]
        if self._running:
            # Without any finished trial, the running ones are expected to end with the lowest loss.
            expected = np.full(len(self._running), math.log(REGRET_FLOOR))
            if finished:
                known = pair_process(finished, regrets, self.first_lr, steps)
                expected = known.posterior(coordinates(self._running, steps))[0]
            regrets = np.append(regrets, expected)
        return pair_process(self.points, regrets, self.first_lr, steps)

    def free(self) -> list[PairPoint]:
        """Return the points of the lattice without a trial."""
        tried = {(self._exponent(point), point.weight_decay) for point in self.points}
        step = 2 if len(self.points) < COARSE_TRIALS else 1
        lowest = min(MIN_RATE_EXPONENT, *(exponent for exponent, _ in tried))
        exponents = [each for each in range(lowest, MAX_RATE_EXPONENT + 1) if each % step == 0]
        return [
            PairPoint(self.name, float(self.first_lr * RATE_RATIO**exponent), decay)
            for exponent, decay in product(exponents, self._decays())
            if (exponent, decay) not in tried
        ]

    def _exponent(self, point: PairPoint) -> int:
        return round(math.log(point.max_lr / self.first_lr, RATE_RATIO))

    def _decays(self) -> tuple[float, ...]:
        """Return the weight decays to search, up to the one above the best at any rate at which several were tried."""
        by_rate: dict[int, dict[float, float]] = {}
        for point, loss in zip(self.points, self.losses.tolist(), strict=False):  # of the finished ones
            by_rate.setdefault(self._exponent(point), {})[point.weight_decay] = loss
        best = max((min(row, key=row.__getitem__) for row in by_rate.values() if len(row) > 1), default=0.0)
        decays = tuple(map(OPTIMIZERS[self.name].scaled, DECAYS))
        n_always = DECAYS.index(LARGE_DECAY) + 1
        n_above = sum(decay <= best for decay in decays[n_always - 1 :])
        return decays[: n_always + n_above]
