"""Compare the short recipe with a full grid over learning rate and weight decay.

python -m benchmarks.recipe_quality --results benchmarks/results

The recipe is tried with two budgets: 15 % of the updates of the grid with one seed, and of the grid as it is trained,
with two. It searches with seeds of its own, and sees only half of the held-out samples. ``reference.py`` and
``rows.py`` hold the formulas.
"""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from ..oracle import find_oracles
from ..quality_command import make_parser, parse
from ..result_files import Row, write_rows
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
    parser = make_parser("recipe_quality", __doc__, SPLITS)
    parser.add_argument(
        "--budgets",
        type=float,
        nargs="+",
        default=BUDGETS,
        help=f"fractions of the grid's updates with one seed (default: {' '.join(map(str, BUDGETS))})",
    )
    parser.add_argument("--searches", type=int, default=len(SEARCH_SEEDS), help="per task (default: %(default)s)")
    parser.add_argument("--kept", type=Path, help="folder of searches; a finished one is not repeated")
    parser.add_argument("--oracle-only", action="store_true", help="make no search")
    arguments, definitions = parse(parser, SPLITS, TINY_TASKS)

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
