"""Tables of the race of the short recipe's search: contenders over all tasks, and each task."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby

from ..intervals import bootstrap_interval
from ..result_files import Row
from .markdown import Results, hardware_and_versions, markdown_table, percent

TARGET = 0.95
"""A search that reaches this fraction of the gain counts as enough."""

OURS = "clrfast"

TITLES = {
    "clrfast": "clrfast",
    "TPE": "Optuna, TPE",
    "GP": "Optuna, Gaussian process",
    "random": "random search",
    "ASHA": "ASHA, random",
    "ASHA-TPE": "ASHA, TPE",
    "coarse-grid": "coarse grid",
    "full-grid": "full grid, by the test loss",
}
"""Titles of the contenders; others have their name."""

OPTIMIZER_TITLES = {"sgd": "SGD", "adamw": "AdamW"}

Contender = tuple[str, float]
"""Name and budget."""

Subject = tuple[str, str]
"""Optimizer and task."""


def recipe_table(results: Results) -> str:
    """Return the tables of the race, and how it was measured."""
    rows = results["rows"]
    n = " to ".join(map(str, sorted({min(row["n"] for row in rows), max(row["n"] for row in rows)})))
    commits = {"commit": ", ".join(sorted({commit for row in rows for commit in row["commit"].split(", ")}))}
    note = (
        "Of the gain: 0 % is the mean of the defaults, 100 % the full grid's best pair. "
        f"n = {n} searches per task, each answer trained with {rows[0]['n_fresh']} seeds. Cost: updates of the search "
        "over those of the full grid with one seed. "
        f"{hardware_and_versions({'environment': results['environment'] | commits})}. "
        "`python -m benchmarks.recipe_quality`"
    )
    return f"{race_tables(rows)}\n\n{note}"


def engine_table(results: Results) -> str:
    """Return what the engine of the search costs, and what a second worker gains."""
    rows = results["rows"]
    lines = [
        [
            row["search"],
            str(row["trials"]),
            f"{row['trial_s']:.2f} s",
            percent(row["overhead"], 1),
            f"{row['two_workers']:.2f}",
            f"{row['limit']:.2f}",
        ]
        for row in sorted(rows, key=lambda row: row["search"])
    ]
    head = [
        "search for",
        "trials",
        "a trial",
        "overhead of the engine",
        "time of two workers / one",
        "of two plain loops",
    ]
    note = f"{hardware_and_versions(results)}. `python -m benchmarks.recipe_quality.engine`"
    return markdown_table(head, lines, note)


def race_tables(rows: Sequence[Row]) -> str:
    """Return two tables for each optimizer: one line per contender, and one line per task. Before them one of all."""
    titles = [title for name, title in OPTIMIZER_TITLES.items() if any(row["optimizer"] == name for row in rows)]
    tables = [_contenders_table(" and ".join(titles), rows)] if len(titles) > 1 else []
    for name, title in OPTIMIZER_TITLES.items():
        own = [row for row in rows if row["optimizer"] == name]
        if own:
            tables += [_contenders_table(title, own), _tasks_table(own)]
    return "\n\n".join(tables)


def _contenders_table(title: str, rows: Sequence[Row]) -> str:
    parts = {
        "unseen tasks": [row for row in rows if row["split"] == "test"],
        "known tasks": [row for row in rows if row["split"] != "test"],
    }
    parts = {part: found for part, found in parts.items() if found}
    head = [title]
    for part in parts:
        head += [f"{part}: mean of the gain", "median", f">= {percent(TARGET)} of it", f"behind {OURS}"]
    lines = []
    for contender in _contenders(rows):
        cells = [_title(contender, rows)]
        for found in parts.values():
            cells += _part_cells(_gains(found, contender), _gains(found, (OURS, contender[1])))
        costs = [row["cost"] for row in rows if _contender(row) == contender]
        lines.append([*cells, percent(statistics.mean(costs), 1)])
    numbers = ", ".join(f"{len({_subject(row) for row in found})} {part}" for part, found in parts.items())
    note = (
        f"{title}: {numbers}. In brackets the 95 % bootstrap interval over the tasks. "
        f"Behind {OURS}: mean difference, in percentage points, on the tasks that both have."
    )
    return markdown_table([*head, "cost"], lines, note)


def _part_cells(gains: dict[Subject, float], ours: dict[Subject, float]) -> list[str]:
    """Return mean, median, share of good tasks and distance to ours; ``gains`` are by task."""
    if not gains:
        return [""] * 4
    values = list(gains.values())
    enough = sum(value >= TARGET for value in values)
    behind = [ours[task] - gain for task, gain in gains.items() if task in ours]
    return [
        _with_interval(values, " %"),
        percent(statistics.median(values)),
        f"{enough} of {len(values)}",
        "" if gains == ours or not behind else _with_interval(behind, ""),
    ]


def _with_interval(values: Sequence[float], unit: str) -> str:
    low, high = bootstrap_interval(values)
    mean, low, high = (f"{100 * value:.0f}".replace("-0", "0") for value in (statistics.mean(values), low, high))
    return f"{mean}{unit} ({low} to {high})"


def _tasks_table(rows: list[Row]) -> str:
    contenders = _contenders(rows)
    head = ["of the gain", "defaults: mean, best", "the grid's best", *(_title(each, rows) for each in contenders)]
    lines = []
    for task, group in groupby(sorted(rows, key=_order), key=lambda row: row["task"]):
        found = {_contender(row): row for row in group}
        row = next(iter(found.values()))
        lines.append(
            [
                f"{task}{' (unseen)' if row['split'] == 'test' else ''}",
                f"{row['default']:.4g}, {row['best_default']:.4g}",
                f"{row['best']:.4g} ({row['best_lr']:.2g}, {row['best_weight_decay']:g})",
                *(_gain(found.get(contender)) for contender in contenders),
            ]
        )
    return markdown_table(head, lines)


def _order(row: Row) -> tuple[bool, str]:
    return row["split"] != "test", row["task"]


def _gain(row: Row | None) -> str:
    if row is None:
        return ""
    return "nothing to gain" if row["reached"] is None else percent(row["reached"])


def _contender(row: Row) -> Contender:
    return row["contender"], row["budget"]


def _contenders(rows: Sequence[Row]) -> list[Contender]:
    """Return the contenders: budgets ascending, and in the order of ``TITLES``."""
    order = [*TITLES]
    found = {_contender(row) for row in rows}
    return sorted(found, key=lambda each: (each[1], order.index(each[0]) if each[0] in order else len(order), each[0]))


def _title(contender: Contender, rows: Sequence[Row]) -> str:
    """Return a contender's title, with its budget unless that is the lowest."""
    name, budget = contender
    title = TITLES.get(name, name)
    return title if budget == min(row["budget"] for row in rows) else f"{title}, {percent(budget)}"


def _gains(rows: Sequence[Row], contender: Contender) -> dict[Subject, float]:
    """Return the fraction of the gain by task, where there is something to gain."""
    own = [row for row in rows if _contender(row) == contender and row["reached"] is not None]
    return {_subject(row): row["reached"] for row in own}


def _subject(row: Row) -> Subject:
    return row["optimizer"], row["task"]
