"""1cycle at the suggested rate against constant rates, on digits, over several seeds.

python -m benchmarks.policy_quality.one_cycle_digits --results benchmarks/results
"""

from __future__ import annotations

import argparse
from pathlib import Path

from clrfast import Schedule, constant, one_cycle, range_test
from clrfast.tasks.digits import make_task
from clrfast.training._train import evaluate, steps_per_epoch, train

from ..result_files import write_rows

RUNS = {
    "1cycle up to the suggested rate": one_cycle,
    "constant, the suggested rate": constant,
    "constant, a tenth of it": lambda lr, total_steps: constant(lr / 10, total_steps),
}


def accuracy(seed: int, schedule: Schedule) -> float:
    task = make_task(seed)
    train(task, schedule)
    score = evaluate(task)
    assert score is not None
    assert score.accuracy is not None
    return score.accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="folder for the result file")
    arguments = parser.parse_args()
    rows = []
    suggested = []
    for seed in range(arguments.seeds):
        task = make_task(seed)
        suggested.append(range_test(task.model, task.loss_fn, task.train_loader).suggest().max_lr)
    for epochs in arguments.epochs:
        total_steps = epochs * steps_per_epoch(make_task())
        for name, policy in RUNS.items():
            accuracies = [accuracy(seed, policy(lr, total_steps)) for seed, lr in enumerate(suggested)]
            row = {
                "benchmark": "one_cycle_digits",
                "epochs": epochs,
                "steps": total_steps,
                "run": name,
                "accuracy_mean": round(sum(accuracies) / len(accuracies), 5),
                "accuracy_min": min(accuracies),
                "accuracy_max": max(accuracies),
                "suggested": suggested,
                "n": len(accuracies),
            }
            rows.append(row)
            print(f"{epochs:3} epochs  {name:34} mean {row['accuracy_mean']:.4f}  min {min(accuracies):.4f}")
    if arguments.results is not None:
        write_rows(arguments.results / "one_cycle_digits.json", rows)


if __name__ == "__main__":
    main()
