"""Rows of the comparison: each contender on each task, and over the tasks of a split.

score = (final loss - best) / (untrained - best), at most 1

``best`` is the loss after the best SGD 1cycle of the oracle. 0 is as good as it, less is better, and 1 is as bad as no
training: a run that fails or ends above its untrained loss has the score 1.
"""

from __future__ import annotations

import statistics

from ..environment import commit
from ..finder_quality.regret import RegretCurve
from ..intervals import bootstrap_interval
from ..result_files import Row, rounded
from .contenders import CONTENDERS, OURS, SPLITS
from .training import Outcome


def score(outcome: Outcome, best: float) -> float:
    """Return the score of one training against ``best``, the loss after the best SGD 1cycle."""
    gain = outcome.untrained - best
    if gain <= 0:
        raise ValueError(f"best: got {best}; give a loss below the untrained loss, {outcome.untrained}")
    return min(1.0, (outcome.loss - best) / gain)


def task_row(
    contender: str, package: str, task: str, steps: int, curve: RegretCurve, outcomes: list[Outcome], seconds: float
) -> Row:
    """Return one contender's row for one task, over its seeds.

    Args:
        package: that its optimizer comes from, with the version.
        steps: updates of the task's training.
        seconds: of all its runs.
    """
    best = float(curve.scores.min())
    scores = [score(outcome, best) for outcome in outcomes]
    return {
        "benchmark": "untuned_task",
        "commit": commit(),
        "contender": contender,
        "package": package,
        "task": task,
        "score": rounded(statistics.mean(scores)),
        "scores": [rounded(each) for each in scores],
        "n_failed": sum(each >= 1 for each in scores),
        "reasons": sorted({outcome.reason for outcome in outcomes if outcome.reason}),
        "best": rounded(best),
        "steps": steps,
        "cost": rounded(statistics.mean(outcome.passes for outcome in outcomes) / steps),
        "search_passes": rounded(statistics.mean(outcome.search_passes for outcome in outcomes)),
        "seconds": rounded(seconds),
        "n": len(outcomes),
    }


def summary_rows(split: str, rows: list[Row], reference: str = OURS) -> list[Row]:
    """Return one row per contender over several tasks, the lowest mean score first.

    Args:
        split: name of the split of ``rows``.
        rows: of ``task_row``, of all contenders.
        reference: the contender that each other is compared with task by task.
    """
    lowest: dict[str, float] = {}
    for row in rows:
        lowest[row["task"]] = min(row["score"], lowest.get(row["task"], 1.0))
    of_reference = {row["task"]: row["score"] for row in rows if row["contender"] == reference}
    names = dict.fromkeys(row["contender"] for row in rows)
    found = [
        _summary_row(split, [row for row in rows if row["contender"] == name], lowest, of_reference) for name in names
    ]
    return sorted(found, key=lambda row: row["mean_score"])


def _summary_row(split: str, rows: list[Row], lowest: dict[str, float], of_reference: dict[str, float]) -> Row:
    """Return the row of one contender; ``lowest`` and ``of_reference`` hold scores by task."""
    scores = [row["score"] for row in rows]
    low, high = bootstrap_interval(scores)
    compared = [row for row in rows if row["task"] in of_reference]
    return {
        "benchmark": "untuned",
        "commit": rows[0]["commit"],
        "contender": rows[0]["contender"],
        "package": rows[0]["package"],
        "split": split,
        "n_tasks": len(rows),
        "n": sum(row["n"] for row in rows),
        "mean_score": rounded(statistics.mean(scores)),
        "mean_low": rounded(low),
        "mean_high": rounded(high),
        "median_score": rounded(statistics.median(scores)),
        "worst_score": max(scores),
        "worst_task": max(rows, key=lambda row: row["score"])["task"],
        "better_than_best": sum(each < 0 for each in scores),
        "lowest": sum(row["score"] <= lowest[row["task"]] < 1 for row in rows),
        "n_compared": len(compared),
        "lower_than_reference": sum(row["score"] < of_reference[row["task"]] for row in compared),
        "failed_tasks": sum(row["n_failed"] > 0 for row in rows),
        "cost": rounded(statistics.mean(row["cost"] for row in rows)),
    }


def merged(rows: list[Row], found: list[Row]) -> list[Row]:
    """Return all rows of contenders on tasks, with ``found`` in place of older ones, and the summaries over them.

    Rows of tasks that no longer exist are dropped.
    """
    by_key = {(row["contender"], row["task"]): row for row in [*rows, *found] if row["benchmark"] == "untuned_task"}
    task_rows = [
        by_key[name, task] | {"split": split}
        for split, tasks in SPLITS.items()
        for task in tasks
        for name in CONTENDERS
        if (name, task) in by_key
    ]
    summaries: list[Row] = []
    for split in SPLITS:
        summaries += summary_rows(split, [row for row in task_rows if row["split"] == split])
    return summaries + task_rows


def task_line(row: Row) -> str:
    """Return a row of ``task_row`` as one line of text."""
    reasons = f"  {'; '.join(row['reasons'])}" if row["reasons"] else ""
    return f"{row['task']:26}{row['contender']:32}score {row['score']:7.3f}  cost {row['cost']:5.2f}{reasons}"
