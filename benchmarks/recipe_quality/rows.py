"""Rows of the race: each contender on each task, over its searches.

reached = (score(defaults) - score(answer)) / (score(defaults) - score(best))     1: as good as the grid's best cell
cost    = updates that the search made / updates of the grid with one seed
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from ..result_files import Row, rounded
from .reference import FRESH_SEEDS, OPTIMIZERS, Reference
from .searches import Place, Search


def reached(default: float, best: float, score: float) -> float | None:
    """Return the fraction of the way from ``default`` to ``best``; None if the default is the best cell."""
    return rounded((default - score) / (default - best)) if default > best else None


def task_rows(searches: Mapping[Place, Search], references: Mapping[tuple[str, str], Reference]) -> list[Row]:
    """Return a row per contender, budget, optimizer and task.

    Args:
        references: by optimizer and task.
    """
    groups: dict[tuple[str, str, str, float], list[Search]] = {}
    for place, search in searches.items():
        groups.setdefault((place.optimizer, place.task, place.contender, place.budget), []).append(search)
    return [
        task_row(optimizer, task, contender, budget, references[optimizer, task], found)
        for (optimizer, task, contender, budget), found in groups.items()
    ]


def task_row(
    optimizer: str, task: str, contender: str, budget: float, reference: Reference, searches: Sequence[Search]
) -> Row:
    """Return the row of one contender, over its searches on one task with one budget."""
    scores = [reference.score(search.losses) for search in searches]
    answers = [search.answer for search in searches]
    best, (best_lr, best_decay) = reference.best()
    defaults = reference.default_scores()
    default, best_default = statistics.mean(defaults), min(defaults)
    return {
        "benchmark": "recipe_task",
        "commit": ", ".join(sorted({search.commit for search in searches})),
        "contender": contender,
        "optimizer": optimizer,
        "task": task,
        "split": next(title for title, split in OPTIMIZERS[optimizer].splits.items() if task in split),
        "budget": budget,
        "steps": reference.steps,
        "untrained": rounded(statistics.mean(reference.retraining.untrained)),
        "default": rounded(default),
        "best_default": rounded(best_default),
        "best": rounded(best),
        "best_lr": rounded(best_lr),
        "best_weight_decay": best_decay,
        "score": rounded(statistics.mean(scores)),
        "scores": [rounded(score) for score in scores],
        "answers": [answer.optimizer for answer in answers],
        "lr": [rounded(answer.lr) for answer in answers],
        "weight_decay": [rounded(answer.weight_decay) for answer in answers],
        "momentum": [answer.momentum for answer in answers],
        "trainings": [answer.trainings for answer in answers],
        "reached": reached(default, best, statistics.mean(scores)),
        "reached_by_search": [reached(default, best, score) for score in scores],
        "reached_over_best_default": reached(best_default, best, statistics.mean(scores)),
        "cost": rounded(statistics.mean(answer.steps for answer in answers) / reference.grid_steps),
        "highest_cost": rounded(max(answer.steps for answer in answers) / reference.grid_steps),
        "n": len(searches),
        "n_fresh": len(FRESH_SEEDS),
    }


def merged(new: Iterable[Row], old: Iterable[Row]) -> list[Row]:
    """Return the new rows and those old ones that are about something else, in a fixed order."""
    by_subject = {_subject(row): row for row in (*old, *new)}
    return [by_subject[subject] for subject in sorted(by_subject)]


def _subject(row: Row) -> tuple[str, str, str, str, float]:
    return row["optimizer"], row["split"], row["task"], row["contender"], row["budget"]
