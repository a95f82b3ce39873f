"""Compare learning-rate finders by the regret of their suggestions.

python -m benchmarks.finder_quality --results benchmarks/results

The oracle trains the short 1cycle of every task at every rate of a grid. The finders run with other seeds.
``regret.py`` holds the formulas, and ``optimizers.py`` the optimizers with their grids.
"""

from __future__ import annotations

import argparse
import dataclasses
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from ..oracle import find_oracles
from ..quality_command import make_parser, parse
from ..result_files import Row, read_rows, write_rows
from ..task_library.definition import TaskDefinition
from .contenders import CONTENDERS, Measurement, measure, warm_up
from .optimizers import OPTIMIZERS
from .regret import RegretCurve
from .rows import BEST_CONSTANT, best_constant, constant_rows, summary_row, summary_table, task_line, task_row
from .tasks import SPLITS

FINDER_SEED = 100
"""The first seed of the finders; far from the oracle's."""

TINY_TASKS = ["wine_mlp", "iris_mlp"]
TINY_STEPS = 20


def main() -> None:
    parser = make_parser("finder_quality", __doc__, SPLITS)
    parser.add_argument("--contenders", nargs="+", help="run only these; the results of the others stay (default: all)")
    parser.add_argument(
        "--optimizer", nargs="+", choices=OPTIMIZERS, default=[*OPTIMIZERS], help="whose rate is wanted (default: all)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="suggestions per task (default: %(default)s)")
    parser.add_argument("--oracle-only", action="store_true", help="run no finder")
    arguments, selected = parse(parser, SPLITS, TINY_TASKS, CONTENDERS)

    rows = [row for name in arguments.optimizer for row in compare_with(name, selected, arguments)]
    if arguments.results is not None and not arguments.oracle_only:
        path = arguments.results / "finder_quality.json"
        found = set(map(_place, rows))
        kept = [row for row in read_rows(path) if _place(row) not in found]
        write_rows(path, rows + kept)


def _place(row: Row) -> tuple[str, str, str]:
    """Return what a row is about: new rows replace all older ones about the same."""
    return row["optimizer"], row["contender"], row["split"]


def compare_with(optimizer: str, selected: list[TaskDefinition], arguments: argparse.Namespace) -> list[Row]:
    """Compare the finders on the selected tasks of one optimizer; return no rows with ``--oracle-only``."""
    tuned = OPTIMIZERS[optimizer]
    definitions = [each for each in selected if any(each.name in split for split in tuned.splits.values())]
    if not definitions:
        return []
    grid, cache, steps = tuned.grid, arguments.oracle, None
    if arguments.tiny:
        grid, cache, steps = dataclasses.replace(grid, rates_per_decade=2, seeds=range(1)), None, TINY_STEPS
    oracles = find_oracles(definitions, grid, cache, processes=arguments.processes, steps=steps)
    curves = {definition.name: RegretCurve(oracles[definition.name]) for definition in definitions}
    for name, curve in curves.items():
        print(f"{optimizer}: {name:26} {curve}")
    if arguments.oracle_only:
        return []
    seeds = range(FINDER_SEED, FINDER_SEED + (1 if arguments.tiny else arguments.seeds))
    measurements = run_finders(definitions, seeds, optimizer, arguments.processes, arguments.contenders)
    return compare(optimizer, curves, measurements)


def run_finders(
    definitions: list[TaskDefinition], seeds: range, optimizer: str, processes: int, contenders: list[str] | None
) -> list[Measurement]:
    """Run the contenders, all by default, on every task with every seed."""
    wanted = set(CONTENDERS if contenders is None else contenders)
    warmed_up = {"initializer": warm_up, "initargs": (optimizer,)}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), **warmed_up) as pool:
        running = [pool.submit(measure, task, seed, optimizer, wanted) for task in definitions for seed in seeds]
        return [measurement for future in running for measurement in future.result()]


def compare(optimizer: str, curves: dict[str, RegretCurve], measurements: list[Measurement]) -> list[Row]:
    """Print tables, and return the rows: of every contender over the tasks of each split, then on each task.

    Constant rates are contenders, too. The best constant differs between splits, and has no rows of single tasks.
    """
    names = list(dict.fromkeys(each.contender for each in measurements))
    by_contender = {
        name: [
            task_row(
                optimizer, name, curve, [each for each in measurements if (each.contender, each.task) == (name, task)]
            )
            for task, curve in curves.items()
        ]
        for name in names
    }
    for lr in OPTIMIZERS[optimizer].constants:
        by_contender[f"always {lr:g}"] = constant_rows(optimizer, f"always {lr:g}", lr, curves)
    summaries: list[Row] = []
    for split, tasks in SPLITS.items():
        own = {task: curve for task, curve in curves.items() if task in tasks}
        if own:
            found = [summary_row(split, [row for row in rows if row["task"] in own]) for rows in by_contender.values()]
            constant = best_constant(list(own.values()))
            best = summary_row(split, constant_rows(optimizer, BEST_CONSTANT, constant, own))
            found.append({**best, "lr": constant})
            print(
                f"\n{optimizer}, {split}: {len(own)} tasks; the best constant is {constant:g}\n{summary_table(found)}"
            )
            summaries += found
    task_rows = [row for rows in by_contender.values() for row in rows]
    print()
    for row in sorted(task_rows, key=lambda row: row["task"]):
        print(task_line(row))
    return summaries + task_rows


if __name__ == "__main__":
    main()
