"""What the training that follows a suggested learning rate is worth: every finder against an oracle.

python -m benchmarks.regret --results benchmarks/results

The oracle trains the short 1cycle of every task at every rate of a grid, 8 a decade, with 3 seeds, and keeps what it
found in regret_oracle.json, so that finders are compared again in minutes:

    score(lr)  = mean over the seeds of the final validation loss, at most the untrained one; linear in log lr
    regret(lr) = (score(lr) - best) / (untrained - best)     0: the best rate there is, 1: as bad as not training

A rate is divergent if the run at the next grid rate above it ends with a loss that is not finite or above the untrained
one, with any of the seeds. Suggestions are made with other seeds than the oracle's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clrfast
from clrfast.training._batches import endless

from . import measure
from .peers import PEERS, Answer, forward_passes
from .regret_tasks import HALVES, RegretTask, TaskMaker, available

ORACLE_VERSION = 1
"""Part of the key of the cache: raise it when the runs or the score change."""

ORACLE_SEEDS = 3
FINDER_SEED = 100
"""The first seed of the finders; far from the oracle's."""

PER_DECADE = 8
HOPELESS = 4
"""After so many rates in a row at which no seed's loss stays finite, those above are taken to do the same."""

BARE_STEPS = 100


# --- the oracle -------------------------------------------------------------------------------------------------------


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
    kept = measure.kept(cache)
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
            print(f"oracle of {maker.name:26} {_described(oracle)}  {sum(seconds):.0f} s", flush=True)
            kept[maker.name] = {"key": key, **asdict(oracle)}
            measure.keep(cache, kept)
    return found


def _described(oracle: Oracle) -> str:
    low, high = oracle.good_range()
    edge = "none" if oracle.edge_lr is None else f"{oracle.edge_lr:.2g}"
    return (
        f"best rate {oracle.best_lr:8.2g} (regret < 0.05 from {low:8.2g} to {high:8.2g})  edge {edge:>8}"
        f"  loss {np.mean(oracle.untrained):9.4g} -> {oracle.scores().min():9.4g}"
    )


# --- the contenders ---------------------------------------------------------------------------------------------------


def clrfast_default(task: RegretTask) -> float:
    return clrfast.range_test(task.model, task.loss_fn, task.loader()).suggest().max_lr


def clrfast_method(task: RegretTask, method: str) -> float:
    """A suggestion of another name over the same kind of sweep."""
    return clrfast.range_test(task.model, task.loss_fn, task.loader()).suggest(method).max_lr


def clrfast_thorough(task: RegretTask) -> float:
    return clrfast.trial_cycles(task.model, task.loss_fn, task.loader()).suggest().max_lr


METHODS = ("steepest", "valley", "slide", "minimum_tenth")

CLRFAST: dict[str, Callable[[RegretTask], float]] = {
    "clrfast": clrfast_default,
    "clrfast thorough": clrfast_thorough,
    **{f"clrfast {method}": partial(clrfast_method, method=method) for method in METHODS},
}
"""Our own finders, ``task -> rate``; NoSuggestionError is no answer."""


def _of_clrfast(name: str, task: RegretTask) -> dict[str, Answer]:
    begin = time.perf_counter()
    with forward_passes(task) as passes:
        try:
            rate, reason = CLRFAST[name](task), ""
        except clrfast.NoSuggestionError as error:
            rate, reason = None, str(error)
    return {name: Answer(rate, passes.n, time.perf_counter() - begin, reason)}


def contenders() -> dict[str, Callable[[RegretTask], dict[str, Answer]]]:
    """``task -> answers by name``: one call may answer under several names."""
    return {**{name: partial(_of_clrfast, name) for name in CLRFAST}, **PEERS}


def _warm_up() -> None:
    """Every contender's first call in a process loads what later ones have: none is timed by it."""
    torch.set_num_threads(1)
    make = available()["iris_mlp"].make
    bare_seconds(make(0))
    for call in contenders().values():
        with contextlib.suppress(Exception):
            call(make(0))


def bare_seconds(task: RegretTask) -> float:
    """100 training steps with nothing around them."""
    optimizer = torch.optim.SGD(task.model.parameters(), lr=1e-7, momentum=0.9)
    task.model.train()
    begin = time.perf_counter()
    for _, (inputs, targets) in zip(range(BARE_STEPS), endless(task.loader()), strict=False):
        optimizer.zero_grad()
        task.loss_fn(task.model(inputs), targets).backward()
        optimizer.step()
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Asked:
    """One answer of one contender."""

    contender: str
    task: str
    seed: int
    answer: Answer
    bare_seconds: float


def ask(name: str, seed: int, wanted: set[str] | None) -> list[Asked]:
    """All contenders' answers for one task and seed; each gets a fresh model."""
    make = available()[name].make
    answers: dict[str, Answer] = {}
    bare = [bare_seconds(make(seed))]
    for call_name, call in contenders().items():
        if wanted is None or call_name in wanted:
            torch.manual_seed(seed)
            answers |= call(make(seed))
    bare.append(bare_seconds(make(seed)))
    return [Asked(contender, name, seed, answer, statistics.mean(bare)) for contender, answer in answers.items()]


# --- the report -------------------------------------------------------------------------------------------------------


def task_row(contender: str, oracle: Oracle, asked: list[Asked]) -> dict[str, Any]:
    """One contender on one task, over its seeds; figures are of its answers, and None where it gave none."""
    task = asked[0].task
    rates = [a.answer.rate for a in asked if a.answer.rate is not None]
    regrets = [oracle.regret(rate) for rate in rates]
    return {
        "benchmark": "regret_task",
        "commit": measure.commit(),
        "contender": contender,
        "task": task,
        "half": next(title for title, half in HALVES.items() if task in half),
        "suggested": _rounded(statistics.median(rates)) if rates else None,
        "lowest": _rounded(min(rates)) if rates else None,
        "highest": _rounded(max(rates)) if rates else None,
        "regret": _rounded(statistics.mean(regrets)) if rates else None,
        "worst_regret": _rounded(max(regrets)) if rates else None,
        "n_divergent": sum(oracle.divergent(rate) for rate in rates),
        "n_no_answer": len(asked) - len(rates),
        "reasons": sorted({a.answer.reason for a in asked if a.answer.rate is None}),
        "steps": statistics.mean(a.answer.steps for a in asked),
        "seconds": _rounded(sum(a.answer.seconds for a in asked)),
        "bare_seconds": _rounded(sum(a.bare_seconds for a in asked)),
        "best_lr": _rounded(oracle.best_lr),
        "edge_lr": None if oracle.edge_lr is None else _rounded(oracle.edge_lr),
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
        "commit": measure.commit(),
        "contender": contender,
        "tasks": tasks,
        "n_tasks": len(rows),
        "n": n,
        "mean_regret": _rounded(statistics.mean(regrets)) if regrets else None,
        "median_regret": _rounded(statistics.median(regrets)) if regrets else None,
        "worst_regret": _rounded(max(regrets)) if regrets else None,
        "worst_task": max(answered, key=lambda row: row["regret"])["task"] if regrets else None,
        "near_optimal": sum(regret < 0.05 for regret in regrets),
        "divergent": _rounded(sum(row["n_divergent"] for row in rows) / n_answers) if n_answers else None,
        "no_answer": _rounded(1 - n_answers / n),
        "spread": _rounded(max(row["highest"] / row["lowest"] for row in answered)) if regrets else None,
        "steps": _rounded(statistics.mean(row["steps"] for row in rows)),
        "wall_over_bare": _rounded(statistics.median(row["seconds"] / row["bare_seconds"] for row in rows)),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _table(rows: list[dict[str, Any]]) -> str:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", help=f"names of tasks or of {', '.join(HALVES)}; by default all")
    parser.add_argument(
        "--contenders", nargs="+", help="only these calls, by default all; results of others are kept as they are"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, help="folder for the result file")
    parser.add_argument(
        "--oracle", type=Path, default=measure.RESULTS / "regret_oracle.json", help="the oracle's cache"
    )
    parser.add_argument("--oracle-only", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="try all of it on two tasks with a coarse oracle, not kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in the processes that do the work: the result file tells

    every = [name for half in HALVES.values() for name in half]
    wanted = arguments.tasks or (["wine_mlp", "iris_mlp"] if arguments.tiny else every)
    names = [name for given in wanted for name in HALVES.get(given, (given,))]
    makers = available()
    unknown = set(names) - set(every)
    if unknown:
        parser.error(f"--tasks: there are no tasks {sorted(unknown)}; give some of {[*HALVES, *every]}")
    for name in [name for name in names if name not in makers]:
        print(f"{name}: left out, its data is not here")
    names = [name for name in names if name in makers]
    if arguments.contenders and (unknown := set(arguments.contenders) - set(contenders())):
        parser.error(f"--contenders: there are no {sorted(unknown)}; give some of {sorted(contenders())}")

    chosen = [makers[name] for name in names]
    if arguments.tiny:
        found = oracles(chosen, None, processes=arguments.processes, per_decade=2, seeds=1, steps=20)
    else:
        found = oracles(chosen, arguments.oracle, processes=arguments.processes)
    for name in names:
        print(f"{name:26} {_described(found[name])}")
    if arguments.oracle_only:
        return
    rows = compare(found, 1 if arguments.tiny else arguments.seeds, arguments.processes, arguments.contenders)
    if arguments.results is not None:
        path = arguments.results / "regret.json"
        measure.write(path, rows + (_others(path, arguments.contenders) if arguments.contenders else []))


def _others(path: Path, asked: list[str]) -> list[dict[str, Any]]:
    """What was measured before of other contenders."""
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in kept if row["contender"] not in asked]


def compare(
    found: dict[str, Oracle], seeds: int, processes: int, wanted: list[str] | None = None
) -> list[dict[str, Any]]:
    """Ask all contenders, print the tables, return their rows."""
    only = None if wanted is None else set(wanted)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_warm_up) as pool:
        running = [pool.submit(ask, name, FINDER_SEED + seed, only) for name in found for seed in range(seeds)]
        asked = [answer for one in running for answer in one.result()]
    task_rows = [
        task_row(contender, found[name], [a for a in asked if (a.contender, a.task) == (contender, name)])
        for contender in dict.fromkeys(a.contender for a in asked)
        for name in found
    ]
    rows = []
    for title, members in {"all": found, **HALVES}.items():
        of_title = [
            summary_row(contender, title, mine)
            for contender in dict.fromkeys(row["contender"] for row in task_rows)
            if (mine := [row for row in task_rows if row["contender"] == contender and row["task"] in members])
        ]
        if of_title:
            print(f"\n{title}: {of_title[0]['n_tasks']} tasks, {seeds} seeds\n{_table(of_title)}")
        rows += of_title
    print()
    for row in sorted(task_rows, key=lambda row: row["task"]):
        regret = "no answer" if row["regret"] is None else f"{row['suggested']:9.2g}  regret {row['regret']:5.3f}"
        edge = "none" if row["edge_lr"] is None else f"{row['edge_lr']:.2g}"
        print(f"{row['task']:26}{row['contender']:28}{regret:26} best {row['best_lr']:8.2g}  edge {edge:>8}")
    return rows + task_rows


if __name__ == "__main__":
    main()
