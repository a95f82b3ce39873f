"""Rows of the comparison: each contender on each task, and over all tasks of a split."""

from __future__ import annotations

import statistics

from ..environment import commit
from ..result_files import Row, rounded
from .contenders import Measurement
from .regret import NEAR_OPTIMAL, RegretCurve
from .tasks import SPLITS


def task_row(contender: str, curve: RegretCurve, measurements: list[Measurement]) -> Row:
    """Return one contender's row for one task, over its seeds. Without any suggestion its figures are None."""
    task = measurements[0].task
    suggestions = [each.suggestion for each in measurements]
    rates = [each.lr for each in suggestions if each.lr is not None]
    regrets = [curve.regret(lr) for lr in rates]
    return {
        "benchmark": "regret_task",
        "commit": commit(),
        "contender": contender,
        "task": task,
        "split": next(title for title, split in SPLITS.items() if task in split),
        "suggested": rounded(statistics.median(rates)) if rates else None,
        "lowest": rounded(min(rates)) if rates else None,
        "highest": rounded(max(rates)) if rates else None,
        "regret": rounded(statistics.mean(regrets)) if rates else None,
        "worst_regret": rounded(max(regrets)) if rates else None,
        "n_divergent": sum(map(curve.is_divergent, rates)),
        "n_no_suggestion": len(measurements) - len(rates),
        "reasons": sorted({each.reason for each in suggestions if each.lr is None}),
        "steps": statistics.mean(each.steps for each in suggestions),
        "seconds": rounded(sum(each.seconds for each in suggestions)),
        "bare_seconds": rounded(sum(each.bare_seconds for each in measurements)),
        "best_lr": rounded(curve.best_lr),
        "divergence_lr": None if curve.divergence_lr is None else rounded(curve.divergence_lr),
        "n": len(measurements),
    }


def summary_row(contender: str, split: str, rows: list[Row]) -> Row:
    """Return one contender's row over several tasks: mean, median and worst of their mean regrets.

    Args:
        split: "all", or the name of the split that ``rows`` are of.
        rows: of ``task_row``.
    """
    answered = [row for row in rows if row["regret"] is not None]
    regrets = [row["regret"] for row in answered]
    n = sum(row["n"] for row in rows)
    n_suggestions = n - sum(row["n_no_suggestion"] for row in rows)
    return {
        "benchmark": "regret",
        "commit": commit(),
        "contender": contender,
        "split": split,
        "n_tasks": len(rows),
        "n": n,
        "mean_regret": rounded(statistics.mean(regrets)) if regrets else None,
        "median_regret": rounded(statistics.median(regrets)) if regrets else None,
        "worst_regret": rounded(max(regrets)) if regrets else None,
        "worst_task": max(answered, key=lambda row: row["regret"])["task"] if regrets else None,
        "near_optimal": sum(regret < NEAR_OPTIMAL for regret in regrets),
        "divergent": rounded(sum(row["n_divergent"] for row in rows) / n_suggestions) if n_suggestions else None,
        "no_suggestion": rounded(1 - n_suggestions / n),
        "spread": rounded(max(row["highest"] / row["lowest"] for row in answered)) if regrets else None,
        "steps": rounded(statistics.mean(row["steps"] for row in rows)),
        "wall_over_bare": rounded(statistics.median(row["seconds"] / row["bare_seconds"] for row in rows)),
    }


def summary_table(rows: list[Row]) -> str:
    """Return the rows of ``summary_row`` as text, the lowest mean regret first."""
    head = f"{'contender':28}{'mean':>7}{'median':>8}{'worst':>7}  {'worst task':25}{f'<{NEAR_OPTIMAL}':>6}"
    head += f"{'diverg.':>9}{'no sugg.':>11}{'spread':>9}{'steps':>7}{'wall':>7}"
    lines = [head]
    for row in sorted(rows, key=lambda row: (row["mean_regret"] is None, row["mean_regret"])):
        if row["mean_regret"] is None:
            lines.append(f"{row['contender']:28}  no suggestion at all")
            continue
        lines.append(
            f"{row['contender']:28}{row['mean_regret']:7.3f}{row['median_regret']:8.3f}{row['worst_regret']:7.2f}"
            f"  {row['worst_task']:25}{row['near_optimal']:>3}/{row['n_tasks']:<2}{row['divergent']:9.1%}"
            f"{row['no_suggestion']:11.1%}{row['spread']:9.3g}{row['steps']:7.0f}{row['wall_over_bare']:7.2f}"
        )
    return "\n".join(lines)


def task_line(row: Row) -> str:
    """Return a row of ``task_row`` as one line of text."""
    found = "no suggestion" if row["regret"] is None else f"{row['suggested']:9.2g}  regret {row['regret']:5.3f}"
    divergence = "none" if row["divergence_lr"] is None else f"{row['divergence_lr']:.2g}"
    return f"{row['task']:26}{row['contender']:28}{found:26} best {row['best_lr']:8.2g}  diverges at {divergence:>8}"
