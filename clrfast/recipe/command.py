"""``clrfast recipe``: the search from the command line, with its JSON and its report."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from ..tasks import Task
from .parts import Parts
from .recipe import Recipe
from .search import MIN_BUDGET, PLANNED_STEPS, find_recipe

HELP = (
    "Finds learning rate, weight decay and momentum by short runs. Writes what it measures to recipe.json as it comes, "
    "and a report for reading to recipe.html. After Ctrl-C the same command goes on from there.",
    "examples:\n  clrfast recipe digits\n  clrfast recipe my_package.my_module:make_task --planned-steps 30000",
)
"""Description and examples."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--planned-steps", type=int, help=f"updates of the training that it is for (default: {PLANNED_STEPS})"
    )
    parser.add_argument(
        "--budget",
        type=int,
        help=f"updates of the search, at least {MIN_BUDGET} (default: a tenth of --planned-steps)",
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
        help="of torch's random numbers, and of the task if its function has an argument seed (default: 0)",
    )


def require_out(out: Path) -> None:
    """Raises ValueError unless the JSON and the report can be written; before the work, so that it costs nothing."""
    if not out.parent.is_dir():
        raise ValueError(f"--out: {out.parent} is no folder; make it first")
    if out.suffix != ".json":
        raise ValueError(f"--out: got {out}; give a path that ends in .json: the report goes beside it, in .html")


def run(task: Task, arguments: argparse.Namespace) -> None:
    """Search, print and write.

    Raises:
        KeyboardInterrupt: with where that is which was found until then.
        ValueError: see ``find_recipe``.
    """
    out: Path = arguments.out
    require_out(out)
    if out.exists() and arguments.anew:
        Parts.read(out)  # anything else than a recipe is not ours to delete
        out.unlink()
    elif out.exists():
        print(f"{out}: what is there is not measured again (--anew to begin anew)")
    try:
        with _printed("clrfast.recipe"):
            recipe = find_recipe(
                task,
                arguments.budget,
                planned_steps=arguments.planned_steps,
                batch_sizes=arguments.batch_sizes,
                saved=out,
                progress=True,
            )
    except KeyboardInterrupt:
        if not out.exists():
            raise
        report = _reported(Recipe.load(out), arguments)
        told = f"what was found is in {out} and {report}; the same command goes on from there"
        raise KeyboardInterrupt(told) from None
    recipe.save(out)
    print(recipe)
    print(f"written: {out}, {_reported(recipe, arguments)}")


def _reported(recipe: Recipe, arguments: argparse.Namespace) -> Path:
    """The report's path, once it is written."""
    path: Path = arguments.out.with_suffix(".html")
    path.write_text(recipe.to_html(arguments.task, saved=arguments.out.name), encoding="utf-8")
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
