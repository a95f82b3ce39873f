"""References for the recipe: the best cell of a full grid over rate and weight decay, and default settings.

    score   = mean over the seeds of the test loss at the end, each at most the untrained one
    reached = (score(defaults) - score(recipe)) / (score(defaults) - score(best))     1: as good as the best cell

All trainings of a task are 1cycles of the same length, with the momentum from 0.95 to 0.85 and back. The grid has two
seeds and is judged by the test loss. Its three best cells, the defaults and the recipe's settings are trained again
with the same fresh seeds, and only those trainings count. The best cell is the best of these cells.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

import clrfast

from ..oracle import Cell, Grid, Oracle, Retraining
from ..task_library.definition import BenchmarkTask, Split, make_step
from .tasks import ADAMW_SPLITS, SGD_SPLITS
from .tasks.sizes import ADAMW_RANGE

MOMENTUM = (0.95, 0.85)

Batch = tuple[Tensor, Tensor]


def held_out_halves(task: BenchmarkTask) -> tuple[Batch, Batch]:
    """Return the validation samples, which a recipe sees, and the test samples, which judge it: every other one."""
    (val, test) = (tuple(part[first::2] for part in task.val) for first in (0, 1))
    return val, test  # type: ignore[return-value]


def test_loss(task: BenchmarkTask) -> float:
    return task.evaluate(*held_out_halves(task)[1])


def final_loss(task: BenchmarkTask, optimizer: Optimizer, steps: int) -> float:
    """Return the test loss after a training; inf once a loss is not finite."""
    return test_loss(task) if task.fit(make_step(optimizer), steps) else math.inf


def make_optimizer(
    name: str, task: BenchmarkTask, lr: float, weight_decay: float, steps: int, momentum: tuple[float, float] = MOMENTUM
) -> Optimizer:
    """Return an optimizer that follows a 1cycle up to ``lr``.

    Args:
        name: "sgd" or "adamw", whose beta1 the momentum is.
        momentum: (upper, lower), cycled against the rate.
    """
    schedule = clrfast.one_cycle(lr, steps, momentum=momentum, weight_decay=weight_decay)
    kind = {"sgd": clrfast.SGD, "adamw": clrfast.AdamW}[name]
    return kind(task.model.parameters(), schedule=schedule)


def sgd_loss(task: BenchmarkTask, lr: float, weight_decay: float, steps: int) -> float:
    """Return the test loss after a 1cycle of SGD up to ``lr``; inf once a loss is not finite."""
    return final_loss(task, make_optimizer("sgd", task, lr, weight_decay, steps), steps)


def adamw_loss(task: BenchmarkTask, lr: float, weight_decay: float, steps: int) -> float:
    """Return the test loss after a 1cycle of AdamW up to ``lr``; inf once a loss is not finite."""
    return final_loss(task, make_optimizer("adamw", task, lr, weight_decay, steps), steps)


SGD_GRID = Grid(
    name="recipe_quality",
    train=sgd_loss,
    evaluate=test_loss,
    rates_per_decade=2,
    weight_decays=(0.0, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    seeds=range(2),
    max_failed_rates=2,
    n_retrained=3,
    default_cells=tuple(itertools.product((0.01, 0.1), (0.0, 1e-4))),
    retraining_seeds=range(50, 53),
)

ADAMW_GRID = replace(
    SGD_GRID,
    name="recipe_quality_adamw",
    train=adamw_loss,
    rate_range=(ADAMW_RANGE["low"], ADAMW_RANGE["high"]),
    weight_decays=(0.0, 1e-3, 0.01, 0.1, 0.3, 1.0, 3.0),
    default_cells=tuple(itertools.product((3e-4, 1e-3), (0.0, 0.01))),
)
"""As many rates as for SGD, and 100 times its weight decays."""

FRESH_SEEDS = SGD_GRID.retraining_seeds
"""Seeds of the trainings that count: neither the grids nor the searches use them."""


@dataclass(frozen=True)
class TunedOptimizer:
    """An optimizer whose rate and weight decay are searched.

    Attributes:
        grid: its oracle.
        splits: the tasks that are trained with it.
    """

    grid: Grid
    splits: dict[str, Split]


OPTIMIZERS = {
    "sgd": TunedOptimizer(SGD_GRID, SGD_SPLITS),
    "adamw": TunedOptimizer(ADAMW_GRID, ADAMW_SPLITS),
}
"""By name."""


def score(losses: Iterable[float], untrained: Iterable[float]) -> float:
    """Return the mean over the seeds. A training that diverges or ends above its start counts as untrained."""
    return statistics.mean(min(loss, start) for loss, start in zip(losses, untrained, strict=True))


@dataclass(frozen=True)
class Reference:
    """The best cell of a task's grid and the default cells, by their trainings with fresh seeds."""

    oracle: Oracle
    grid: Grid = SGD_GRID

    @property
    def steps(self) -> int:
        """Updates of each training."""
        return self.oracle.steps

    @property
    def grid_steps(self) -> int:
        """Updates of the whole grid with one seed."""
        return len(self.oracle.rates) * len(self.oracle.weight_decays) * self.steps

    @property
    def retraining(self) -> Retraining:
        assert self.oracle.retraining is not None
        return self.oracle.retraining

    def score(self, losses: Iterable[float]) -> float:
        """Return the score of trainings with the fresh seeds."""
        return score(losses, self.retraining.untrained)

    def default_scores(self) -> list[float]:
        return [self.score(losses) for losses in self.retraining.default_losses]

    def best(self) -> tuple[float, tuple[float, float]]:
        """Return the lowest score with the fresh seeds, and its rate and weight decay."""
        cells = [(lr, weight_decay) for lr, weight_decay in self.retraining.best_cells] + list(self.grid.default_cells)
        losses = self.retraining.best_losses + self.retraining.default_losses
        return min(zip(map(self.score, losses), cells, strict=True))

    def best_cell_by_seed(self) -> list[Cell]:
        """Return the cell with the lowest loss for each of the grid's seeds alone."""
        rates, decays = self.oracle.rates, self.oracle.weight_decays
        places = [divmod(int(np.argmin(losses)), len(decays)) for losses in self.oracle.losses]
        return [[rates[rate], decays[decay]] for rate, decay in places]
