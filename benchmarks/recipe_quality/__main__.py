"""Compare the short recipe with a full grid over learning rate and weight decay.

python -m benchmarks.recipe_quality --results benchmarks/results

The recipe is tried with two budgets: 15 % of the updates of the grid with one seed, and of the grid as it is trained,
with two. It searches with seeds of its own, and sees only half of the held-out samples. ``reference.py`` and
``rows.py`` hold the formulas.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from ..oracle import CACHE, find_oracles
from ..result_files import Row, write_rows
from ..task_library.selection import select_tasks
from .reference import GRID
from .rows import task_line, task_rows
from .tasks import SPLITS

SEARCH_SEEDS = range(100, 103)

BUDGETS = (0.15, 0.15 * len(GRID.seeds))
"""Budgets of the recipe, as fractions of the grid's updates with one seed."""

TINY_TASKS = ["diabetes_mlp", "breast_cancer_mlp"]
TINY_GRID = dataclasses.replace(GRID, rates_per_decade=1)
TINY_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipe_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", help=f"names of tasks or of splits: {', '.join(SPLITS)} (default: all)")
    parser.add_argument(
        "--budgets",
        type=float,
        nargs="+",
        default=BUDGETS,
        help=f"fractions of the grid's updates with one seed (default: {' '.join(map(str, BUDGETS))})",
    )
    parser.add_argument("--searches", type=int, default=len(SEARCH_SEEDS), help="per task (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--kept", type=Path, help="folder of searches; a finished one is not repeated")
    parser.add_argument("--results", type=Path, help="folder for the result file")
    parser.add_argument("--oracle", type=Path, default=CACHE, help="the oracle's cache (default: %(default)s)")
    parser.add_argument("--oracle-only", action="store_true", help="make no search")
    parser.add_argument("--tiny", action="store_true", help="two tasks, a coarse oracle that is not kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        definitions = select_tasks(arguments.tasks or (TINY_TASKS if arguments.tiny else None), SPLITS)
    except ValueError as error:
        parser.error(f"--tasks: {error}")

    grid, cache, steps = (TINY_GRID, None, TINY_STEPS) if arguments.tiny else (GRID, arguments.oracle, None)
    oracles = find_oracles(definitions, grid, cache, processes=arguments.processes, steps=steps)
    if arguments.oracle_only:
        return
    seeds = SEARCH_SEEDS[: 1 if arguments.tiny else arguments.searches]
    rows_of = functools.partial(task_rows, budgets=arguments.budgets, seeds=seeds, saved_in=arguments.kept)
    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}
    rows: list[Row] = []
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn"), **one_thread) as pool:
        for found in pool.map(rows_of, oracles.items()):
            rows += found
            print(*map(task_line, found), sep="\n", flush=True)
            if arguments.results is not None:
                write_rows(arguments.results / "recipe_quality.json", rows)


if __name__ == "__main__":
    main()
