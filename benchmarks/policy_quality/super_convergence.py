"""Super-convergence: the same network under piecewise-constant rates and under 1cycle, over several budgets of steps.

python -m benchmarks.policy_quality.super_convergence --results benchmarks/results
python -m benchmarks.policy_quality.super_convergence --tasks --cifar10 DIR --results DIR       ResNet-56, for a GPU

The baseline's rate is divided by 10 after half and after three quarters of its steps, at momentum 0.9. At every budget
it is the best of several, by the mean accuracy of two seeds that are not among those measured. 1cycle's is what
``clrfast.range_test`` suggests for each seed, untried, with momentum from 0.95 to 0.85 and back. Weight decay, data,
initial weights and the order of the batches are the same for both. A recipe reaches the accuracy that the baseline has
at the end of its longest budget in so many steps as its shortest run takes that ends there.

On CIFAR-10 the settings are those of Smith 2018 (arXiv:1803.09820), one by one; see PUBLISHED.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from clrfast import Schedule, one_cycle, range_test
from clrfast.schedules import Constant, Joined
from clrfast.tasks import Task
from clrfast.tasks.digits import make_task as digits
from clrfast.training._train import evaluate, train

from ..result_files import write_rows
from ..task_library.data import PACKED_DATA
from .tasks import cifar10_resnet56, fashion

WEIGHT_DECAY = 1e-4
FIRST_TUNING_SEED, N_TUNING_SEEDS = 100, 2
N_LOOKS = 10
BASELINE, ONE_CYCLE = "piecewise constant", "1cycle"

Row = dict[str, Any]


def piecewise_constant(lr: float, total_steps: int, weight_decay: float = WEIGHT_DECAY) -> Schedule:
    """``lr``, a tenth of it after half of the steps, a hundredth after three quarters."""
    rates = tuple(Constant(lr / by) for by in (1, 10, 100))
    return Schedule(Joined(rates, (total_steps // 2, total_steps * 3 // 4)), 0.9, weight_decay, total_steps)


@dataclass(frozen=True)
class Contest:
    """A task, and what the baseline may try on it.

    Attributes:
        make: ``seed -> Task``.
        total_steps: the baseline's: 30 epochs of digits, 16 of Fashion-MNIST.
        rates: of which it takes the best.
    """

    make: Callable[[int], Task]
    total_steps: int
    rates: tuple[float, ...]


CONTESTS = {
    "digits": Contest(digits, 660, (0.1, 0.3, 1.0, 3.0)),
    "fashion": Contest(fashion, 3000, (0.01, 0.03, 0.1, 0.3)),
}


@dataclass(frozen=True)
class Published:
    """A run of ResNet-56 on CIFAR-10.

    Attributes:
        schedule: ``total_steps -> Schedule``.
        total_steps: its length.
        batch_size: of a step.
        accuracy: what the report gives for it, or says of it.
    """

    schedule: Callable[[int], Schedule]
    total_steps: int
    batch_size: int
    accuracy: str


def published_cycle(
    total_steps: int,
    *,
    max_lr: float = 0.8,
    momentum: float | tuple[float, float] = (0.95, 0.80),
    weight_decay: float = 1e-4,
) -> Schedule:
    """The report's 1cycle, with its settings for ResNet-56 as defaults."""
    return one_cycle(max_lr, total_steps, momentum=momentum, weight_decay=weight_decay)


PUBLISHED = {
    "piecewise": Published(lambda total_steps: piecewise_constant(0.1, total_steps, 1e-4), 64_000, 128, "usual"),
    "1cycle": Published(partial(published_cycle, momentum=0.9), 9310, 512, "91.3 %"),
    "1cycle_momentum": Published(published_cycle, 9310, 512, "91.5 %"),
    "1cycle_wd_1e-5": Published(partial(published_cycle, weight_decay=1e-5), 9310, 512, "works"),
    "1cycle_wd_1e-3": Published(partial(published_cycle, weight_decay=1e-3), 9310, 512, "fails"),
}
"""1cycle from 0.08 to 0.8 over 95 epochs. The usual schedule is that of He et al. 2015, with batches of 128."""


def accuracies(task: Task, schedule: Schedule, n_looks: int = 1) -> dict[int, float]:
    """Validation accuracy of a run after so many of its steps: ``n_looks``, evenly spread, the last one at its end."""
    total_steps = schedule.total_steps
    assert total_steps is not None
    looks = {round(total_steps * look / n_looks) for look in range(1, n_looks + 1)}
    found = {}

    def look(done: int, total: int, shown: object) -> None:
        if done in looks:
            score = evaluate(task)
            assert score is not None
            assert score.accuracy is not None
            found[done] = score.accuracy
            task.model.train()

    train(task, schedule, progress=look)
    return found


def run(task: str, recipe: str, schedules: list[Schedule], make: Callable[[int], Task]) -> Row:
    """A row: a run with each of ``schedules``, by its number as seed."""
    found = [accuracies(make(seed), schedule, N_LOOKS) for seed, schedule in enumerate(schedules)]
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
    told = f"{100 * row['accuracy_mean']:.2f} % ({100 * min(final):.2f} to {100 * max(final):.2f})"
    rates = f"rates {min(row['max_lr']):.3g} to {max(row['max_lr']):.3g}"
    print(f"{task:10} {recipe:18} {row['total_steps']:6,} steps, {rates}: {told}", flush=True)
    return row


def best_rate(contest: Contest, total_steps: int) -> float:
    """The baseline's best rate for a budget, on seeds of its own."""

    def score(lr: float) -> float:
        seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + N_TUNING_SEEDS)
        runs = (accuracies(contest.make(seed), piecewise_constant(lr, total_steps)) for seed in seeds)
        return statistics.mean(found[total_steps] for found in runs)

    return max(contest.rates, key=score)


def suggested_rate(task: Task) -> float:
    return range_test(task.model, task.loss_fn, task.train_loader).suggest().max_lr


def compare(name: str, contest: Contest, divisors: list[int], n_seeds: int) -> list[Row]:
    """A row for each recipe and budget, the baseline's steps over each of ``divisors``."""
    suggested = [suggested_rate(contest.make(seed)) for seed in range(n_seeds)]
    rows = []
    for divisor in sorted(divisors, reverse=True):
        steps = contest.total_steps // divisor
        baseline = [piecewise_constant(best_rate(contest, steps), steps)] * n_seeds
        cycles = [one_cycle(lr, steps, weight_decay=WEIGHT_DECAY) for lr in suggested]
        for recipe, schedules in ((BASELINE, baseline), (ONE_CYCLE, cycles)):
            rows.append({**run(name, recipe, schedules, contest.make), "divisor": divisor})
    return rows


def reached(rows: list[Row]) -> Row:
    """A row: in how many steps each recipe reaches what the baseline has at the end of its longest budget.

    ``steps``: by the mean over the seeds; ``steps_by_seed``: every seed by itself; None where no budget is enough.
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
    print(f"{row['task']}: {100 * row['target']:.2f} % in so many steps: {row['steps']}, {row['steps_by_seed']}")
    return row


def published(name: str, folder: Path, n_seeds: int, tiny: bool) -> Row:
    """A row for one of PUBLISHED, on the CIFAR-10 in ``folder``."""
    setting = PUBLISHED[name]
    schedule = setting.schedule(4 if tiny else setting.total_steps)
    make = partial(cifar10_resnet56, folder=folder, batch_size=setting.batch_size)
    row = run("CIFAR-10", name, [schedule] * n_seeds, make)
    return {**row, "batch_size": setting.batch_size, "published": setting.accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", choices=sorted(CONTESTS), help="default: all whose data is here")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 3, 6], help="divisors of the longest")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="train ResNet-56 on the CIFAR-10 in this folder")
    parser.add_argument("--runs", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED), help="of --cifar10")
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    parser.add_argument("--results", type=Path, help="folder for the result files")
    arguments = parser.parse_args()
    here = [name for name in CONTESTS if name != "fashion" or (PACKED_DATA / "unpack.py").exists()]
    rows = []
    for name in here if arguments.tasks is None else arguments.tasks:
        contest = CONTESTS[name]
        if arguments.tiny:
            contest = replace(contest, total_steps=12, rates=contest.rates[1:2])
        own = compare(name, contest, arguments.budgets, arguments.seeds)
        rows += [*own, reached(own)]
    if rows and arguments.results is not None:
        write_rows(arguments.results / "super_convergence.json", rows)
    if arguments.cifar10 is not None:
        rows = [published(name, arguments.cifar10, arguments.seeds, arguments.tiny) for name in arguments.runs]
        if arguments.results is not None:
            write_rows(arguments.results / "super_convergence_cifar10.json", rows)


if __name__ == "__main__":
    main()
