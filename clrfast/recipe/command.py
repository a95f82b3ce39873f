"""``clrfast recipe``: the search from the command line, with its JSON and its report."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from .. import saving
from ..ranks import RankError
from ..tasks import Task
from .parts import Parts
from .ranks import ignore_signals, of_torchrun
from .recipe import Recipe
from .search import MIN_BUDGET, PLANNED_STEPS, find_recipe

HELP = (
    "Finds learning rate, weight decay and momentum by short runs. Writes what it measures to recipe.json as it comes, "
    "and a report for reading to recipe.html. After Ctrl-C the same command goes on from there.\n\n"
    "Under torchrun the ranks share the short runs. Each has its own CUDA device as the current one, so a task that "
    "puts its model on 'cuda' is spread over all.",
    "examples:\n  clrfast recipe digits\n  clrfast recipe my_package.my_module:make_task --planned-steps 30000\n"
    "  torchrun --nproc-per-node 2 -m clrfast recipe digits --budget 5min",
)
"""Description and examples."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--planned-steps", type=int, help=f"updates of the training that it is for (default: {PLANNED_STEPS})"
    )
    parser.add_argument(
        "--budget",
        type=_budget,
        help=f"updates of the search, at least {MIN_BUDGET}, or its time, as 90s, 5min or 1h (default: a tenth of "
        "--planned-steps)",
    )
    parser.add_argument(
        "--batch-sizes", action="store_true", help="look for a faster batch size, too; tries all memory"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("recipe.json"), help="the JSON; the report is beside it (default: recipe.json)"
    )
    parser.add_argument("--anew", action="store_true", help="begin anew, though the JSON is there")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of all random numbers, and of the task if its function has an argument seed (default: 0)",
    )


def _budget(text: str) -> int | timedelta:
    """600 -> 600 updates; 90s, 5min, 1.5h -> a time."""
    if found := re.fullmatch(r"([0-9]*\.?[0-9]+) ?(s|min|h)", text):
        return timedelta(seconds=float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]])
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; give updates, as 600, or a time, as 90s, 5min or 1h") from None


def require_out(out: Path) -> None:
    """Raises ValueError unless the JSON and the report can be written."""
    if not out.parent.is_dir():
        raise ValueError(f"--out: {out.parent} is no folder; make it first")
    if out.suffix != ".json":
        raise ValueError(f"--out: got {out}; give a path that ends in .json: the report goes beside it, in .html")


def run(make_task: Callable[[], Task], arguments: argparse.Namespace) -> None:
    """Make the task, search, print and write; of the ranks of ``torchrun``, only the first prints and writes.

    Raises:
        KeyboardInterrupt, RankError: with where that is which was found until then.
        ValueError: see ``find_recipe``.
    """
    with of_torchrun() as ranks:
        task = make_task()
        if ranks.index > 0:
            _search(task, arguments, group=ranks)
            return
        _prepare(arguments)
        try:
            with _printed("clrfast.recipe"):
                recipe = _search(task, arguments, group=ranks, progress=True)
        except (KeyboardInterrupt, RankError) as error:
            if ranks.count > 1:
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
    require_out(out)
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
