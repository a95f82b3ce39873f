"""Table of the ways to train without tuning."""

from __future__ import annotations

from ..result_files import Row
from .markdown import Results, hardware_and_versions, markdown_table
from .quality import SPLIT_TITLES


def untuned_table(results: Results) -> str:
    """Return the table of contenders: one per line. All columns but the means are those of the first split."""
    by_split = _by_split(results)
    first, *others = by_split
    mean_score = {(name, row["contender"]): row["mean_score"] for name, rows in by_split.items() for row in rows}
    compares = any(row["n_compared"] for row in by_split[first])
    head = ["training", SPLIT_TITLES[first], "median", "worst task", *map(SPLIT_TITLES.__getitem__, others)]
    head += ["better than the best SGD", "lowest of all", *(["lower than clrfast SGD"] if compares else [])]
    head += ["failed tasks", "cost"]
    lines = []
    for row in by_split[first]:
        n_tasks, contender = row["n_tasks"], row["contender"]
        means = [f"{mean_score[name, contender]:.2f}" if (name, contender) in mean_score else "" for name in others]
        lines.append(
            [
                contender,
                f"{row['mean_score']:.2f} ({row['mean_low']:.2f} to {row['mean_high']:.2f})",
                f"{row['median_score']:.2f}",
                f"{row['worst_score']:.2f} ({row['worst_task']})",
                *means,
                f"{row['better_than_best']} of {n_tasks}",
                f"{row['lowest']} of {n_tasks}",
                *([f"{row['lower_than_reference']} of {row['n_compared']}"] if compares else []),
                f"{row['failed_tasks']} of {n_tasks}",
                f"{row['cost']:.2f}",
            ]
        )
    return markdown_table(head, lines, _note(results))


def _note(results: Results) -> str:
    by_split = _by_split(results)
    rows = [row for found in by_split.values() for row in found]
    n_seeds = max(row["n"] / row["n_tasks"] for row in rows)
    packages = ", ".join(sorted({row["package"] for row in rows}))
    numbers = ", ".join(
        f"{max(row['n_tasks'] for row in found)} {SPLIT_TITLES[name]}" for name, found in by_split.items()
    )
    return (
        "Score: 0 is the loss after the best SGD 1cycle of a grid of rates, 1 is the untrained loss; in brackets the "
        "95 % bootstrap interval over the tasks. Cost: forward passes, over the updates of the training. "
        f"{numbers}, {n_seeds:.0f} seeds, all settings as in the packages' READMEs ({packages}). "
        f"{hardware_and_versions(results)}. `python -m benchmarks.untuned_training`"
    )


def _by_split(results: Results) -> dict[str, list[Row]]:
    """Return the rows of each split that has any, the lowest mean score first."""
    rows = [row for row in results["rows"] if row["benchmark"] == "untuned"]
    found = {name: [row for row in rows if row["split"] == name] for name in SPLIT_TITLES}
    return {name: rows for name, rows in found.items() if rows}
