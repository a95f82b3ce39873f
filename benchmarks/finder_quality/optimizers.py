"""The optimizers that finders are judged with: how each trains, its oracle, and the constant rates that people use.

SGD has momentum 0.9 and follows ``clrfast.one_cycle``. AdamW has torch's default arguments and follows torch's
``OneCycleLR`` with its default arguments: cosines, 30 % of the steps upwards, and ``cycle_momentum``, which moves
``beta1`` from 0.95 to 0.85 and back. Most training scripts that call ``OneCycleLR`` leave its arguments at the
defaults, and fastai's ``fit_one_cycle`` moves ``beta1`` between the same values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR

import clrfast

from ..oracle import Grid
from ..task_library.definition import BenchmarkTask, Split, make_step
from .tasks import DEVELOPMENT, SPLITS, TEST


def untrained_loss(task: BenchmarkTask) -> float:
    return task.evaluate(*task.val)


def loss_with_sgd(task: BenchmarkTask, lr: float, weight_decay: float, steps: int) -> float:
    """Return the validation loss after a 1cycle up to ``lr``; inf once a loss is not finite."""
    schedule = clrfast.one_cycle(lr, steps, weight_decay=weight_decay)
    optimizer = clrfast.SGD(task.model.parameters(), momentum=0.9, schedule=schedule)
    return task.evaluate(*task.val) if task.fit(make_step(optimizer), steps) else math.inf


def loss_with_adamw(task: BenchmarkTask, lr: float, weight_decay: float, steps: int) -> float:
    """Return the validation loss after a cosine 1cycle up to ``lr``; inf once a loss is not finite."""
    groups = task.parameter_groups(lr)
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)  # fused: fastest on a CPU
    scheduler = OneCycleLR(optimizer, [group["lr"] for group in groups], total_steps=steps)
    return task.evaluate(*task.val) if task.fit(make_step(optimizer, scheduler), steps) else math.inf


@dataclass(frozen=True)
class TunedOptimizer:
    """An optimizer whose rate finders suggest.

    Attributes:
        grid: its oracle.
        torch_class, arguments: torch's optimizer, and its arguments besides the rate.
        constants: rates that people use for every task.
        splits: the tasks that are trained with it.
    """

    grid: Grid
    torch_class: type[torch.optim.Optimizer]
    arguments: dict[str, Any]
    constants: tuple[float, ...]
    splits: dict[str, Split]

    def make(self, task: BenchmarkTask, lr: float) -> torch.optim.Optimizer:
        """Return a torch optimizer over the trained parameters of ``task``."""
        return self.torch_class(task.parameter_groups(lr), lr=lr, **self.arguments)


OPTIMIZERS = {
    "sgd": TunedOptimizer(
        Grid(
            name="finder_quality",
            train=loss_with_sgd,
            evaluate=untrained_loss,
            rates_per_decade=8,
            weight_decays=(0.0,),
            seeds=range(3),
            max_failed_rates=4,
        ),
        torch.optim.SGD,
        {"momentum": 0.9},
        (0.01, 0.1),
        {"development": DEVELOPMENT, "test": TEST},
    ),
    "adamw": TunedOptimizer(
        Grid(
            name="finder_quality_adamw",
            train=loss_with_adamw,
            evaluate=untrained_loss,
            rates_per_decade=4,
            weight_decays=(0.01,),
            seeds=range(2),
            max_failed_rates=4,
            rate_range=(-6.0, 0.0),
            first_lr=1e-4,
        ),
        torch.optim.AdamW,
        {},
        (3e-4, 1e-3, 0.01, 0.03),
        SPLITS,
    ),
}
"""By name."""
