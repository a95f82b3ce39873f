"""Super-convergence: the same network under piecewise-constant rates and under 1cycle, over several budgets of steps.

python -m benchmarks.policy_quality.super_convergence --results benchmarks/results
python -m benchmarks.policy_quality.super_convergence --tasks --cifar10 DIR --results DIR       ResNet-56, for a GPU

The baseline divides its rate by 10 after half and after three quarters of its steps, at momentum 0.9. At every budget
it gets the best of several rates, by the mean accuracy of two seeds that are not among those measured. 1cycle gets the
rate that ``clrfast.range_test`` suggests for each seed, with momentum from 0.95 to 0.85 and back. Weight decay, data,
initial weights and the order of the batches are the same for both.

A recipe reaches the baseline's accuracy in as many steps as the shortest of its runs that ends with at least the
accuracy of the baseline's longest run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from clrfast import Schedule, one_cycle, range_test
from clrfast.tasks import Task
from clrfast.tasks.digits import make_task as digits
from clrfast.training import train

from ..result_files import Row, write_rows
from ..task_library.data import PACKED_DATA
from .published import PUBLISHED, WEIGHT_DECAY, piecewise_constant
from .tasks import cifar10_resnet56, fashion, val_accuracy

SEARCH_SEEDS = range(100, 102)
"""Seeds that choose the baseline's rate."""

N_VALIDATIONS = 10
"""Validations of each run, evenly spread; the last one is at its end."""

BASELINE, ONE_CYCLE = "piecewise constant", "1cycle"


@dataclass(frozen=True)
class Comparison:
    """A task, and the runs of the baseline.

    Attributes:
        make: ``seed -> Task``.
        total_steps: of the baseline's longest run: 30 epochs of digits, 16 of Fashion-MNIST.
        rates: the baseline gets the best of these.
    """

    make: Callable[[int], Task]
    total_steps: int
    rates: tuple[float, ...]


COMPARISONS = {
    "digits": Comparison(digits, 660, (0.1, 0.3, 1.0, 3.0)),
    "fashion": Comparison(fashion, 3000, (0.01, 0.03, 0.1, 0.3)),
}


def accuracies(task: Task, schedule: Schedule, n_validations: int = 1) -> dict[int, float]:
    """Train, and return the validation accuracy by number of steps.

    Args:
        n_validations: evenly spread over the run; the last one is at its end.
    """
    total_steps = schedule.total_steps
    assert total_steps is not None
    validation_steps = {round(total_steps * number / n_validations) for number in range(1, n_validations + 1)}
    found = {}

    def validate(done: int, total: int, shown: object) -> None:
        if done in validation_steps:
            found[done] = val_accuracy(task)
            task.model.train()

    train(task, schedule, progress=validate)
    return found


def run(task: str, recipe: str, schedules: list[Schedule], make: Callable[[int], Task]) -> Row:
    """Train with each of ``schedules``, its index as seed, and return the row of all these runs."""
    found = [accuracies(make(seed), schedule, N_VALIDATIONS) for seed, schedule in enumerate(schedules)]
    final = [list(run.values())[-1] for run in found]
    row = {
        "benchmark": "super_convergence",
        "task": task,
        "recipe": recipe,
        "total_steps": schedules[0].total_steps,
        "max_lr": [round(float(schedule.table()[:, 0, 0].max()), 4) for schedule in schedules],
        "accuracy_mean": round(statistics.mean(final), 5),
        "accuracy_min": min(final),
        "accuracy_max": max(final),
        "n": len(final),
        "steps": list(found[0]),
        "accuracy": [[round(value, 4) for value in run.values()] for run in found],
    }
    accuracy = f"{100 * row['accuracy_mean']:.2f} % ({100 * min(final):.2f} to {100 * max(final):.2f})"
    rates = f"rates {min(row['max_lr']):.3g} to {max(row['max_lr']):.3g}"
    print(f"{task:10} {recipe:18} {row['total_steps']:6,} steps, {rates}: {accuracy}", flush=True)
    return row


def best_rate(comparison: Comparison, total_steps: int) -> float:
    """Return the baseline's best rate for a budget, by ``SEARCH_SEEDS``."""

    def score(lr: float) -> float:
        schedule = piecewise_constant(lr, total_steps)
        return statistics.mean(accuracies(comparison.make(seed), schedule)[total_steps] for seed in SEARCH_SEEDS)

    return max(comparison.rates, key=score)


def suggested_rate(task: Task) -> float:
    return range_test(task.model, task.loss_fn, task.train_loader).suggest().max_lr


def compare(name: str, comparison: Comparison, divisors: list[int], n_seeds: int) -> list[Row]:
    """Return a row per recipe and budget; the budgets are the baseline's steps over each of ``divisors``."""
    suggested = [suggested_rate(comparison.make(seed)) for seed in range(n_seeds)]
    rows = []
    for divisor in sorted(divisors, reverse=True):
        steps = comparison.total_steps // divisor
        baseline = [piecewise_constant(best_rate(comparison, steps), steps)] * n_seeds
        cycles = [one_cycle(lr, steps, weight_decay=WEIGHT_DECAY) for lr in suggested]
        for recipe, schedules in ((BASELINE, baseline), (ONE_CYCLE, cycles)):
            rows.append({**run(name, recipe, schedules, comparison.make), "divisor": divisor})
    return rows


def reached(rows: list[Row]) -> Row:
    """Return the row of the steps in which each recipe reaches the accuracy of the baseline's longest run.

    ``steps`` goes by the mean over the seeds, ``steps_by_seed`` by every seed on its own. None: no budget is enough.
    """
    longest = max((row for row in rows if row["recipe"] == BASELINE), key=lambda row: row["total_steps"])

    def fewest(recipe: str, score: Callable[[Row], float]) -> int | None:
        enough = (row for row in rows if row["recipe"] == recipe and score(row) >= score(longest))
        return min((row["total_steps"] for row in enough), default=None)

    recipes = BASELINE, ONE_CYCLE
    by_seed = [lambda row, seed=seed: row["accuracy"][seed][-1] for seed in range(longest["n"])]
    row = {
        "benchmark": "super_convergence_reached",
        "task": longest["task"],
        "target": longest["accuracy_mean"],
        "baseline_steps": longest["total_steps"],
        "steps": {recipe: fewest(recipe, lambda row: row["accuracy_mean"]) for recipe in recipes},
        "steps_by_seed": {recipe: [fewest(recipe, score) for score in by_seed] for recipe in recipes},
    }
    print(f"{row['task']}: {100 * row['target']:.2f} % after these steps: {row['steps']}, {row['steps_by_seed']}")
    return row


def published(name: str, folder: Path, n_seeds: int, tiny: bool) -> Row:
    """Return the row of one of ``PUBLISHED``, trained on the CIFAR-10 in ``folder``."""
    setting = PUBLISHED[name]
    schedule = setting.schedule(4 if tiny else setting.total_steps)
    make = partial(cifar10_resnet56, folder=folder, batch_size=setting.batch_size)
    row = run("CIFAR-10", name, [schedule] * n_seeds, make)
    return {**row, "batch_size": setting.batch_size, "published": setting.accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", choices=sorted(COMPARISONS), help="default: all whose data is here")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 3, 6], help="divisors of the longest run's steps")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each recipe and budget (default: %(default)s)")
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="train ResNet-56 on the CIFAR-10 in this folder")
    parser.add_argument(
        "--runs", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED), help="runs of --cifar10 (default: all)"
    )
    parser.add_argument("--tiny", action="store_true", help="a few steps: checks that it runs, measures nothing")
    parser.add_argument("--results", type=Path, help="folder for the result files")
    arguments = parser.parse_args()
    here = [name for name in COMPARISONS if name != "fashion" or (PACKED_DATA / "unpack.py").exists()]
    rows = []
    for name in here if arguments.tasks is None else arguments.tasks:
        comparison = COMPARISONS[name]
        if arguments.tiny:
            comparison = replace(comparison, total_steps=12, rates=comparison.rates[1:2])
        own = compare(name, comparison, arguments.budgets, arguments.seeds)
        rows += [*own, reached(own)]
    if rows and arguments.results is not None:
        write_rows(arguments.results / "super_convergence.json", rows)
    if arguments.cifar10 is not None:
        rows = [published(name, arguments.cifar10, arguments.seeds, arguments.tiny) for name in arguments.runs]
        if arguments.results is not None:
            write_rows(arguments.results / "super_convergence_cifar10.json", rows)


if __name__ == "__main__":
    main()
