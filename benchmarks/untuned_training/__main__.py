"""Compare ways to train a model without tuning anything, by the validation loss at the end.

python -m benchmarks.untuned_training --results benchmarks/results

Every contender trains the tasks of ``finder_quality`` for the same number of updates. The search of clrfast comes on
top; its "charged" variants make that many updates less. ``rows.py`` holds the formula of the score. The oracle of
``finder_quality`` gives the best SGD 1cycle; the contenders run with other seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from ..environment import environment
from ..finder_quality.regret import RegretCurve
from ..oracle import CACHE, find_oracles
from ..result_files import read_rows, write_rows
from ..tables.untuned import untuned_table
from ..task_library.selection import select_tasks
from .contenders import CONTENDERS, GRID, SPLITS
from .measurement import installed, measure_all
from .rows import merged, task_line

FIRST_SEED = 100
"""The first seed of the contenders; far from the oracle's."""

TINY_TASKS = ["wine_mlp", "iris_mlp"]
TINY_GRID = dataclasses.replace(GRID, rates_per_decade=2, seeds=range(1))
TINY_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.untuned_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", help=f"names of tasks or of splits: {', '.join(SPLITS)} (default: all)")
    parser.add_argument("--contenders", nargs="+", help="run only these (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per task (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--results", type=Path, help="folder for the result file, which keeps the rows that are not measured again"
    )
    parser.add_argument("--oracle", type=Path, default=CACHE, help="the oracle's cache (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="two tasks, 20 updates, a coarse oracle that is not kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the result file states it, and the worker processes do the same
    if unknown := set(arguments.contenders or ()) - set(CONTENDERS):
        parser.error(f"--contenders: there are no {sorted(unknown)}; give some of {sorted(CONTENDERS)}")
    try:
        definitions = select_tasks(arguments.tasks or (TINY_TASKS if arguments.tiny else None), SPLITS)
    except ValueError as error:
        parser.error(f"--tasks: {error}")

    grid, cache, steps = (TINY_GRID, None, TINY_STEPS) if arguments.tiny else (GRID, arguments.oracle, None)
    oracles = find_oracles(definitions, grid, cache, processes=arguments.processes, steps=steps)
    curves = {name: RegretCurve(oracle) for name, oracle in oracles.items()}
    seeds = range(FIRST_SEED, FIRST_SEED + (1 if arguments.tiny else arguments.seeds))
    path = None if arguments.results is None else arguments.results / "untuned_training.json"
    rows = [] if path is None else read_rows(path)
    names = installed(arguments.contenders or list(CONTENDERS))
    for found in measure_all(definitions, names, seeds, steps, arguments.processes, curves):
        rows = merged(rows, found)
        print(*map(task_line, found), sep="\n", flush=True)
        if path is not None:
            write_rows(path, rows)
    print(untuned_table({"environment": environment(), "rows": rows}))


if __name__ == "__main__":
    main()
