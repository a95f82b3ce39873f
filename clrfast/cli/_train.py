"""``clrfast train``: compares 1cycle with a constant rate."""

from __future__ import annotations

import argparse

from .._checks import count
from .._progress import show_progress
from ..schedules import constant, one_cycle
from ..training import Score, evaluate, steps_per_epoch, train
from ..training._preservation import preserve_all
from ._screen import print_facts
from ._task import MAKE_OPTIMIZER, make_seeded_task, run_range_test, shows_progress


def run(arguments: argparse.Namespace) -> None:
    """Train the task with 1cycle and, from the same start, with a constant rate; print the results."""
    task = make_seeded_task(arguments)
    max_lr = arguments.lr
    if max_lr is None:
        curve = run_range_test(task, arguments)
        suggestion = curve.suggest(arguments.method)
        print_facts(curve, suggestion)
        print()
        max_lr = suggestion.max_lr
    total_steps = arguments.epochs * steps_per_epoch(task)
    print(f"{count(arguments.epochs, 'epoch')}, {count(total_steps, 'step')} with {arguments.optimizer}:")
    for name, schedule in (
        ("1cycle", one_cycle(max_lr, total_steps)),
        ("constant", constant(max_lr, total_steps)),
    ):
        # Both runs start from the same weights, random numbers and order of the data.
        with preserve_all(task.model, loader=task.train_loader):
            with show_progress(shows_progress(), name) as progress:
                make_optimizer = MAKE_OPTIMIZER[arguments.optimizer]
                losses = train(task, schedule, make_optimizer=make_optimizer, progress=progress)
            score = evaluate(task)
        print(f"  {name:9} {_describe(score, float(losses[-1]))}")
    if score is not None:
        one = (
            "" if score.accuracy is None else f"one of the {score.n_samples} samples is {100 / score.n_samples:.2g} %; "
        )
        print(f"{one}a difference that changes its sign with --seed 1 or 2 is chance")


def _describe(score: Score | None, last_loss: float) -> str:
    if score is None:
        return f"last training loss {last_loss:.4g} (the task has no validation data)"
    accuracy = "" if score.accuracy is None else f"validation accuracy {100 * score.accuracy:.2f} %, "
    return f"{accuracy}validation loss {score.loss:.4g}"
