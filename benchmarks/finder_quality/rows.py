"""Rows of the comparison: each contender on each task, and over all tasks of a split.

A refusal counts as a regret of 1, because without a rate there is no training.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ..environment import commit
from ..intervals import bootstrap_interval
from ..result_files import Row, rounded
from .contenders import Measurement
from .regret import NEAR_OPTIMAL, RegretCurve
from .suggestion import Suggestion
from .tasks import SPLITS

BEST_CONSTANT = "best constant"
"""Contender: the constant rate with the lowest mean regret over the tasks, known in hindsight only."""


def task_row(optimizer: str, contender: str, curve: RegretCurve, measurements: list[Measurement]) -> Row:
    """Return one contender's row for one task, over its seeds.

    Rates are over the seeds with a suggestion, and None without any; regrets are over all seeds.
    """
    task = measurements[0].task
    suggestions = [each.suggestion for each in measurements]
    rates = [each.lr for each in suggestions if each.lr is not None]
    regrets = [1.0 if each.lr is None else curve.regret(each.lr) for each in suggestions]
    return {
        "benchmark": "regret_task",
        "commit": commit(),
        "optimizer": optimizer,
        "contender": contender,
        "task": task,
        "split": next(title for title, split in SPLITS.items() if task in split),
        "suggested": rounded(statistics.median(rates)) if rates else None,
        "lowest": rounded(min(rates)) if rates else None,
        "highest": rounded(max(rates)) if rates else None,
        "log10_std": rounded(statistics.stdev(map(math.log10, rates))) if len(rates) > 1 else None,
        "regret": rounded(statistics.mean(regrets)),
        "worst_regret": rounded(max(regrets)),
        "n_divergent": sum(map(curve.is_divergent, rates)),
        "n_no_suggestion": len(measurements) - len(rates),
        "n_low_confidence": sum(each.is_low_confidence for each in suggestions),
        "reasons": sorted({each.reason for each in suggestions if each.lr is None}),
        "steps": statistics.mean(each.steps for each in suggestions),
        "extra_passes": statistics.mean(each.extra_passes for each in suggestions),
        "seconds": rounded(sum(each.seconds for each in suggestions)),
        "bare_seconds": rounded(sum(each.bare_seconds for each in measurements)),
        "best_lr": rounded(curve.best_lr),
        "divergence_lr": None if curve.divergence_lr is None else rounded(curve.divergence_lr),
        "n": len(measurements),
    }


def summary_row(split: str, rows: list[Row]) -> Row:
    """Return one contender's row over several tasks: mean, median and worst of their mean regrets.

    Args:
        split: name of the split of ``rows``.
        rows: of ``task_row``, of one optimizer and contender.
    """
    regrets = [row["regret"] for row in rows]
    low, high = bootstrap_interval(regrets)
    spreads = [row["log10_std"] for row in rows if row["log10_std"] is not None]
    return {
        "benchmark": "regret",
        "commit": rows[0]["commit"],
        "optimizer": rows[0]["optimizer"],
        "contender": rows[0]["contender"],
        "split": split,
        "n_tasks": len(rows),
        "n": sum(row["n"] for row in rows),
        "mean_regret": rounded(statistics.mean(regrets)),
        "mean_low": rounded(low),
        "mean_high": rounded(high),
        "median_regret": rounded(statistics.median(regrets)),
        "worst_regret": max(regrets),
        "worst_task": max(rows, key=lambda row: row["regret"])["task"],
        "near_optimal": sum(regret < NEAR_OPTIMAL for regret in regrets),
        "n_divergent": sum(row["n_divergent"] for row in rows),
        "n_no_suggestion": sum(row["n_no_suggestion"] for row in rows),
        "n_low_confidence": sum(row["n_low_confidence"] for row in rows),
        "spread": rounded(statistics.mean(spreads)) if spreads else None,
        "steps": rounded(statistics.mean(row["steps"] for row in rows)),
        "extra_passes": rounded(statistics.mean(row["extra_passes"] for row in rows)),
        "wall_over_bare": rounded(statistics.median(row["seconds"] / row["bare_seconds"] for row in rows)),
    }


def constant_rows(optimizer: str, contender: str, lr: float, curves: dict[str, RegretCurve]) -> list[Row]:
    """Return the rows of a contender that suggests ``lr`` for every task, at no cost.

    Args:
        curves: by task.
    """
    measured = (Measurement(contender, task, 0, Suggestion(lr, 0, 0.0), 1.0) for task in curves)
    return [task_row(optimizer, contender, curves[each.task], [each]) for each in measured]


def best_constant(curves: Sequence[RegretCurve]) -> float:
    """Return the grid rate with the lowest mean regret over ``curves``."""
    rates = sorted({rounded(rate) for curve in curves for rate in curve.rates})
    return min(rates, key=lambda lr: statistics.mean(curve.regret(lr) for curve in curves))


def summary_table(rows: list[Row]) -> str:
    """Return the rows of ``summary_row`` as text, the lowest mean regret first."""
    head = f"{'contender':28}{'mean':>7} {'95 %':14}{'median':>7}{'worst':>7}  {'worst task':25}{f'<{NEAR_OPTIMAL}':>7}"
    head += f"{'diverg.':>8}{'no sugg.':>9}{'unsure':>7}{'of':>5}{'spread':>8}{'steps':>6}{'extra':>6}{'wall':>6}"
    lines = [head]
    for row in sorted(rows, key=lambda row: row["mean_regret"]):
        interval = f"{row['mean_low']:.3f}-{row['mean_high']:.3f}"
        spread = "" if row["spread"] is None else f"{row['spread']:.3f}"
        lines.append(
            f"{row['contender']:28}{row['mean_regret']:7.3f} {interval:14}{row['median_regret']:7.3f}"
            f"{row['worst_regret']:7.2f}  {row['worst_task']:25}{row['near_optimal']:>4}/{row['n_tasks']:<2}"
            f"{row['n_divergent']:>8}{row['n_no_suggestion']:>9}{row['n_low_confidence']:>7}{row['n']:>5}"
            f"{spread:>8}{row['steps']:6.0f}{row['extra_passes']:6.0f}{row['wall_over_bare']:6.2f}"
        )
    return "\n".join(lines)


def task_line(row: Row) -> str:
    """Return a row of ``task_row`` as one line of text."""
    suggested = "no suggestion" if row["suggested"] is None else f"{row['suggested']:9.2g}"
    divergence = "none" if row["divergence_lr"] is None else f"{row['divergence_lr']:.2g}"
    return (
        f"{row['task']:26}{row['contender']:28}{suggested:13}  regret {row['regret']:5.3f}"
        f"  best {row['best_lr']:8.2g}  diverges at {divergence:>8}"
    )
