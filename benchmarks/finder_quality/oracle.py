"""The oracle of learning rates: short 1cycles of every task at every rate of a grid."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import clrfast
from clrfast.training._batches import endless

from ..result_files import read_cache, write_cache
from ..task_library.definition import RegretTask, TaskMaker
from .tasks import available

ORACLE_VERSION = 1
"""Part of the key of the cache: raise it when the runs or the score change."""

ORACLE_SEEDS = 3
PER_DECADE = 8
HOPELESS = 4
"""After so many rates in a row at which no seed's loss stays finite, those above are taken to do the same."""


@dataclass(frozen=True)
class Oracle:
    """What short 1cycles at all rates end with.

    Attributes:
        rates: ascending, ``[n]``.
        losses: final validation loss, ``[seeds][n]``; inf where the run had a loss that is not finite.
        untrained: validation loss before training, ``[seeds]``.
    """

    rates: list[float]
    losses: list[list[float]]
    untrained: list[float]

    def scores(self) -> np.ndarray:
        """Mean over the seeds, ``[n]``; each at most its untrained loss."""
        untrained = np.array(self.untrained)[:, None]
        losses = np.array(self.losses)
        return np.where(losses <= untrained, losses, untrained).mean(0)

    def regrets(self) -> np.ndarray:
        """``[n]``, in [0, 1]."""
        scores = self.scores()
        best = scores.min()
        return (scores - best) / (np.mean(self.untrained) - best)

    def regret(self, lr: float) -> float:
        """Beyond the grid as at its ends."""
        return float(np.interp(math.log(lr), np.log(self.rates), self.regrets()))

    @property
    def best_lr(self) -> float:
        return self.rates[int(self.scores().argmin())]

    def diverges(self) -> np.ndarray:
        """bool ``[n]``. Only above the best rate: below it a run of no effect may well end a hair above its start."""
        bad = (~(np.array(self.losses) <= np.array(self.untrained)[:, None])).any(0)
        return bad & (np.array(self.rates) > self.best_lr)

    def divergent(self, lr: float) -> bool:
        """Whether the run at the next grid rate above diverges; beyond the grid as at its end."""
        above = min(int(np.searchsorted(self.rates, lr * (1 - 1e-9))), len(self.rates) - 1)
        return bool(self.diverges()[above])

    @property
    def edge_lr(self) -> float | None:
        """The smallest grid rate that diverges."""
        bad = np.flatnonzero(self.diverges())
        return self.rates[bad[0]] if len(bad) else None

    def good_range(self, regret: float = 0.05) -> tuple[float, float]:
        """The lowest and highest grid rates around the best one at which the regret stays below ``regret``."""
        good = self.regrets() < regret
        low = high = int(self.scores().argmin())
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(good) and good[high + 1]:
            high += 1
        return self.rates[low], self.rates[high]


def grid(maker: TaskMaker, per_decade: int) -> list[float]:
    n = round((maker.high - maker.low) * per_decade) + 1
    return [float(rate) for rate in np.logspace(maker.low, maker.high, n)]


def bears(task: RegretTask, optimizer: clrfast.SGD, steps: int) -> bool:
    """Train for so many steps; ends with False at the first loss that is not finite."""
    torch.manual_seed(task.seed)  # for dropout, whatever ran before
    task.model.train()
    for _, (inputs, targets) in zip(range(steps), endless(task.loader()), strict=False):
        optimizer.zero_grad()
        loss = task.loss_fn(task.model(inputs), targets)
        if not math.isfinite(loss.item()):
            return False
        loss.backward()
        optimizer.step(loss=loss)
    return True


def final_loss(task: RegretTask, lr: float, steps: int | None = None) -> float:
    """The validation loss after the task's 1cycle up to ``lr``; inf once a loss is not finite."""
    steps = task.steps if steps is None else steps
    optimizer = clrfast.SGD(task.model.parameters(), momentum=0.9, schedule=clrfast.one_cycle(lr, steps))
    if not bears(task, optimizer, steps):
        return math.inf
    final = task.val_loss()
    return final if math.isfinite(final) else math.inf


def _oracle_runs(name: str, seed: int, rates: list[float], steps: int | None) -> tuple[float, list[float], float]:
    """Untrained loss, final losses and CPU seconds of one task and seed."""
    torch.set_num_threads(1)
    begin = time.process_time()
    make = available()[name].make
    losses: list[float] = []
    for rate in rates:
        hopeless = len(losses) >= HOPELESS and all(map(math.isinf, losses[-HOPELESS:]))
        losses.append(math.inf if hopeless else final_loss(make(seed), rate, steps))
    return make(seed).val_loss(), losses, time.process_time() - begin


def oracles(
    makers: Iterable[TaskMaker],
    cache: Path | None,
    *,
    processes: int,
    per_decade: int = PER_DECADE,
    seeds: int = ORACLE_SEEDS,
    steps: int | None = None,
) -> dict[str, Oracle]:
    """The oracle of every task by name: from the cache where its task is unchanged, else computed and kept."""
    kept = read_cache(cache)
    found, missing = {}, []
    for maker in makers:
        key = f"{ORACLE_VERSION}-{per_decade}-{seeds}-{maker.digest()}"
        entry = kept.get(maker.name)
        if entry is not None and entry["key"] == key:
            found[maker.name] = Oracle(**{name: value for name, value in entry.items() if name != "key"})
        else:
            missing.append((maker, key))
    if not missing:
        return found
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {
            (maker.name, seed): pool.submit(_oracle_runs, maker.name, seed, grid(maker, per_decade), steps)
            for maker, _ in missing
            for seed in range(seeds)
        }
        for maker, key in missing:
            untrained, losses, seconds = zip(
                *(running[maker.name, seed].result() for seed in range(seeds)), strict=True
            )
            oracle = Oracle(grid(maker, per_decade), list(losses), list(untrained))
            found[maker.name] = oracle
            print(f"oracle of {maker.name:26} {describe(oracle)}  {sum(seconds):.0f} s", flush=True)
            kept[maker.name] = {"key": key, **asdict(oracle)}
            write_cache(cache, kept)
    return found


def describe(oracle: Oracle) -> str:
    low, high = oracle.good_range()
    edge = "none" if oracle.edge_lr is None else f"{oracle.edge_lr:.2g}"
    return (
        f"best rate {oracle.best_lr:8.2g} (regret < 0.05 from {low:8.2g} to {high:8.2g})  edge {edge:>8}"
        f"  loss {np.mean(oracle.untrained):9.4g} -> {oracle.scores().min():9.4g}"
    )
