"""The oracle: the final losses of trainings at every learning rate and weight decay of a grid.

Rates and recipes are judged by the best possible result, which takes hours to compute. The file
``results/oracle.json`` keeps it, one entry per task, so that finders and recipes are compared again in minutes. An
entry's key changes with the definition of its task and with the grid; an entry with another key is computed again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .result_files import RESULTS, read_cache, write_cache
from .task_library.definition import BenchmarkTask, TaskDefinition

CACHE = RESULTS / "oracle.json"

VERSION = 1
"""Part of the cache's keys; raise it when the trainings change."""

NO_EFFECT = 0.05
"""A training that gains less than this fraction of the best gain has almost no effect."""

Cell = list[float]
"""A learning rate and a weight decay."""


@dataclass(frozen=True)
class Grid:
    """The trainings of an oracle, and how it judges them.

    Attributes:
        name: prefix of the entries in the cache.
        train: ``train(task, lr, weight_decay, steps) -> final loss``; inf once a loss is not finite.
        evaluate: ``evaluate(task) -> loss`` without any training.
        rates_per_decade: learning rates per decade, both ends of the range included.
        weight_decays: ascending.
        seeds: of the trainings at every cell.
        max_failed_rates: after this many consecutive rates at which every training diverged, higher rates are not
            trained; they count as diverged.
        rate_range: log10 of the lowest and the highest rate, for all tasks; None: those of each task's definition.
        first_lr: the rate that is trained first, to save time. From there upwards, a loss that ends above the untrained
            one counts as diverged, if a lower rate's did not. Downwards, the trainings end at two rates that have
            almost no effect; the losses of lower rates count as untrained. None: all rates are trained.
        n_retrained: best cells that are trained again with ``retraining_seeds``.
        default_cells: trained with ``retraining_seeds``, too.
        retraining_seeds: differ from ``seeds``.
    """

    name: str
    train: Callable[[BenchmarkTask, float, float, int], float]
    evaluate: Callable[[BenchmarkTask], float]
    rates_per_decade: int
    weight_decays: tuple[float, ...]
    seeds: range
    max_failed_rates: int
    rate_range: tuple[float, float] | None = None
    first_lr: float | None = None
    n_retrained: int = 0
    default_cells: tuple[tuple[float, float], ...] = ()
    retraining_seeds: range = range(0)

    def rates(self, definition: TaskDefinition) -> list[float]:
        low, high = self.rate_range or (definition.low, definition.high)
        n = round((high - low) * self.rates_per_decade) + 1
        return [float(rate) for rate in np.logspace(low, high, n)]

    def key(self, definition: TaskDefinition) -> str:
        shape = f"{self.rates_per_decade}-{len(self.weight_decays)}-{len(self.seeds)}"
        return f"{VERSION}-{shape}-{definition.digest(self.rate_range)}"

    def entry_name(self, definition: TaskDefinition) -> str:
        return f"{self.name}/{definition.name}"


@dataclass(frozen=True)
class Retraining:
    """Trainings of the best cells and of the default cells with fresh seeds.

    The lowest of many noisy losses is too low, and at the edge of stability the best cell may diverge with the next
    seed. The losses here had no part in the choice of the cells.

    Attributes:
        untrained: loss before training, ``[seeds]``.
        best_cells: the cells with the lowest scores on the grid.
        best_losses: their final losses, ``[cells][seeds]``.
        default_losses: final losses of the default cells, ``[cells][seeds]``.
    """

    untrained: list[float]
    best_cells: list[Cell]
    best_losses: list[list[float]]
    default_losses: list[list[float]]


@dataclass(frozen=True)
class Oracle:
    """Final losses of a task's trainings over a grid; inf where a loss was not finite.

    Attributes:
        steps: updates of each training.
        rates: learning rates, ascending.
        weight_decays: ascending.
        losses: ``[seeds][rates][decays]``.
        untrained: loss before training, ``[seeds]``.
        retraining: None if the grid has no fresh seeds.
    """

    steps: int
    rates: list[float]
    weight_decays: list[float]
    losses: list[list[list[float]]]
    untrained: list[float]
    retraining: Retraining | None = None

    def scores(self) -> np.ndarray:
        """Return the mean loss over the seeds, ``[rates, decays]``.

        A training that diverges or ends above its untrained loss counts as untrained.
        """
        return scores(self.losses, self.untrained)

    @classmethod
    def from_entry(cls, entry: dict[str, Any]) -> Oracle:
        """Return the oracle that an entry of the cache holds."""
        values = {name: value for name, value in entry.items() if name not in ("key", "retraining")}
        retraining = entry["retraining"]
        values["steps"] = int(values["steps"])
        return cls(**values, retraining=None if retraining is None else Retraining(**retraining))


def scores(losses: list[list[list[float]]], untrained: list[float]) -> np.ndarray:
    """Return ``Oracle.scores`` of these losses."""
    start, end = np.array(untrained)[:, None, None], np.array(losses)
    return np.where(end <= start, end, start).mean(0)


def cached_oracles(name: str, cache: Path = CACHE) -> dict[str, Oracle]:
    """Return all oracles of the grid ``name`` that the cache holds, by task name, whatever their keys."""
    entries = {entry_name.partition("/"): entry for entry_name, entry in read_cache(cache).items()}
    return {task: Oracle.from_entry(entry) for (grid, _, task), entry in entries.items() if grid == name}


def find_oracles(
    definitions: Iterable[TaskDefinition],
    grid: Grid,
    cache: Path | None = CACHE,
    *,
    processes: int = 1,
    steps: int | None = None,
) -> dict[str, Oracle]:
    """Return the oracle of every task by name: from the cache if its key is current, else computed and kept.

    Args:
        cache: None computes every oracle and keeps none.
        processes: that share the trainings.
        steps: updates of each training; by default those of the task.
    """
    entries, found, missing = read_cache(cache), {}, []
    for definition in definitions:
        entry = entries.get(grid.entry_name(definition), {})
        if entry.get("key") == grid.key(definition):
            found[definition.name] = Oracle.from_entry(entry)
        else:
            missing.append(definition)
    if missing:
        for definition, oracle in _compute(missing, grid, processes, steps):
            found[definition.name] = oracle
            entries[grid.entry_name(definition)] = {"key": grid.key(definition), **asdict(oracle)}
            write_cache(cache, entries)
    return found


def _compute(
    definitions: list[TaskDefinition], grid: Grid, processes: int, steps: int | None
) -> Iterable[tuple[TaskDefinition, Oracle]]:
    """Yield each task with its oracle. Every training runs on one thread."""
    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), **one_thread) as pool:
        running: dict[str, list[Future[tuple[float, list[list[float]], float]]]] = {
            definition.name: [pool.submit(_train_grid, definition, grid, seed, steps) for seed in grid.seeds]
            for definition in definitions
        }
        for definition in definitions:
            results = [future.result() for future in running[definition.name]]
            untrained, losses = [start for start, _, _ in results], [end for _, end, _ in results]
            seconds = sum(elapsed for _, _, elapsed in results)
            retraining = None
            if grid.n_retrained:
                cells = _best_cells(definition, grid, losses, untrained)
                retraining, elapsed = pool.submit(_retrain, definition, grid, cells, steps).result()
                seconds += elapsed
            print(f"oracle of {definition.name:26} {seconds:.0f} s", flush=True)
            n_steps = definition.make(0).steps if steps is None else steps
            rates, decays = grid.rates(definition), list(grid.weight_decays)
            yield definition, Oracle(n_steps, rates, decays, losses, untrained, retraining)


def _train_grid(
    definition: TaskDefinition, grid: Grid, seed: int, steps: int | None
) -> tuple[float, list[list[float]], float]:
    """Return the untrained loss, the final losses ``[rates][decays]`` and the CPU seconds of one seed."""
    begin = time.process_time()
    untrained = grid.evaluate(definition.make(seed))
    rates = grid.rates(definition)
    first = 0 if grid.first_lr is None else int(np.searchsorted(rates, grid.first_lr * (1 - 1e-9)))

    def losses_at(lr: float) -> list[float]:
        return [_train(definition, grid, seed, [lr, decay], steps) for decay in grid.weight_decays]

    above = _until_failure(map(losses_at, rates[first:]), grid, untrained)
    above += [[math.inf] * len(grid.weight_decays)] * (len(rates) - first - len(above))
    below = _until_no_effect(map(losses_at, rates[:first][::-1]), untrained, min(map(min, above)))
    below += [[untrained] * len(grid.weight_decays)] * (first - len(below))
    return untrained, below[::-1] + above, time.process_time() - begin


def _until_failure(losses: Iterable[list[float]], grid: Grid, untrained: float) -> list[list[float]]:
    """Return the losses at ascending rates, up to ``max_failed_rates`` failures in a row."""
    found: list[list[float]] = []
    n_failed = 0
    highest = math.inf  # of a training that has not failed
    for row in losses:
        found.append(row)
        best = min(row)
        if grid.first_lr is not None and best <= untrained:
            highest = untrained
        n_failed = n_failed + 1 if math.isinf(best) or best > highest else 0
        if n_failed == grid.max_failed_rates:
            break
    return found


def _until_no_effect(losses: Iterable[list[float]], untrained: float, best: float) -> list[list[float]]:
    """Return the losses at descending rates, up to two in a row that gain almost nothing."""
    found: list[list[float]] = []
    n_without = 0
    for row in losses:
        found.append(row)
        best = min(best, *row)
        n_without = n_without + 1 if untrained - min(row) < NO_EFFECT * (untrained - best) else 0
        if n_without == 2:
            break
    return found


def _retrain(definition: TaskDefinition, grid: Grid, cells: list[Cell], steps: int | None) -> tuple[Retraining, float]:
    """Train ``cells`` and the default cells with fresh seeds; return the CPU seconds, too."""
    begin = time.process_time()
    best, default = (
        [[_train(definition, grid, seed, list(cell), steps) for seed in grid.retraining_seeds] for cell in each]
        for each in (cells, grid.default_cells)
    )
    untrained = [grid.evaluate(definition.make(seed)) for seed in grid.retraining_seeds]
    return Retraining(untrained, cells, best, default), time.process_time() - begin


def _best_cells(
    definition: TaskDefinition, grid: Grid, losses: list[list[list[float]]], untrained: list[float]
) -> list[Cell]:
    order = np.argsort(scores(losses, untrained), axis=None, kind="stable")[: grid.n_retrained]
    rates, decays = grid.rates(definition), grid.weight_decays
    return [[rates[at // len(decays)], decays[at % len(decays)]] for at in order]


def _train(definition: TaskDefinition, grid: Grid, seed: int, cell: Cell, steps: int | None) -> float:
    task = definition.make(seed)
    return grid.train(task, *cell, task.steps if steps is None else steps)
