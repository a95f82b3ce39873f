"""``SearchedTask``: what a contender gets, and the trainings that it may make. ``Answer``: what it gives back.

    trainings that fit = max_steps // steps
    loss of a training = min(validation loss at the end, validation loss without training)

A contender sees the validation half of the held-out samples. All its trainings start from the same weights, with the
same order of the data, as those of ``clrfast.find_recipe`` do.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..task_library.definition import BenchmarkTask, TaskDefinition, make_step
from .reference import MOMENTUM, OPTIMIZERS, Reference, final_loss, held_out_halves, make_optimizer

Report = Callable[[int, float], None]
"""``report(ninths, loss)`` gets the validation loss in the middle of a training; what it raises ends the training."""

REPORTED_NINTHS = (1, 3)
"""After these ninths of the updates a training reports."""


@dataclass(frozen=True)
class Answer:
    """The settings that a contender found.

    Attributes:
        optimizer: "sgd" or "adamw".
        lr: highest rate of the 1cycle.
        weight_decay: >= 0.
        steps: updates that the search made.
        trainings: that the search began; None if the contender does not say.
        momentum: (upper, lower), cycled against the rate.
    """

    optimizer: str
    lr: float
    weight_decay: float
    steps: int
    trainings: int | None = None
    momentum: tuple[float, float] = MOMENTUM

    def loss(self, task: BenchmarkTask, steps: int) -> float:
        """Return the test loss after a training of ``task`` with these settings; inf once a loss is not finite."""
        optimizer = make_optimizer(self.optimizer, task, self.lr, self.weight_decay, steps, self.momentum)
        return final_loss(task, optimizer, steps)


@dataclass
class SearchedTask:
    """A task, the seed of the search, and what it may cost.

    Attributes:
        reference: holds the grid, whose ranges are searched, and the updates of a training. A contender that looks at
            the grid's losses is no search.
        optimizer: name of the optimizer to tune, "sgd" or "adamw".
        seed: of the search; decides the initial weights and the order of the data.
        max_steps: limit on the updates of the search.
        used_steps: updates that the trainings made.
        trainings: that were begun.
    """

    definition: TaskDefinition
    reference: Reference
    optimizer: str
    seed: int
    max_steps: int
    used_steps: int = 0
    trainings: int = 0

    @property
    def steps(self) -> int:
        """Updates of a training."""
        return self.reference.steps

    @property
    def sampler_seed(self) -> int:
        """Seed of random draws, so that they differ between tasks; all contenders draw the same on one task."""
        return zlib.crc32(f"{self.optimizer} {self.definition.name} {self.seed}".encode())

    @property
    def n_trainings(self) -> int:
        """Whole trainings that fit into the budget."""
        return self.max_steps // self.steps

    @property
    def lr_range(self) -> tuple[float, float]:
        """Lowest and highest rate of the grid."""
        rates = OPTIMIZERS[self.optimizer].grid.rates(self.definition)
        return rates[0], rates[-1]

    @property
    def weight_decay_range(self) -> tuple[float, float]:
        """Lowest weight decay of the grid above 0, and its highest one."""
        decays = OPTIMIZERS[self.optimizer].grid.weight_decays
        return min(filter(None, decays)), decays[-1]

    def can_train(self) -> bool:
        """Return whether a whole training fits into what is left of the budget."""
        return self.used_steps + self.steps <= self.max_steps

    def make(self) -> BenchmarkTask:
        """Return the task with its initial weights."""
        return self.definition.make(self.seed)

    def validation(self, task: BenchmarkTask) -> tuple[Tensor, Tensor]:
        """Return the validation samples: inputs and targets."""
        return held_out_halves(task)[0]

    @functools.cached_property
    def untrained(self) -> float:
        """Validation loss without training."""
        task = self.make()
        return task.evaluate(*self.validation(task))

    def train(self, lr: float, weight_decay: float, report: Report | None = None) -> float:
        """Make a whole training and return its loss.

        A training that diverges ends there. The budget is charged with the updates that were made.
        """
        task = self.make()
        update = make_step(make_optimizer(self.optimizer, task, lr, weight_decay, self.steps))
        reported = {self.steps * ninths // 9: ninths for ninths in REPORTED_NINTHS if report is not None}
        done = 0

        def step(loss: Tensor) -> None:
            nonlocal done
            update(loss)
            done += 1
            self.used_steps += 1
            if report is not None and done in reported:
                report(reported[done], self._capped(task.evaluate(*self.validation(task))))

        self.trainings += 1
        finite = task.fit(step, self.steps)
        return self._capped(task.evaluate(*self.validation(task)) if finite else math.inf)

    def answer(self, lr: float, weight_decay: float) -> Answer:
        """Return these settings, with what the trainings so far cost."""
        return Answer(self.optimizer, lr, weight_decay, self.used_steps, self.trainings)

    def _capped(self, loss: float) -> float:
        return min(loss, self.untrained)
