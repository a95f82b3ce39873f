"""Searches for a recipe, trainings with what they find, and rows that compare them with the reference.

    cost = updates that the search is charged with / updates of the grid with one seed

The rows also have the cell that each of the grid's seeds alone would choose, by the test loss.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

import clrfast
from clrfast.recipe._step_allocation import MIN_BUDGET

from ..oracle import Oracle
from ..result_files import Row, rounded
from ..task_library.definition import TaskDefinition
from .reference import GRID, Reference, cell_loss, final_loss, held_out_halves
from .tasks import SPLITS

FRESH_SEEDS = GRID.retraining_seeds
"""Seeds of the trainings that count: neither the grid nor the search uses them."""


@dataclass(frozen=True)
class Search:
    """A recipe, and the test losses of trainings with it, ``[fresh seeds]``."""

    recipe: clrfast.Recipe
    losses: list[float]


def search(definition: TaskDefinition, seed: int, budget: float, reference: Reference, saved_in: Path | None) -> Search:
    """Search for a recipe, and train with it.

    Args:
        budget: fraction of the updates of the grid with one seed.
        saved_in: folder of searches, where a finished one is read in place of being repeated.
    """
    task, steps = definition.make(seed), reference.steps
    saved = None if saved_in is None else saved_in / f"{definition.name}-{seed}-{budget:g}.json"
    searched = clrfast.Task(task.model, task.loss_fn, task.loader(), [held_out_halves(task)[0]])
    max_steps = max(int(budget * reference.grid_steps), MIN_BUDGET)
    torch.manual_seed(seed)
    recipe = clrfast.find_recipe(searched, max_steps, planned_steps=steps, saved=saved)
    fresh = (definition.make(seed) for seed in FRESH_SEEDS)
    return Search(recipe, [final_loss(task, recipe.optimizer(task.model, steps), steps) for task in fresh])


def reached(default: float, best: float, score: float) -> float | None:
    """Return the fraction of the way from ``default`` to ``best``; None if the default is the best cell."""
    return rounded((default - score) / (default - best)) if default > best else None


def task_rows(
    task_and_oracle: tuple[str, Oracle], budgets: Iterable[float], seeds: Iterable[int], saved_in: Path | None
) -> list[Row]:
    """Return a row per budget for one task; ``seeds`` are those of the searches."""
    name, oracle = task_and_oracle
    definition = next(split[name] for split in SPLITS.values() if name in split)
    reference = Reference(oracle)
    by_grid_seed = [
        [cell_loss(definition.make(seed), *cell, reference.steps) for seed in FRESH_SEEDS]
        for cell in reference.best_cell_by_seed()
    ]
    rows = []
    for budget in budgets:
        searches = [search(definition, seed, budget, reference, saved_in) for seed in seeds]
        rows.append(
            {**task_row(name, reference, by_grid_seed, searches), "budget": budget, "n_fresh": len(FRESH_SEEDS)}
        )
    return rows


def task_row(name: str, reference: Reference, by_grid_seed: list[list[float]], searches: list[Search]) -> Row:
    """Return the row of one task and one budget.

    Args:
        by_grid_seed: test losses with the fresh seeds of the cells that each of the grid's seeds would choose.
    """
    scores = [reference.score(search.losses) for search in searches]
    best, (best_lr, best_decay) = reference.best()
    defaults = reference.default_scores()
    default, best_default = statistics.mean(defaults), min(defaults)
    recipes = [search.recipe for search in searches]
    return {
        "benchmark": "recipe_task",
        "task": name,
        "split": next(title for title, split in SPLITS.items() if name in split),
        "steps": reference.steps,
        "untrained": rounded(statistics.mean(reference.retraining.untrained)),
        "default": rounded(default),
        "best_default": rounded(best_default),
        "best": rounded(best),
        "best_lr": rounded(best_lr),
        "best_weight_decay": best_decay,
        "recipe": rounded(statistics.mean(scores)),
        "recipes": [rounded(score) for score in scores],
        "lr": [rounded(recipe.max_lr) for recipe in recipes],
        "weight_decay": [recipe.weight_decay for recipe in recipes],
        "momentum": [recipe.momentum for recipe in recipes],
        "reached": reached(default, best, statistics.mean(scores)),
        "reached_by_search": [reached(default, best, score) for score in scores],
        "reached_over_best_default": reached(best_default, best, statistics.mean(scores)),
        "reached_by_grid_seed": [reached(default, best, reference.score(losses)) for losses in by_grid_seed],
        "cost": rounded(max(recipe.steps for recipe in recipes) / reference.grid_steps),
        "n": len(searches),
    }


def task_line(row: Row) -> str:
    """Return a row of ``task_rows`` as one line of text."""
    over_best = row["reached_over_best_default"]
    each = " ".join(
        f"{lr:.2g}/{decay:g}/{momentum[0]:g}:{'none' if fraction is None else format(fraction, '.2f')}"
        for lr, decay, momentum, fraction in zip(
            row["lr"], row["weight_decay"], row["momentum"], row["reached_by_search"], strict=True
        )
    )
    return (
        f"{row['task']:24}{row['split']:12} {row['untrained']:7.4g} default {row['default']:7.4g} (best "
        f"{row['best_default']:7.4g}) best {row['best']:7.4g} ({row['best_lr']:.2g}/{row['best_weight_decay']:g}) "
        f"recipe {row['recipe']:7.4g} reached {row['reached']} (over the best default "
        f"{'none' if over_best is None else over_best}) budget {row['budget']:g} cost {100 * row['cost']:.1f} %  {each}"
    )
