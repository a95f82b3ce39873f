"""1cycle at the suggested rate against constant rates, on digits, over several seeds.

python -m benchmarks.policy_quality.one_cycle_digits --results benchmarks/results
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from clrfast import Schedule, constant, one_cycle, range_test
from clrfast.tasks.digits import make_task
from clrfast.training import steps_per_epoch, train

from ..result_files import Row, write_rows
from .tasks import val_accuracy

RUNS = {
    "1cycle up to the suggested rate": one_cycle,
    "constant, the suggested rate": constant,
    "constant, a tenth of it": lambda lr, total_steps: constant(lr / 10, total_steps),
}
"""Policies ``(suggested rate, total_steps) -> Schedule`` by name."""


def suggested_rate(seed: int) -> float:
    task = make_task(seed)
    return range_test(task.model, task.loss_fn, task.train_loader).suggest().max_lr


def final_accuracy(seed: int, schedule: Schedule) -> float:
    task = make_task(seed)
    train(task, schedule)
    return val_accuracy(task)


def row_of(run: str, epochs: int, suggested: list[float]) -> Row:
    """Train with every seed, and return the row; ``suggested`` holds the rate of each seed."""
    total_steps = epochs * steps_per_epoch(make_task())
    accuracies = [final_accuracy(seed, RUNS[run](lr, total_steps)) for seed, lr in enumerate(suggested)]
    return {
        "benchmark": "one_cycle_digits",
        "epochs": epochs,
        "steps": total_steps,
        "run": run,
        "accuracy_mean": round(statistics.fmean(accuracies), 5),
        "accuracy_min": min(accuracies),
        "accuracy_max": max(accuracies),
        "suggested": suggested,
        "n": len(accuracies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 5, 10], help="default: 3 5 10")
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--results", type=Path, help="folder for the result file")
    arguments = parser.parse_args()
    suggested = [suggested_rate(seed) for seed in range(arguments.seeds)]
    rows = []
    for epochs in arguments.epochs:
        for run in RUNS:
            row = row_of(run, epochs, suggested)
            rows.append(row)
            print(f"{epochs:3} epochs  {run:34} mean {row['accuracy_mean']:.4f}  min {row['accuracy_min']:.4f}")
    if arguments.results is not None:
        write_rows(arguments.results / "one_cycle_digits.json", rows)


if __name__ == "__main__":
    main()
