"""The oracle of rates and weight decays, and what the recipe reaches beside it."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import clrfast
from clrfast.recipe._find_recipe import MIN_BUDGET

from ..finder_quality.oracle import HOPELESS, bears, grid
from ..result_files import read_cache, write_cache
from ..task_library.definition import RegretTask, TaskMaker
from .tasks import HALVES

ORACLE_VERSION = 1
"""Part of the key of the cache: raise it when the runs change."""

PER_DECADE = 2
DECAYS = (0.0, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
DEFAULTS = tuple(itertools.product((0.01, 0.1), (0.0, 1e-4)))
MOMENTUM = (0.95, 0.85)

N_TOP = 3
"""Of the grid's cells, that are trained anew."""

GRID_SEEDS = range(2)
FRESH_SEEDS = range(50, 53)
SEARCH_SEEDS = range(100, 103)

BUDGETS = (0.15, 0.15 * len(GRID_SEEDS))
"""Of the recipe: parts of the grid's updates with one seed."""

Batch = tuple[Tensor, Tensor]
Row = dict[str, Any]


# --- trainings --------------------------------------------------------------------------------------------------------


def halves(task: RegretTask) -> tuple[Batch, Batch]:
    """The held-out samples: those that a recipe validates on, and those that all are judged by."""
    (val, test) = (tuple(part[first::2] for part in task.val) for first in (0, 1))
    return val, test  # type: ignore[return-value]


@torch.no_grad()
def test_loss(task: RegretTask) -> float:
    inputs, targets = halves(task)[1]
    task.model.eval()
    loss = float(task.loss_fn(task.model(inputs), targets))
    return loss if math.isfinite(loss) else math.inf


def final_loss(task: RegretTask, optimizer: clrfast.SGD, steps: int) -> float:
    """The test loss after so many steps; inf once a loss is not finite."""
    return test_loss(task) if bears(task, optimizer, steps) else math.inf


def cell_loss(task: RegretTask, lr: float, weight_decay: float, steps: int) -> float:
    schedule = clrfast.one_cycle(lr, steps, momentum=MOMENTUM, weight_decay=weight_decay)
    return final_loss(task, clrfast.SGD(task.model.parameters(), schedule=schedule), steps)


def score(losses: Iterable[float], untrained: Iterable[float]) -> float:
    """Mean over the seeds; a training that ends above its start, or nowhere, counts as none."""
    return statistics.mean(min(loss, start) for loss, start in zip(losses, untrained, strict=True))


# --- the oracle -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """What the trainings of a task ended with: test losses, inf where they are not finite.

    Attributes:
        steps: of each training.
        rates, decays: the grid, ascending.
        losses: ``[seeds][rates][decays]``.
        untrained: before training, with these seeds, ``[seeds]``.
        top: the cells with the lowest scores, as (rate, weight decay).
        fresh_untrained: with the fresh seeds, ``[seeds]``.
        fresh_top, fresh_defaults: ``[cells][seeds]``.
    """

    steps: float
    rates: list[float]
    decays: list[float]
    losses: list[list[list[float]]]
    untrained: list[float]
    top: list[list[float]]
    fresh_untrained: list[float]
    fresh_top: list[list[float]]
    fresh_defaults: list[list[float]]

    @property
    def cost(self) -> float:
        """Updates of the grid with one seed."""
        return len(self.rates) * len(self.decays) * self.steps

    def scores(self) -> np.ndarray:
        """``[rates, decays]``."""
        return _scores(self.losses, self.untrained)

    def best_by_seed(self) -> list[tuple[float, float]]:
        """The cell with the lowest loss of each of the grid's seeds alone."""
        places = [divmod(int(np.argmin(losses)), len(self.decays)) for losses in self.losses]
        return [(self.rates[rate], self.decays[decay]) for rate, decay in places]

    def best(self) -> tuple[float, tuple[float, float]]:
        """The lowest score with the fresh seeds, and its cell."""
        cells = [(lr, weight_decay) for lr, weight_decay in self.top] + list(DEFAULTS)
        losses = self.fresh_top + self.fresh_defaults
        return min(zip(map(self.fresh, losses), cells, strict=True))

    def fresh(self, losses: Iterable[float]) -> float:
        """The score of trainings with the fresh seeds."""
        return score(losses, self.fresh_untrained)


def _scores(losses: list[list[list[float]]], untrained: list[float]) -> np.ndarray:
    return np.minimum(np.array(losses), np.array(untrained)[:, None, None]).mean(0)


def _grid_losses(maker: TaskMaker, seed: int, rates: list[float], steps: int) -> list[list[float]]:
    """``[rates][decays]``; rates above several at which no training ends are taken to do the same."""
    losses: list[list[float]] = []
    for rate in rates:
        tail = losses[-HOPELESS // 2 :]
        hopeless = len(tail) == HOPELESS // 2 and all(math.isinf(loss) for row in tail for loss in row)
        losses.append([math.inf if hopeless else cell_loss(maker.make(seed), rate, decay, steps) for decay in DECAYS])
    return losses


def fresh_losses(maker: TaskMaker, lr: float, weight_decay: float, steps: int) -> list[float]:
    """``[fresh seeds]``"""
    return [cell_loss(maker.make(seed), lr, weight_decay, steps) for seed in FRESH_SEEDS]


def ask_oracle(maker: TaskMaker, per_decade: int, steps: int | None) -> Oracle:
    steps = maker.make(0).steps if steps is None else steps
    rates = grid(maker, per_decade)
    losses = [_grid_losses(maker, seed, rates, steps) for seed in GRID_SEEDS]
    untrained = [test_loss(maker.make(seed)) for seed in GRID_SEEDS]
    places = np.argsort(_scores(losses, untrained), axis=None, kind="stable")[:N_TOP]
    top = [[rates[at // len(DECAYS)], DECAYS[at % len(DECAYS)]] for at in places]

    return Oracle(
        steps,
        rates,
        list(DECAYS),
        losses,
        untrained,
        top,
        fresh_untrained=[test_loss(maker.make(seed)) for seed in FRESH_SEEDS],
        fresh_top=[fresh_losses(maker, *cell, steps) for cell in top],
        fresh_defaults=[fresh_losses(maker, *cell, steps) for cell in DEFAULTS],
    )


def oracles(
    makers: Iterable[TaskMaker], cache: Path | None, per_decade: int = PER_DECADE, steps: int | None = None
) -> dict[str, Oracle]:
    """The oracle of every task by name: from the cache where its task is unchanged, else computed and kept."""
    kept, found = read_cache(cache), {}
    for maker in makers:
        key = f"{ORACLE_VERSION}-{per_decade}-{len(DECAYS)}-{maker.digest()}"
        entry = kept.get(maker.name, {})
        if entry.get("key") != key:
            begin = time.process_time()
            entry = {"key": key, **asdict(ask_oracle(maker, per_decade, steps))}
            kept[maker.name] = entry
            write_cache(cache, kept)
            print(f"oracle of {maker.name}: {time.process_time() - begin:.0f} s", flush=True)
        found[maker.name] = Oracle(**{name: value for name, value in entry.items() if name != "key"})
    return found


# --- the recipe -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A recipe, and the test losses of trainings with it, ``[fresh seeds]``."""

    recipe: clrfast.Recipe
    losses: list[float]


def found(maker: TaskMaker, seed: int, budget: float, oracle: Oracle, kept: Path | None) -> Found:
    """A search, or the one that is in the folder ``kept``, and trainings to the end with what it found."""
    task, steps = maker.make(seed), int(oracle.steps)
    saved = None if kept is None else kept / f"{maker.name}-{seed}-{budget:g}.json"
    given = clrfast.Task(task.model, task.loss_fn, task.loader(), [halves(task)[0]])
    torch.manual_seed(seed)
    recipe = clrfast.find_recipe(given, max(int(budget * oracle.cost), MIN_BUDGET), planned_steps=steps, saved=saved)
    fresh = (maker.make(seed) for seed in FRESH_SEEDS)
    return Found(recipe, [final_loss(task, recipe.optimizer(task.model, steps), steps) for task in fresh])


def reached(default: float, best: float, score: float) -> float | None:
    """None where the default is the best cell, so that there is nothing to reach."""
    return _rounded((default - score) / (default - best)) if default > best else None


def task_rows(of: tuple[str, Oracle], budgets: Iterable[float], seeds: Iterable[int], kept: Path | None) -> list[Row]:
    """One for each budget."""
    name, oracle = of
    maker = next(half[name] for half in HALVES.values() if name in half)
    by_seed = [fresh_losses(maker, *cell, int(oracle.steps)) for cell in oracle.best_by_seed()]
    return [
        task_row(name, oracle, by_seed, budget, [found(maker, seed, budget, oracle, kept) for seed in seeds])
        for budget in budgets
    ]


def task_row(name: str, oracle: Oracle, by_seed: list[list[float]], budget: float, searches: list[Found]) -> Row:
    """``by_seed``: fresh losses of what each of the grid's seeds would choose."""
    scores = [oracle.fresh(search.losses) for search in searches]
    best, (best_lr, best_decay) = oracle.best()
    defaults = [oracle.fresh(losses) for losses in oracle.fresh_defaults]
    default, best_default = statistics.mean(defaults), min(defaults)
    recipes = [search.recipe for search in searches]
    return {
        "benchmark": "recipe_task",
        "task": name,
        "half": next(title for title, half in HALVES.items() if name in half),
        "steps": int(oracle.steps),
        "untrained": _rounded(statistics.mean(oracle.fresh_untrained)),
        "default": _rounded(default),
        "best_default": _rounded(best_default),
        "best": _rounded(best),
        "best_lr": _rounded(best_lr),
        "best_weight_decay": best_decay,
        "recipe": _rounded(statistics.mean(scores)),
        "recipes": [_rounded(score) for score in scores],
        "lr": [_rounded(recipe.max_lr) for recipe in recipes],
        "weight_decay": [recipe.weight_decay for recipe in recipes],
        "momentum": [recipe.momentum for recipe in recipes],
        "reached": reached(default, best, statistics.mean(scores)),
        "reached_by_search": [reached(default, best, score) for score in scores],
        "reached_over_best_default": reached(best_default, best, statistics.mean(scores)),
        "reached_by_grid_seed": [reached(default, best, oracle.fresh(losses)) for losses in by_seed],
        "budget": budget,
        "cost": _rounded(max(recipe.steps for recipe in recipes) / oracle.cost),
        "n": len(searches),
        "n_fresh": len(FRESH_SEEDS),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def told(row: Row) -> str:
    over_best = row["reached_over_best_default"]
    each = " ".join(
        f"{lr:.2g}/{decay:g}/{momentum[0]:g}:{'none' if part is None else format(part, '.2f')}"
        for lr, decay, momentum, part in zip(
            row["lr"], row["weight_decay"], row["momentum"], row["reached_by_search"], strict=True
        )
    )
    return (
        f"{row['task']:24}{row['half']:9} {row['untrained']:7.4g} default {row['default']:7.4g} (best "
        f"{row['best_default']:7.4g}) best {row['best']:7.4g} ({row['best_lr']:.2g}/{row['best_weight_decay']:g}) "
        f"recipe {row['recipe']:7.4g} reached {row['reached']} (of best default's "
        f"{'none' if over_best is None else over_best}) budget {row['budget']:g} cost {100 * row['cost']:.1f} %  {each}"
    )
