"""What the short recipe's settings are worth, and what they cost: against a full grid over rate and weight decay.

python -m benchmarks.recipe_quality --results benchmarks/results

The oracle trains every task to the end at every rate and weight decay of a grid, and keeps what it found in
recipe_quality_oracle.json, so that a recipe is compared again in minutes. All trainings of a task are 1cycles of the
same length, with the momentum from 0.95 to 0.85 against the rate; the recipe's may have another momentum, if it says
so.

    score   = mean over the seeds of the test loss at the end, each at most the untrained one's
    reached = (score(defaults) - score(recipe)) / (score(defaults) - score(best))     1: as good as the best cell
    cost    = updates that the recipe is charged with / updates of the grid with one seed

The recipe is tried with two budgets, 15 % of the grid with one seed, and of the grid as it is trained, with two. Beside
it stands what each of the grid's seeds alone would choose from all of its cells, by the test loss.

The defaults are the four cells with a rate of 0.01 or 0.1 and a weight decay of 0 or 1e-4: their mean, and the best of
them. The grid is trained with two seeds and judged by the test loss; then the three cells that are best there, the
defaults and the recipe's settings are trained anew with the same other seeds, and only those count. The best cell is
the best of these cells: at the edge of stability what is best with two seeds may diverge with the next. The recipe
searches with seeds of its own, and sees the other half of the held-out samples.
"""

from __future__ import annotations

import argparse
import functools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from ..result_files import RESULTS, write_rows
from ..task_library.data import unpack
from .comparison import BUDGETS, SEARCH_SEEDS, oracles, task_rows, told
from .tasks import HALVES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", help=f"names of tasks or of {', '.join(HALVES)}; by default all")
    parser.add_argument(
        "--budgets",
        type=float,
        nargs="+",
        default=BUDGETS,
        help=f"of the recipe, of the grid's updates with one seed (default: {' '.join(map(str, BUDGETS))})",
    )
    parser.add_argument("--searches", type=int, default=len(SEARCH_SEEDS), help="of each task, with a seed each")
    parser.add_argument("--processes", type=int, default=2, help="that share the tasks; the oracle is computed in one")
    parser.add_argument("--kept", type=Path, help="folder for the searches; those that are there are not made anew")
    parser.add_argument("--results", type=Path, help="folder for the result file")
    parser.add_argument(
        "--oracle", type=Path, default=RESULTS / "recipe_quality_oracle.json", help="the oracle's cache"
    )
    parser.add_argument("--oracle-only", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="try all of it on two tasks with a coarse oracle, not kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    every = {name: maker for half in HALVES.values() for name, maker in half.items()}
    wanted = arguments.tasks or (["diabetes_mlp", "breast_cancer_mlp"] if arguments.tiny else every)
    names = [name for given in wanted for name in HALVES.get(given, (given,))]
    if unknown := set(names) - set(every):
        parser.error(f"--tasks: there are no tasks {sorted(unknown)}; give some of {[*HALVES, *every]}")
    have_packed = unpack()
    makers = [every[name] for name in names if have_packed or not every[name].packed]
    for name in set(names) - {maker.name for maker in makers}:
        print(f"{name}: left out, its data is not here")

    coarse: dict[str, Any] = {"per_decade": 1, "steps": 20} if arguments.tiny else {}
    answers = oracles(makers, None if arguments.tiny else arguments.oracle, **coarse)
    if arguments.oracle_only:
        return
    seeds = SEARCH_SEEDS[: 1 if arguments.tiny else arguments.searches]
    rows_of, rows = functools.partial(task_rows, budgets=arguments.budgets, seeds=seeds, kept=arguments.kept), []
    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn"), **one_thread) as pool:
        for of_task in pool.map(rows_of, answers.items()):
            rows += of_task
            print(*map(told, of_task), sep="\n", flush=True)
            if arguments.results is not None:
                write_rows(arguments.results / "recipe_quality.json", rows)


if __name__ == "__main__":
    main()
