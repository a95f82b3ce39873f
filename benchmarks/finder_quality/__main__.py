"""What the training that follows a suggested learning rate is worth: every finder against an oracle.

python -m benchmarks.finder_quality --results benchmarks/results

The oracle trains the short 1cycle of every task at every rate of a grid, 8 a decade, with 3 seeds, and keeps what it
found in finder_quality_oracle.json, so that finders are compared again in minutes:

    score(lr)  = mean over the seeds of the final validation loss, at most the untrained one; linear in log lr
    regret(lr) = (score(lr) - best) / (untrained - best)     0: the best rate there is, 1: as bad as not training

A rate is divergent if the run at the next grid rate above it ends with a loss that is not finite or above the untrained
one, with any of the seeds. Suggestions are made with other seeds than the oracle's.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from ..result_files import RESULTS, read_rows, write_rows
from .contenders import ask, contenders, warm_up
from .oracle import Oracle, describe, oracles
from .report import summary_row, table, task_row
from .tasks import HALVES, available

FINDER_SEED = 100
"""The first seed of the finders; far from the oracle's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", help=f"names of tasks or of {', '.join(HALVES)}; by default all")
    parser.add_argument(
        "--contenders", nargs="+", help="only these calls, by default all; results of others are kept as they are"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, help="folder for the result file")
    parser.add_argument(
        "--oracle", type=Path, default=RESULTS / "finder_quality_oracle.json", help="the oracle's cache"
    )
    parser.add_argument("--oracle-only", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="try all of it on two tasks with a coarse oracle, not kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in the processes that do the work: the result file tells

    every = [name for half in HALVES.values() for name in half]
    wanted = arguments.tasks or (["wine_mlp", "iris_mlp"] if arguments.tiny else every)
    names = [name for given in wanted for name in HALVES.get(given, (given,))]
    makers = available()
    unknown = set(names) - set(every)
    if unknown:
        parser.error(f"--tasks: there are no tasks {sorted(unknown)}; give some of {[*HALVES, *every]}")
    for name in [name for name in names if name not in makers]:
        print(f"{name}: left out, its data is not here")
    names = [name for name in names if name in makers]
    if arguments.contenders and (unknown := set(arguments.contenders) - set(contenders())):
        parser.error(f"--contenders: there are no {sorted(unknown)}; give some of {sorted(contenders())}")

    chosen = [makers[name] for name in names]
    if arguments.tiny:
        found = oracles(chosen, None, processes=arguments.processes, per_decade=2, seeds=1, steps=20)
    else:
        found = oracles(chosen, arguments.oracle, processes=arguments.processes)
    for name in names:
        print(f"{name:26} {describe(found[name])}")
    if arguments.oracle_only:
        return
    rows = compare(found, 1 if arguments.tiny else arguments.seeds, arguments.processes, arguments.contenders)
    if arguments.results is not None:
        path = arguments.results / "finder_quality.json"
        write_rows(path, rows + (_others(path, arguments.contenders) if arguments.contenders else []))


def _others(path: Path, asked: list[str]) -> list[dict[str, Any]]:
    """What was measured before of other contenders."""
    return [row for row in read_rows(path) if row["contender"] not in asked]


def compare(
    found: dict[str, Oracle], seeds: int, processes: int, wanted: list[str] | None = None
) -> list[dict[str, Any]]:
    """Ask all contenders, print the tables, return their rows."""
    only = None if wanted is None else set(wanted)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=warm_up) as pool:
        running = [pool.submit(ask, name, FINDER_SEED + seed, only) for name in found for seed in range(seeds)]
        asked = [answer for one in running for answer in one.result()]
    task_rows = [
        task_row(contender, found[name], [a for a in asked if (a.contender, a.task) == (contender, name)])
        for contender in dict.fromkeys(a.contender for a in asked)
        for name in found
    ]
    rows = []
    for title, members in {"all": found, **HALVES}.items():
        of_title = [
            summary_row(contender, title, mine)
            for contender in dict.fromkeys(row["contender"] for row in task_rows)
            if (mine := [row for row in task_rows if row["contender"] == contender and row["task"] in members])
        ]
        if of_title:
            print(f"\n{title}: {of_title[0]['n_tasks']} tasks, {seeds} seeds\n{table(of_title)}")
        rows += of_title
    print()
    for row in sorted(task_rows, key=lambda row: row["task"]):
        regret = "no answer" if row["regret"] is None else f"{row['suggested']:9.2g}  regret {row['regret']:5.3f}"
        edge = "none" if row["edge_lr"] is None else f"{row['edge_lr']:.2g}"
        print(f"{row['task']:26}{row['contender']:28}{regret:26} best {row['best_lr']:8.2g}  edge {edge:>8}")
    return rows + task_rows


if __name__ == "__main__":
    main()
