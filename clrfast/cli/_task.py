"""Makes the task of a command, and runs its range test."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping

import numpy as np
import torch

from ..finder import LRCurve, range_test
from ..finder._range_test import TrialsOption
from ..optim import AdamW, FusedOptimizer
from ..tasks import Task, make_task
from ..training._loss_modules import parameters_of_task
from ..training._optimizer_factory import MakeOptimizer
from ._arguments import UsageError

MAKE_OPTIMIZER: Mapping[str, MakeOptimizer | None] = {"sgd": None, "adamw": AdamW}
"""What makes the optimizer of each name in ``_arguments.OPTIMIZERS``; None for the default, SGD with momentum."""


def make_seeded_task(arguments: argparse.Namespace) -> Task:
    """Seed all random numbers with ``--seed`` and make the task."""
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)  # noqa: NPY002 - the task's function may use it
    return make_task(arguments.task, arguments.seed)


def run_range_test(task: Task, arguments: argparse.Namespace) -> LRCurve:
    """Run the range test that the arguments describe."""
    return range_test(
        task.model,
        task.loss_fn,
        task.train_loader,
        compute_loss=task.compute_loss,
        optimizer=_make_optimizer(task, arguments.optimizer),
        min_lr=arguments.min_lr,
        max_lr=arguments.max_lr,
        steps=arguments.steps,
        spacing=arguments.spacing,
        repeats=arguments.repeats,
        trials=_resolve_trials(arguments),
        progress=shows_progress(),
    )


def shows_progress() -> bool:
    """Return whether a command shows its progress: on a terminal, not in a file or a pipe."""
    return sys.stderr.isatty()


def _make_optimizer(task: Task, name: str) -> FusedOptimizer | None:
    make = MAKE_OPTIMIZER[name]
    if make is None:
        return None
    return make(parameters_of_task(task))


def _resolve_trials(arguments: argparse.Namespace) -> TrialsOption:
    if arguments.method not in (None, "trials"):
        if arguments.thorough:
            raise UsageError(f"--thorough: --method {arguments.method} is a rule for the ramp alone; leave one out")
        return False
    if arguments.thorough:
        return "thorough"
    return True if arguments.method == "trials" else "auto"
