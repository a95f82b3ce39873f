"""``clrfast recipe``: the search, with its JSON and its report."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import _saving as saving
from .._errors import RankError
from ..recipe import Recipe, Study, find_recipe
from ..tasks import Task
from ._task import make_seeded_task
from ._torchrun import ignore_signals, torchrun_ranks


def run(arguments: argparse.Namespace) -> None:
    """Make the task, search, print and write; under ``torchrun`` only the first rank prints and writes.

    Raises:
        KeyboardInterrupt, RankError: the search was interrupted; the message names the files with what it found.
        ValueError: see ``find_recipe``.
    """
    with torchrun_ranks() as ranks:
        task = make_seeded_task(arguments)
        if ranks.rank > 0:
            _search(task, arguments, group=ranks)
            return
        _prepare_output(arguments)
        try:
            with _print_logs("clrfast.recipe"):
                recipe = _search(task, arguments, group=ranks, progress=True)
        except (KeyboardInterrupt, RankError) as error:
            if ranks.world_size > 1:
                ignore_signals()
            if not arguments.out.exists():
                raise
            report = _write_report(Recipe.load(arguments.out), arguments)
            kept = f"the results so far are in {arguments.out} and {report}; the same command continues from there"
            raise type(error)("; ".join((*map(str, error.args), kept))) from None
        recipe.save(arguments.out)
        print(recipe)
        print(f"written: {arguments.out}, {_write_report(recipe, arguments)}")


def _search(task: Task, arguments: argparse.Namespace, **options: Any) -> Recipe:
    return find_recipe(
        task,
        arguments.budget,
        planned_steps=arguments.planned_steps,
        optimizer=arguments.optimizer,
        batch_sizes=arguments.batch_sizes,
        saved=arguments.out,
        **options,
    )


def _prepare_output(arguments: argparse.Namespace) -> None:
    """Delete the old recipe with ``--overwrite``, else say that the search continues it.

    This happens before the search, so that an output that cannot be written costs no time.
    """
    out: Path = arguments.out
    if out.exists() and arguments.overwrite:
        Study.read(out)  # raises unless it is a recipe: other files are not deleted
        out.unlink()
    elif out.exists():
        print(f"{out}: the search continues from these results (--overwrite starts again)")


def _write_report(recipe: Recipe, arguments: argparse.Namespace) -> Path:
    """Write the report and return its path."""
    path: Path = arguments.out.with_suffix(".html")
    saving.write_text(path, recipe.to_html(arguments.task, saved=arguments.out.name))
    return path


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
