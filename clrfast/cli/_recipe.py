"""``clrfast recipe``: the search from the command line, with its JSON and its report."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import _saving as saving
from .._errors import RankError
from ..recipe._distributed import ignore_signals, of_torchrun
from ..recipe._find_recipe import find_recipe
from ..recipe._measurements import Parts
from ..recipe._recipe import Recipe
from ..tasks import Task


def run(make_task: Callable[[], Task], arguments: argparse.Namespace) -> None:
    """Make the task, search, print and write; of the ranks of ``torchrun``, only the first prints and writes.

    Raises:
        KeyboardInterrupt, RankError: with where that is which was found until then.
        ValueError: see ``find_recipe``.
    """
    with of_torchrun() as ranks:
        task = make_task()
        if ranks.rank > 0:
            _search(task, arguments, group=ranks)
            return
        _prepare(arguments)
        try:
            with _printed("clrfast.recipe"):
                recipe = _search(task, arguments, group=ranks, progress=True)
        except (KeyboardInterrupt, RankError) as error:
            if ranks.world_size > 1:
                ignore_signals()
            if not arguments.out.exists():
                raise
            report = _reported(Recipe.load(arguments.out), arguments)
            kept = f"what was found is in {arguments.out} and {report}; the same command goes on from there"
            raise type(error)("; ".join((*map(str, error.args), kept))) from None
        recipe.save(arguments.out)
        print(recipe)
        print(f"written: {arguments.out}, {_reported(recipe, arguments)}")


def _search(task: Task, arguments: argparse.Namespace, **more: Any) -> Recipe:
    return find_recipe(
        task,
        arguments.budget,
        planned_steps=arguments.planned_steps,
        batch_sizes=arguments.batch_sizes,
        saved=arguments.out,
        **more,
    )


def _prepare(arguments: argparse.Namespace) -> None:
    """Make room for what is written; before the work, so that what cannot be written costs nothing."""
    out: Path = arguments.out
    if out.exists() and arguments.anew:
        Parts.read(out)  # anything else than a recipe is not ours to delete
        out.unlink()
    elif out.exists():
        print(f"{out}: what is there is not measured again (--anew to begin anew)")


def _reported(recipe: Recipe, arguments: argparse.Namespace) -> Path:
    """The report's path, once it is written."""
    path: Path = arguments.out.with_suffix(".html")
    saving.write_text(path, recipe.to_html(arguments.task, saved=arguments.out.name))
    return path


@contextlib.contextmanager
def _printed(name: str) -> Iterator[None]:
    """A block in which what the library logs about its progress is printed."""

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
