"""Compare learning-rate finders by the regret of their suggestions.

python -m benchmarks.finder_quality --results benchmarks/results

The oracle trains the short 1cycle of every task at every rate of a grid: 8 rates per decade, 3 seeds. The finders run
with other seeds. ``regret.py`` holds the formulas.
"""

from __future__ import annotations

import argparse
import dataclasses
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from ..oracle import CACHE, find_oracles
from ..result_files import Row, read_rows, write_rows
from ..task_library.definition import TaskDefinition
from ..task_library.selection import select_tasks
from .contenders import CONTENDERS, Measurement, measure, warm_up
from .regret import GRID, RegretCurve
from .rows import summary_row, summary_table, task_line, task_row
from .tasks import SPLITS

FINDER_SEED = 100
"""The first seed of the finders; far from the oracle's."""

TINY_TASKS = ["wine_mlp", "iris_mlp"]
TINY_GRID = dataclasses.replace(GRID, rates_per_decade=2, seeds=range(1))
TINY_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finder_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", help=f"names of tasks or of splits: {', '.join(SPLITS)} (default: all)")
    parser.add_argument(
        "--contenders", nargs="+", help="run only these, and keep the results of the others (default: all)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="suggestions per task (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--results", type=Path, help="folder for the result file")
    parser.add_argument("--oracle", type=Path, default=CACHE, help="the oracle's cache (default: %(default)s)")
    parser.add_argument("--oracle-only", action="store_true", help="run no finder")
    parser.add_argument("--tiny", action="store_true", help="two tasks, a coarse oracle that is not kept")
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
    curves = {definition.name: RegretCurve(oracles[definition.name]) for definition in definitions}
    for name, curve in curves.items():
        print(f"{name:26} {curve}")
    if arguments.oracle_only:
        return
    seeds = range(FINDER_SEED, FINDER_SEED + (1 if arguments.tiny else arguments.seeds))
    measurements = run_finders(definitions, seeds, arguments.processes, arguments.contenders)
    rows = compare(curves, measurements)
    if arguments.results is not None:
        path = arguments.results / "finder_quality.json"
        only = arguments.contenders or ()
        write_rows(path, rows + [row for row in read_rows(path) if only and row["contender"] not in only])


def run_finders(
    definitions: list[TaskDefinition], seeds: range, processes: int, contenders: list[str] | None
) -> list[Measurement]:
    """Run the contenders, all by default, on every task with every seed."""
    wanted = set(CONTENDERS if contenders is None else contenders)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=warm_up) as pool:
        running = [pool.submit(measure, task, seed, wanted) for task in definitions for seed in seeds]
        return [measurement for future in running for measurement in future.result()]


def compare(curves: dict[str, RegretCurve], measurements: list[Measurement]) -> list[Row]:
    """Print tables, and return the rows: of every contender over the tasks of each split, then on each task."""
    names = list(dict.fromkeys(each.contender for each in measurements))
    task_rows = [
        task_row(name, curve, [each for each in measurements if (each.contender, each.task) == (name, task)])
        for name in names
        for task, curve in curves.items()
    ]
    summaries: list[Row] = []
    for split, tasks in {"all": curves, **SPLITS}.items():
        rows = [row for row in task_rows if row["task"] in tasks]
        if rows:
            found = [summary_row(name, split, [row for row in rows if row["contender"] == name]) for name in names]
            n_tasks, n_seeds = found[0]["n_tasks"], rows[0]["n"]
            print(f"\n{split}: {n_tasks} tasks, {n_seeds} seeds\n{summary_table(found)}")
            summaries += found
    print()
    for row in sorted(task_rows, key=lambda row: row["task"]):
        print(task_line(row))
    return summaries + task_rows


if __name__ == "__main__":
    main()
