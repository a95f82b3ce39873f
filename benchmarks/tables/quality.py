"""Table of the quality of finders."""

from __future__ import annotations

from ..result_files import Row
from .markdown import Results, hardware_and_versions, markdown_table, percent

SPLIT_TITLES = {"test": "test tasks", "fine_tuning": "fine-tuning", "development": "development tasks"}
"""Titles of the splits in the order of their columns. No constant of a finder is chosen on the test tasks."""

OPTIMIZER_TITLES = {"sgd": "SGD with 1cycle", "adamw": "AdamW with a cosine 1cycle"}
"""Heads of the tables of finders."""


def finder_table(results: Results) -> str:
    """Return a table of finders for each optimizer: one finder per line, with the means of each split."""
    rows = [row for row in results["rows"] if row["benchmark"] == "regret"]
    tables = [
        _finder_table(title, [row for row in rows if row["optimizer"] == name])
        for name, title in OPTIMIZER_TITLES.items()
        if any(row["optimizer"] == name for row in rows)
    ]
    note = (
        "Mean regret with its 95 % bootstrap interval over the tasks; without a suggestion the regret is 1. Divergent, "
        "no suggestion, low confidence: fractions of all calls. Spread: standard deviation of log10 of the "
        "suggestions over the seeds, mean over the tasks. Steps: training steps; extra: other forward passes. Best "
        "constant: chosen in hindsight for each group of tasks. Finders "
        f"at their own defaults. {hardware_and_versions(results)}{_commits(rows)}. "
        "`python -m benchmarks.finder_quality`"
    )
    return "\n\n".join([*tables, note])


def _finder_table(title: str, rows: list[Row]) -> str:
    """Return the table of one optimizer. All columns but the means are those of the first split in ``SPLIT_TITLES``."""
    by_split = {
        split: {row["contender"]: row for row in rows if row["split"] == split}
        for split in SPLIT_TITLES
        if any(row["split"] == split for row in rows)
    }
    first, *others = by_split
    head = ["rate from", SPLIT_TITLES[first], "median", "worst task", *map(SPLIT_TITLES.__getitem__, others)]
    head += ["divergent", "no suggestion", "low confidence", "spread", "steps, extra"]
    lines = [
        [
            f"{row['contender']} ({row['lr']:g})" if row.get("lr") else row["contender"],
            _mean_regret(row),
            f"{row['median_regret']:.2f}",
            f"{row['worst_regret']:.2f} ({row['worst_task']})",
            *(_mean_regret(by_split[split].get(row["contender"])) for split in others),
            *(percent(row[name] / row["n"]) for name in ("n_divergent", "n_no_suggestion", "n_low_confidence")),
            "" if row["spread"] is None else f"{row['spread']:.2f}",
            f"{row['steps']:.0f}, {row['extra_passes']:.0f}",
        ]
        for row in sorted(by_split[first].values(), key=lambda row: row["mean_regret"])
    ]
    numbers = ", ".join(f"{SPLIT_TITLES[split]}: {_numbers(list(found.values()))}" for split, found in by_split.items())
    return markdown_table(head, lines, f"{title}. Numbers of tasks and seeds, {numbers}.")


def _mean_regret(row: Row | None) -> str:
    return "" if row is None else f"{row['mean_regret']:.3f} ({row['mean_low']:.2f} to {row['mean_high']:.2f})"


def _numbers(rows: list[Row]) -> str:
    """Return the numbers of tasks and of seeds."""
    return f"{max(row['n_tasks'] for row in rows)} and {max(row['n'] // row['n_tasks'] for row in rows)}"


def _commits(rows: list[Row]) -> str:
    """Return which splits were measured at which commit; nothing if all were at the same one."""
    splits: dict[str, dict[str, None]] = {}
    for row in rows:
        splits.setdefault(row["commit"], {})[SPLIT_TITLES[row["split"]]] = None
    if len(splits) == 1:
        return ""
    parts = [f"{', '.join(titles)} at {commit}" for commit, titles in splits.items()]
    return f" ({'; '.join(parts)})"
