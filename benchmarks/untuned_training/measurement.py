"""Runs the contenders on tasks, in several processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from ..finder_quality.regret import RegretCurve
from ..peer_packages import name_and_version, why_missing
from ..result_files import Row
from ..task_library.definition import TaskDefinition
from .contenders import CONTENDERS
from .rows import task_row
from .training import Outcome, run


def installed(names: list[str]) -> list[str]:
    """Return the contenders whose packages are installed, and print which ones are left out."""
    found = []
    for name in names:
        if reason := why_missing((CONTENDERS[name].module,)):
            print(f"{name}: left out, {reason}")
        else:
            found.append(name)
    return found


def measure_all(
    definitions: list[TaskDefinition],
    names: list[str],
    seeds: range,
    steps: int | None,
    processes: int,
    curves: dict[str, RegretCurve],
) -> Iterator[list[Row]]:
    """Yield the rows of the contenders ``names`` for each task. Every training runs on one thread."""
    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), **one_thread) as pool:
        running = {
            task.name: [pool.submit(measure, task, names, seed, steps) for seed in seeds] for task in definitions
        }
        for definition in definitions:
            by_seed = [future.result() for future in running[definition.name]]
            n_steps = definition.make(0).steps if steps is None else steps
            rows = []
            for name in names:
                outcomes, seconds = zip(*(found[name] for found in by_seed), strict=True)
                package = name_and_version(CONTENDERS[name].module)
                curve = curves[definition.name]
                rows.append(task_row(name, package, definition.name, n_steps, curve, list(outcomes), sum(seconds)))
            yield rows


def measure(
    definition: TaskDefinition, names: list[str], seed: int, steps: int | None
) -> dict[str, tuple[Outcome, float]]:
    """Return the outcome of each contender on a fresh task, and the CPU seconds that it took."""
    found = {}
    for name in names:
        task = definition.make(seed)
        begin = time.process_time()
        outcome = run(CONTENDERS[name], task, task.steps if steps is None else steps)
        found[name] = outcome, time.process_time() - begin
    return found
