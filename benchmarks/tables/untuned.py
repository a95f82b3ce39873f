"""Table of the ways to train without tuning."""

from __future__ import annotations

from .markdown import Results, hardware_and_versions, markdown_table
from .quality import SHOWN_SPLITS


def untuned_table(results: Results) -> str:
    """Return the table of contenders: one per line, over all tasks, with the means of splits."""
    rows = [row for row in results["rows"] if row["benchmark"] == "untuned"]
    mean_score = {(row["split"], row["contender"]): row["mean_score"] for row in rows}
    splits = [name for name in SHOWN_SPLITS if any(row["split"] == name for row in rows)]
    overall = [row for row in rows if row["split"] == "all"]
    compares = any(row["n_compared"] for row in overall)
    head = ["training", "mean score", *(f"{name.replace('_', '-')} tasks" for name in splits), "median", "worst task"]
    head += ["better than the best SGD", "lowest of all", *(["lower than clrfast SGD"] if compares else [])]
    head += ["failed tasks", "cost"]
    lines = []
    for row in overall:
        n_tasks, contender = row["n_tasks"], row["contender"]
        means = [f"{mean_score[name, contender]:.2f}" if (name, contender) in mean_score else "" for name in splits]
        lines.append(
            [
                contender,
                f"{row['mean_score']:.2f} ({row['mean_low']:.2f} to {row['mean_high']:.2f})",
                *means,
                f"{row['median_score']:.2f}",
                f"{row['worst_score']:.2f} ({row['worst_task']})",
                f"{row['better_than_best']} of {n_tasks}",
                f"{row['lowest']} of {n_tasks}",
                *([f"{row['lower_than_reference']} of {row['n_compared']}"] if compares else []),
                f"{row['failed_tasks']} of {n_tasks}",
                f"{row['cost']:.2f}",
            ]
        )
    return markdown_table(head, lines, _note(results))


def _note(results: Results) -> str:
    overall = [row for row in results["rows"] if (row["benchmark"], row.get("split")) == ("untuned", "all")]
    n_seeds = max(row["n"] / row["n_tasks"] for row in overall)
    packages = ", ".join(sorted({row["package"] for row in overall}))
    n_tasks = max(row["n_tasks"] for row in overall)
    return (
        "Score: 0 is the loss after the best SGD 1cycle of a grid of rates, 1 is the untrained loss; in brackets the "
        "95 % bootstrap interval over the tasks. Cost: forward passes, over the updates of the training. "
        f"{n_tasks} tasks, {n_seeds:.0f} seeds, all settings as in the packages' READMEs ({packages}). "
        f"{hardware_and_versions(results)}. `python -m benchmarks.untuned_training`"
    )
