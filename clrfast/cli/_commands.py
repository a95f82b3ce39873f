"""The command line: ``clrfast find``, ``train``, ``recipe``, ``schedule`` and ``doctor``."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import _saving as saving
from .._errors import NotWrittenError, RankError
from .._progress import progress_bar
from ..finder import LRCurve, NoSuggestionError, Suggestion, range_test
from ..schedules import POLICIES, constant, one_cycle
from ..tasks import Task, TaskError, make_task
from ..training._preserve import preserve_all
from ..training._train import Score, evaluate, steps_per_epoch, train
from . import _doctor as doctor
from . import _recipe as recipe
from ._arguments import UsageError, parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        arguments = parsed(argv)
        _COMMANDS[arguments.command](arguments)
    except (UsageError, TaskError, ValueError) as error:
        print(f"clrfast: {error}", file=sys.stderr)
        return 2
    except (RankError, NotWrittenError) as error:
        print(f"clrfast: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("clrfast: interrupted" + (f": {interrupt}" if interrupt.args else ""), file=sys.stderr)
        return 130
    return 0


def _find(arguments: argparse.Namespace) -> None:
    task = _made(arguments)
    curve = _measured(task, arguments)
    data, picture = arguments.out / "lr_range_test.json", arguments.out / "lr_range_test.png"
    curve.save(data)
    try:
        suggestion: Suggestion | None = curve.suggest(arguments.method)
    except NoSuggestionError as error:
        suggestion, problem = None, error
    written = [data]
    try:
        figure: Any = curve.plot(suggestion=suggestion).figure
        saving.write_figure(picture, figure)
        written.append(picture)
    except ModuleNotFoundError as error:
        print(f'no picture: {error.name} is not installed (pip install "clrfast[plot]")', file=sys.stderr)
    print(f"range test: {curve.stop_reason}")
    if suggestion is not None:
        print(f"suggested learning rate: {suggestion}")
    print("written: " + ", ".join(map(str, written)))
    if suggestion is None:
        raise UsageError(f"no suggestion: {problem}")


def _train(arguments: argparse.Namespace) -> None:
    task = _made(arguments)
    max_lr = arguments.lr
    if max_lr is None:
        suggestion = _measured(task, arguments).suggest(arguments.method)
        max_lr = suggestion.max_lr
        print(f"suggested learning rate: {max_lr:.3g} ({suggestion.reason})")
    total_steps = arguments.epochs * steps_per_epoch(task)
    print(f"{arguments.epochs} epochs, {total_steps} steps:")
    for name, schedule in (
        ("1cycle", one_cycle(max_lr, total_steps)),
        ("constant", constant(max_lr, total_steps)),
    ):
        # Both runs start from the same weights, random numbers and order of the data.
        with preserve_all(task.model, loader=task.train_loader):
            with progress_bar(name) as progress:
                losses = train(task, schedule, progress=progress)
            result = _described(evaluate(task), float(losses[-1]))
        print(f"  {name:9} {result}")


def _recipe(arguments: argparse.Namespace) -> None:
    recipe.run(partial(_made, arguments), arguments)


def _draw(arguments: argparse.Namespace) -> None:
    prefix = "policy_"
    given = {k.removeprefix(prefix): v for k, v in vars(arguments).items() if k.startswith(prefix) and v is not None}
    momentum = given.get("momentum")
    if isinstance(momentum, list):
        given["momentum"] = momentum[0] if len(momentum) == 1 else tuple(momentum)
    schedule = POLICIES[arguments.policy](**given)
    path = arguments.out or Path(f"{arguments.policy}.png")
    try:
        saving.write_figure(path, schedule.plot())
    except ModuleNotFoundError as error:
        raise UsageError(f'{error.name} is not installed (pip install "clrfast[plot]")') from None
    print(f"written: {path}")


def _made(arguments: argparse.Namespace) -> Task:
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)  # noqa: NPY002 - the task's function may use it
    return make_task(arguments.task, arguments.seed)


def _measured(task: Task, arguments: argparse.Namespace) -> LRCurve:
    return range_test(
        task,
        min_lr=arguments.min_lr,
        max_lr=arguments.max_lr,
        steps=arguments.steps,
        spacing=arguments.spacing,
        repeats=arguments.repeats,
        progress=True,
    )


def _described(score: Score | None, last_loss: float) -> str:
    if score is None:
        return f"last training loss {last_loss:.4g} (the task has no validation data)"
    accuracy = "" if score.accuracy is None else f"validation accuracy {100 * score.accuracy:.2f} %, "
    return f"{accuracy}validation loss {score.loss:.4g}"


def _doctor(arguments: argparse.Namespace) -> None:
    print("\n".join(doctor.report()))


_COMMANDS = {"find": _find, "train": _train, "recipe": _recipe, "schedule": _draw, "doctor": _doctor}
