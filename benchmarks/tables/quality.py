"""Tables of the quality of finders and of the short recipe."""

from __future__ import annotations

import statistics

from ..result_files import Row
from .markdown import Results, hardware_and_versions, markdown_table, percent

TARGET = 0.95
"""A recipe that reaches this fraction of the gain counts as enough."""

MIN_GAIN = 1 / 50
"""Minimum gain over the best default, as a fraction of the gain over the mean default. Fractions of a smaller gain are
noise."""

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


def recipe_table(results: Results) -> str:
    """Return the table of the short recipe against a full grid: tasks down, budgets across."""
    rows = results["rows"]
    budgets = sorted({row["budget"] for row in rows})
    head = ["test loss", "untrained", "defaults: mean, best", "the grid's best", "by one seed's grid"]
    for budget in budgets:
        head += [f"recipe, {percent(budget)}", "of the gain (by search)", "over the best default"]
    tasks: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["budget"]):
        tasks.setdefault(row["task"], []).append(row)
    lines = [
        [*_grid_cells(found[0]), *(cell for row in found for cell in _recipe_cells(row))] for found in tasks.values()
    ]
    return markdown_table(head, lines, _recipe_note(results, budgets))


def _grid_cells(row: Row) -> list[str]:
    return [
        f"{row['task']}{' *' if row['split'] == 'development' else ''}",
        f"{row['untrained']:.3g}",
        f"{row['default']:.4g}, {row['best_default']:.4g}",
        f"{row['best']:.4g} ({row['best_lr']:.2g}, {row['best_weight_decay']:g})",
        ", ".join(map(_gain, row["reached_by_grid_seed"])),
    ]


def _recipe_cells(row: Row) -> list[str]:
    gain_over_best_default = row["best_default"] - row["best"]
    is_to_gain = gain_over_best_default > MIN_GAIN * (row["default"] - row["best"])
    return [
        f"{row['recipe']:.4g}",
        f"{_gain(row['reached'])} ({', '.join(map(_gain, row['reached_by_search']))})",
        _gain(row["reached_over_best_default"] if is_to_gain else None),
    ]


def _recipe_note(results: Results, budgets: list[float]) -> str:
    rows = results["rows"]
    sentences = []
    for budget in budgets:
        at_budget = [row for row in rows if row["budget"] == budget]
        dearest = percent(max(row["cost"] for row in at_budget), 1)
        reached = _reached(at_budget, [row["reached"] for row in at_budget])
        sentences.append(
            f"With {percent(budget)} (the most expensive search took {dearest}) the recipe reaches {reached}."
        )
    once = [row for row in rows if row["budget"] == budgets[0]]
    by_grid = _reached(once, [statistics.mean(row["reached_by_grid_seed"]) for row in once])
    sentences.append(f"The best cell of one seed's whole grid, chosen by the test loss itself, reaches {by_grid}.")
    return (
        f"{' '.join(sentences)} n = {rows[0]['n']} searches (in brackets), each setting trained with "
        f"{rows[0]['n_fresh']} seeds; budgets are percentages of the updates of the grid with one seed. "
        f"{hardware_and_versions(results)}. `python -m benchmarks.recipe_quality`"
    )


def _reached(rows: list[Row], reached: list[float]) -> str:
    """Return on how many tasks ``reached`` is enough, and its mean and median over all of them."""
    enough = []
    for title, split in (("tasks marked *", "development"), ("others", "test")):
        fractions = [fraction for row, fraction in zip(rows, reached, strict=True) if row["split"] == split]
        if fractions:
            enough.append(f"{sum(fraction >= TARGET for fraction in fractions)} of the {len(fractions)} {title}")
    mean, median = (_gain(average(reached)) for average in (statistics.mean, statistics.median))
    return (
        f"{percent(TARGET)} of the gain over the mean default on {' and '.join(enough)} (mean {mean}, median {median})"
    )


def _gain(fraction: float | None) -> str:
    return "nothing to gain" if fraction is None else percent(fraction)
