"""Tables of the policies' effect on a training."""

from __future__ import annotations

from ..result_files import Row
from .markdown import Results, hardware_and_versions, markdown_table


def one_cycle_table(results: Results) -> str:
    """Return the table of 1cycle on digits: runs down, epochs across."""
    rows = results["rows"]
    epochs = sorted({row["epochs"] for row in rows})
    lines = []
    for run in dict.fromkeys(row["run"] for row in rows):
        cells = {row["epochs"]: row for row in rows if row["run"] == run}
        values = [f"{100 * cells[e]['accuracy_mean']:.2f} % ({100 * cells[e]['accuracy_min']:.1f})" for e in epochs]
        lines.append([run, *values])
    low, high = min(rows[0]["suggested"]), max(rows[0]["suggested"])
    note = (
        f"n = {rows[0]['n']} seeds, suggested rates {low:.2f} to {high:.2f}; {hardware_and_versions(results)}. "
        "`python -m benchmarks.policy_quality.one_cycle_digits`"
    )
    return markdown_table(["validation accuracy, mean (worst seed)", *(f"{e} epochs" for e in epochs)], lines, note)


def super_convergence_table(results: Results) -> str:
    """Return the table of piecewise-constant rates against 1cycle.

    There is a row for each task and recipe, and a column for each fraction of the baseline's steps.
    """
    runs = [row for row in results["rows"] if row["benchmark"] == "super_convergence"]
    found = {(row["task"], row["recipe"], row["divisor"]): row for row in runs}
    divisors = sorted({row["divisor"] for row in runs}, reverse=True)
    head = ["all its steps" if divisor == 1 else f"1/{divisor}" for divisor in divisors]
    lines = []
    for goal in (row for row in results["rows"] if row["benchmark"] == "super_convergence_reached"):
        for recipe, steps in goal["steps"].items():
            rows = [found[goal["task"], recipe, divisor] for divisor in divisors]
            rates = [rate for row in rows for rate in row["max_lr"]]
            lines.append(
                [
                    f"{goal['task']}: {recipe}, rate {min(rates):.2g} to {max(rates):.2g}",
                    *map(_accuracy, rows),
                    f"{_steps(steps)} ({', '.join(map(_steps, goal['steps_by_seed'][recipe]))})",
                ]
            )
    note = (
        "Columns: all of the baseline's steps and fractions of them; last column: the shortest run that ends with at "
        f"least the baseline's final accuracy. n = {runs[0]['n']} seeds; {hardware_and_versions(results)}. "
        "`python -m benchmarks.policy_quality.super_convergence`"
    )
    return markdown_table(["validation accuracy, mean (seeds)", *head, "in steps (by seed)"], lines, note)


def _accuracy(row: Row) -> str:
    mean, low, high = (100 * row[f"accuracy_{name}"] for name in ("mean", "min", "max"))
    return f"{mean:.2f} % ({low:.1f} to {high:.1f})"


def _steps(steps: int | None) -> str:
    return "none" if steps is None else f"{steps:,}"


def headline_table(results: Results) -> str:
    """Return the table of ResNet-56 on CIFAR-10: the published run, and the runs after it."""
    head = ["ResNet-56", "test accuracy", "published", "steps", "rate up to", "time of the steps", "one step"]
    first = results["rows"][0]
    where = hardware_and_versions(results, results["environment"].get("gpu"))
    note = (
        f"{first['task']}, batch {first['batch_size']}, 1cycle with momentum from 0.95 to 0.80; {first['precision']}, "
        f"the copies in float32. {where}. `bash benchmarks/gpu.sh`"
    )
    return markdown_table(head, map(_headline_cells, results["rows"]), note)


HEADLINE_NAMES = {
    "published": "as published",
    "suggested": "at the rate that the range test suggests",
    "copies": "copies in one job, weight decay {}",
}


def _headline_cells(row: Row) -> list[str]:
    name = HEADLINE_NAMES[row["recipe"]]
    if "missing" in row:
        return [name, row["missing"], *[""] * 5]
    several = isinstance(row["weight_decay"], list)
    last = row["accuracy"] if several else row["accuracy"][-1:]
    steps = ", ".join(dict.fromkeys(f"{n:,}" for n in (row["steps"] if several else row["steps"][-1:])))
    return [
        name.format(", ".join(f"{decay:g}" for decay in row["weight_decay"])) if several else name,
        ", ".join(f"{100 * accuracy:.2f} %" for accuracy in last) or "none",
        row.get("published", ""),
        f"{steps} of {row['total_steps']:,}",
        f"{row['max_lr']:.3g}",
        f"{row['seconds']:.1f} s",
        f"{row['us_per_step'] / 1000:.2f} ms" if row.get("us_per_step") else "",
    ]
