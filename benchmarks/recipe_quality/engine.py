"""What the engine of the short recipe costs, and what a second worker gains.

    python -m benchmarks.recipe_quality.engine --results benchmarks/results

    overhead = time between the trials of a search in a journal file / time of the trials
    two workers = time of a search by two processes / time by one, from the first trial to the last
    limit = half the time of two plain loops over the same trials at once / time of one loop

The trials take about a second each, on one thread. All kinds of runs alternate. The limit is 0.5 on two cores that
share nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

import clrfast
from clrfast.recipe import Study, TrialSpec
from clrfast.recipe._plan import MIN_BUDGET, MIN_TRIAL_STEPS
from clrfast.recipe._study import RANGE_TEST_STEPS
from clrfast.recipe._trial_runner import TrialRunner
from clrfast.tasks import make_task
from clrfast.training import StepOptions

from ..result_files import Row, rounded, write_rows

N_TRIALS = {"weight decays": 12, "pairs": 24}
"""Number of trials for which the budget of each kind of search is planned. Searches for a weight decay have rounds, at
whose end a worker waits for the other; pairs of rate and decay have none."""


class Length(NamedTuple):
    """The arguments of a search that decide how many trials it has, and of which kind."""

    budget: int
    planned_steps: int


def make() -> clrfast.Task:
    torch.manual_seed(0)
    return make_task("digits", 0)


def search(storage: Path, length: Length) -> Study:
    """Work on a search until it is complete."""
    return clrfast.find_recipe(make(), length.budget, planned_steps=length.planned_steps, storage=storage).study


def trial_specs(study: Study) -> list[TrialSpec]:
    return [trial.spec for trial in study.trials if trial.spec.stage != "range test"]


def plain_loop(specs: list[TrialSpec]) -> float:
    """Run trainings without the engine, and return their seconds."""
    torch.set_num_threads(1)
    runner = TrialRunner(make(), StepOptions())
    runner.run(specs[:1], None)  # the first one also evaluates the model before all trials
    start = time.perf_counter()
    for spec in specs:
        runner.run([spec], None)
    return time.perf_counter() - start


def seconds_in_and_between(study: Study) -> tuple[float, float]:
    """Return the seconds of all trainings, and those between them."""
    own = [trial for trial in study.trials if trial.spec.stage != "range test"]
    within = sum(trial.finished - trial.started for trial in own)
    return within, max(trial.finished for trial in own) - min(trial.started for trial in own) - within


def by_workers(n: int, length: Length) -> float:
    """Return the time of a search by ``n`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder, "recipe.log")
        command = [sys.executable, "-m", "benchmarks.recipe_quality.engine", "--worker", storage, "--length", *length]
        workers = [subprocess.Popen(list(map(str, command))) for _ in range(n)]
        if any(worker.wait() for worker in workers):
            raise RuntimeError("a worker failed")
        study = clrfast.Recipe.from_storage(storage).study
    return max(trial.finished for trial in study.trials) - min(trial.started for trial in study.trials)


def lengths(seconds: float) -> dict[str, Length]:
    """Return the length of each kind of search, with trials that take about ``seconds``."""
    with tempfile.TemporaryDirectory() as folder:
        short = search(Path(folder, "recipe.log"), Length(1000, 10_000))
    n = sum(spec.steps for spec in trial_specs(short))
    steps = max(int(seconds * n / seconds_in_and_between(short)[0]), MIN_TRIAL_STEPS)
    budget = max(steps * N_TRIALS["weight decays"] + 2 * RANGE_TEST_STEPS, MIN_BUDGET)
    pairs = Length(steps * N_TRIALS["pairs"] + RANGE_TEST_STEPS, steps)
    return {"weight decays": Length(budget, 10 * budget), "pairs": pairs}


def measure(repeats: int, seconds: float) -> list[Row]:
    """Return a row for each repeat and kind of search."""
    searches = lengths(seconds)
    rows: list[Row] = []
    for kind, length in list(searches.items()) * repeats:
        with tempfile.TemporaryDirectory() as folder:
            study = search(Path(folder, "recipe.log"), length)
        specs = trial_specs(study)
        within, between = seconds_in_and_between(study)
        one, two = by_workers(1, length), by_workers(2, length)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            list(pool.map(plain_loop, [specs[:1]] * 2))  # starts both processes
            alone = pool.submit(plain_loop, specs).result()
            together = max(pool.map(plain_loop, [specs] * 2))
        rows.append(
            {
                "benchmark": "recipe_engine",
                "search": kind,
                "trials": len(specs),
                "trial_s": rounded(within / len(specs)),
                "overhead": rounded(between / within),
                "two_workers": rounded(two / one),
                "limit": rounded(together / (2 * alone)),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="time of a trial (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="folder for recipe_engine.json")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker is not None:
        search(arguments.worker, Length(*arguments.length))
        return
    rows = measure(arguments.repeats, arguments.seconds)
    if arguments.results is not None:
        write_rows(arguments.results / "recipe_engine.json", rows)


if __name__ == "__main__":
    main()
