"""Rows and tables of the comparison of finders."""

from __future__ import annotations

import statistics
from typing import Any

from ..environment import commit
from ..result_files import rounded
from .contenders import Asked
from .oracle import Oracle
from .tasks import HALVES


def task_row(contender: str, oracle: Oracle, asked: list[Asked]) -> dict[str, Any]:
    """One contender on one task, over its seeds; figures are of its answers, and None where it gave none."""
    task = asked[0].task
    rates = [a.answer.rate for a in asked if a.answer.rate is not None]
    regrets = [oracle.regret(rate) for rate in rates]
    return {
        "benchmark": "regret_task",
        "commit": commit(),
        "contender": contender,
        "task": task,
        "half": next(title for title, half in HALVES.items() if task in half),
        "suggested": rounded(statistics.median(rates)) if rates else None,
        "lowest": rounded(min(rates)) if rates else None,
        "highest": rounded(max(rates)) if rates else None,
        "regret": rounded(statistics.mean(regrets)) if rates else None,
        "worst_regret": rounded(max(regrets)) if rates else None,
        "n_divergent": sum(oracle.divergent(rate) for rate in rates),
        "n_no_answer": len(asked) - len(rates),
        "reasons": sorted({a.answer.reason for a in asked if a.answer.rate is None}),
        "steps": statistics.mean(a.answer.steps for a in asked),
        "seconds": rounded(sum(a.answer.seconds for a in asked)),
        "bare_seconds": rounded(sum(a.bare_seconds for a in asked)),
        "best_lr": rounded(oracle.best_lr),
        "edge_lr": None if oracle.edge_lr is None else rounded(oracle.edge_lr),
        "n": len(asked),
    }


def summary_row(contender: str, tasks: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One contender over several tasks: mean, median and worst of the tasks' mean regrets."""
    answered = [row for row in rows if row["regret"] is not None]
    regrets = [row["regret"] for row in answered]
    n = sum(row["n"] for row in rows)
    n_answers = n - sum(row["n_no_answer"] for row in rows)
    return {
        "benchmark": "regret",
        "commit": commit(),
        "contender": contender,
        "tasks": tasks,
        "n_tasks": len(rows),
        "n": n,
        "mean_regret": rounded(statistics.mean(regrets)) if regrets else None,
        "median_regret": rounded(statistics.median(regrets)) if regrets else None,
        "worst_regret": rounded(max(regrets)) if regrets else None,
        "worst_task": max(answered, key=lambda row: row["regret"])["task"] if regrets else None,
        "near_optimal": sum(regret < 0.05 for regret in regrets),
        "divergent": rounded(sum(row["n_divergent"] for row in rows) / n_answers) if n_answers else None,
        "no_answer": rounded(1 - n_answers / n),
        "spread": rounded(max(row["highest"] / row["lowest"] for row in answered)) if regrets else None,
        "steps": rounded(statistics.mean(row["steps"] for row in rows)),
        "wall_over_bare": rounded(statistics.median(row["seconds"] / row["bare_seconds"] for row in rows)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    head = f"{'contender':28}{'mean':>7}{'median':>8}{'worst':>7}  {'worst task':25}{'<0.05':>6}"
    head += f"{'diverg.':>9}{'no answer':>11}{'spread':>9}{'steps':>7}{'wall':>7}"
    lines = [head]
    for row in sorted(rows, key=lambda row: (row["mean_regret"] is None, row["mean_regret"])):
        if row["mean_regret"] is None:
            lines.append(f"{row['contender']:28}  no answer at all")
            continue
        lines.append(
            f"{row['contender']:28}{row['mean_regret']:7.3f}{row['median_regret']:8.3f}{row['worst_regret']:7.2f}"
            f"  {row['worst_task']:25}{row['near_optimal']:>3}/{row['n_tasks']:<2}{row['divergent']:9.1%}"
            f"{row['no_answer']:11.1%}{row['spread']:9.3g}{row['steps']:7.0f}{row['wall_over_bare']:7.2f}"
        )
    return "\n".join(lines)
