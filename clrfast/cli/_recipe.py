"""``clrfast recipe``: the search, with its JSON and its report."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import _saving as saving
from ..recipe import Recipe, find_recipe
from ..recipe._find_recipe import OtherSearchError
from ._arguments import UsageError
from ._screen import write
from ._task import make_seeded_task, shows_progress

CONTINUES = "with --storage recipe.log the same command would continue"
"""What makes an interrupted search worth continuing."""


def run(arguments: argparse.Namespace) -> None:
    """Make the task, work on its search, print and write; of several ranks only the first prints and writes.

    Raises:
        KeyboardInterrupt: the search was interrupted; the message names the files with what it found.
        UsageError: Optuna is not installed, or the storage holds a search with other options.
        ValueError: see ``find_recipe``.
    """
    _require_optuna()
    name = arguments.study_name or arguments.task
    if arguments.report:
        _write(Recipe.from_storage(arguments.storage, name), arguments)
        return
    is_first = _rank("RANK", "SLURM_PROCID") == 0
    _use_own_device()
    task = make_seeded_task(arguments)
    storage = _open(arguments)
    try:
        with _sigterm_as_interrupt(), _print_logs("clrfast.recipe") if is_first else contextlib.nullcontext():
            recipe = find_recipe(
                task,
                arguments.budget,
                planned_steps=arguments.planned_steps,
                optimizers=arguments.optimizers,
                batch_sizes=arguments.batch_sizes,
                storage=storage,
                study_name=name,
                progress=is_first and shows_progress(),
            )
    except OtherSearchError as error:
        raise UsageError(_with_options(error, arguments)) from None
    except KeyboardInterrupt as error:
        try:
            so_far = Recipe.from_storage(storage, name)
        except ValueError:  # no range test has ended
            found = "no trial has finished"
        else:
            found = "trials that were running are lost"
            if is_first:
                _write(so_far, arguments)
                found += f", and the results so far are in {arguments.out}"
        hint = "the same command continues" if arguments.storage else CONTINUES
        raise KeyboardInterrupt("; ".join([*map(str, error.args), found, hint])) from None
    if is_first:
        _write(recipe, arguments)


def _with_options(error: OtherSearchError, arguments: argparse.Namespace) -> str:
    """Return the message with the names of options in place of those of arguments."""
    message = str(error)
    for name in ("study_name", *error.names):
        if hasattr(arguments, name):
            message = re.sub(rf"\b{name}\b", f"--{name.replace('_', '-')}", message)
    return message


def _require_optuna() -> None:
    from ..recipe._storage import require_optuna

    try:
        require_optuna()
    except ModuleNotFoundError as error:
        raise UsageError(error) from None


def _open(arguments: argparse.Namespace) -> Any:
    """Return the storage as one object, from which an interrupted search in memory is read, too."""
    from ..recipe._storage import open_storage

    return open_storage(arguments.storage)


def _use_own_device() -> None:
    """Make another CUDA device the current one on each rank of a machine, if there are several."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(_rank("LOCAL_RANK", "SLURM_LOCALID") % torch.cuda.device_count())


def _rank(*names: str) -> int:
    """Return the number that a launcher gave this process, by torchrun's name of it or Slurm's; 0 without one."""
    return int(next((os.environ[name] for name in names if name in os.environ), "0"))


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, with which torchrun, Slurm and Kubernetes end a process, as Ctrl-C: it gives a trial back."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Print the recipe, and write it and its report."""
    report: Path = arguments.out.with_suffix(".html")
    html = recipe.to_html(arguments.task, saved=arguments.out.name)
    print(recipe)
    written = write(arguments.out, recipe.save), write(report, lambda path: saving.write_text(path, html))
    print(f"written: {', '.join(written)}")


@contextlib.contextmanager
def _print_logs(name: str) -> Iterator[None]:
    """Print what the logger ``name`` logs in this block."""

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(record.getMessage(), flush=True)

    logger, printer = logging.getLogger(name), Printer()
    level = logger.level
    logger.addHandler(printer)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(printer)
        logger.setLevel(level)
