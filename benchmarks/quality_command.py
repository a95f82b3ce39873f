"""The command-line options that the benchmarks of quality share, and the tasks that they select."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

import torch

from .oracle import CACHE
from .task_library.definition import Split, TaskDefinition
from .task_library.selection import select_tasks


def make_parser(package: str, description: str | None, splits: dict[str, Split]) -> argparse.ArgumentParser:
    """Make the parser of ``python -m benchmarks.<package>`` with the shared options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{package}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", help=f"names of tasks or of splits: {', '.join(splits)} (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--results", type=Path, help="folder for the result file; rows that are not measured again stay"
    )
    parser.add_argument("--oracle", type=Path, default=CACHE, help="the oracle's cache (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="two tasks, few updates, a coarse oracle that is not kept")
    return parser


def parse(
    parser: argparse.ArgumentParser,
    splits: dict[str, Split],
    tiny_tasks: list[str],
    contenders: Collection[str] = (),
) -> tuple[argparse.Namespace, list[TaskDefinition]]:
    """Parse the command line and select the tasks; exit with a message if a name is unknown.

    torch runs on one thread from here on: the result file states it, and the worker processes do the same.

    Args:
        tiny_tasks: the tasks of ``--tiny``.
        contenders: the names that ``--contenders`` accepts; empty without such an option.
    """
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if contenders and (unknown := set(arguments.contenders or ()) - set(contenders)):
        parser.error(f"--contenders: there are no {sorted(unknown)}; give some of {sorted(contenders)}")
    try:
        return arguments, select_tasks(arguments.tasks or (tiny_tasks if arguments.tiny else None), splits)
    except ValueError as error:
        parser.error(f"--tasks: {error}")
