"""``clrfast train``: compares 1cycle with a constant rate."""

from __future__ import annotations

import argparse

from .._progress import progress_bar
from ..schedules import constant, one_cycle
from ..training import Score, evaluate, steps_per_epoch, train
from ..training._preservation import preserve_all
from ._task import MAKE_OPTIMIZER, make_seeded_task, run_range_test


def run(arguments: argparse.Namespace) -> None:
    """Train the task with 1cycle and, from the same start, with a constant rate; print the results."""
    task = make_seeded_task(arguments)
    max_lr = arguments.lr
    if max_lr is None:
        suggestion = run_range_test(task, arguments).suggest(arguments.method)
        max_lr = suggestion.max_lr
        print(f"suggested learning rate: {max_lr:.3g} ({suggestion.reason})")
    total_steps = arguments.epochs * steps_per_epoch(task)
    print(f"{arguments.epochs} epochs, {total_steps} steps with {arguments.optimizer}:")
    for name, schedule in (
        ("1cycle", one_cycle(max_lr, total_steps)),
        ("constant", constant(max_lr, total_steps)),
    ):
        # Both runs start from the same weights, random numbers and order of the data.
        with preserve_all(task.model, loader=task.train_loader):
            with progress_bar(name) as progress:
                make_optimizer = MAKE_OPTIMIZER[arguments.optimizer]
                losses = train(task, schedule, make_optimizer=make_optimizer, progress=progress)
            result = _describe(evaluate(task), float(losses[-1]))
        print(f"  {name:9} {result}")


def _describe(score: Score | None, last_loss: float) -> str:
    if score is None:
        return f"last training loss {last_loss:.4g} (the task has no validation data)"
    accuracy = "" if score.accuracy is None else f"validation accuracy {100 * score.accuracy:.2f} %, "
    return f"{accuracy}validation loss {score.loss:.4g}"
