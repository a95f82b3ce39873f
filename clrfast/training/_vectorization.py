"""Decides whether a sweep trains its copies stacked or one after the other, by timing both."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch

from . import _graph_cache as graph_cache
from ._batches import cycle_loader
from ._prefetch import prefetch
from ._preservation import preserve_rng_and_loaders
from ._stacked_step import StackedStep, SweepPlan
from ._train_step import TrainStep

Vectorize = bool | Literal["auto"]

TIMED_STEPS = 1
"""Number of timed steps of each kind for "auto". The steps before them load and tune libraries, and capture."""


@dataclass
class StartedSweep:
    """A sweep after its first steps.

    Attributes:
        sequential_reason: why the copies are trained one after the other; None if they are stacked.
        stacked: the step of all copies; None if they are trained one after the other.
        steps: one ``TrainStep`` per copy; None if none has been made yet.
        n_done: number of training steps that each copy has made.
    """

    sequential_reason: str | None
    stacked: StackedStep | None = None
    steps: list[TrainStep] | None = None
    n_done: int = 0

    def remaining(self, loader: Iterable[Any], total_steps: int, device: torch.device) -> Iterator[tuple[int, Any]]:
        """Yield the index and the batch of every remaining step."""
        batches = islice(cycle_loader(loader), self.n_done, None)
        return zip(range(self.n_done, total_steps), prefetch(batches, device), strict=False)


def start_sweep(plan: SweepPlan, loader: Iterable[Any], total_steps: int, vectorize: Vectorize) -> StartedSweep:
    """Choose how to train the copies by making the first steps.

    For "auto", the first steps are sequential and the next ones stacked. All of them are part of the training, because
    the stacked steps continue from the weights and optimizer states of the sequential ones. The loader's order and all
    random states are restored.
    """
    if vectorize is False:
        return StartedSweep("vectorize=False was given")
    if vectorize == "auto" and len(plan.models) == 1:
        return StartedSweep("there is only one copy")
    device = next(plan.models[0].parameters()).device
    untimed = graph_cache.WARM_UP_CALLS + 1 if graph_cache.reason_against_graphs(device) is None else 1
    n_each = untimed + TIMED_STEPS
    if vectorize == "auto" and total_steps <= 2 * n_each:
        return StartedSweep(f"{total_steps} steps are too few to find out which way is faster")
    n_sequential, n_stacked = (n_each, n_each) if vectorize == "auto" else (0, 1)
    steps = plan.make_steps() if n_sequential else []

    def train_each(batch: Any) -> None:
        for step in steps:
            step(batch)

    with preserve_rng_and_loaders(loader), ignore_vmap_warnings():
        batches, load_s = _load(loader, n_sequential + n_stacked)
        sequential_s = _fastest_step_s(train_each, batches[:n_sequential], untimed, device)
        sequential_s += (len(steps) - 1) * load_s  # each copy would load its batches again
        try:
            stacked = StackedStep(plan)
            for optimizer, step in zip(stacked.optimizers, steps, strict=False):
                optimizer.load_state_dict(step.optimizer.state_dict())
            stacked_s = _fastest_step_s(stacked, batches[n_sequential:], untimed, device)
        except Exception as error:
            reason = f"torch.func.vmap cannot run this model or loss ({type(error).__name__}: {_first_line(error)})"
            return StartedSweep(reason, steps=steps, n_done=n_sequential)
    if sequential_s >= stacked_s:
        return StartedSweep(None, stacked, n_done=len(batches))
    stacked.copy_to_models()
    for optimizer, step in zip(stacked.optimizers, steps, strict=True):
        step.optimizer.load_state_dict(optimizer.state_dict())
        step.reset()
    reason = f"one after the other is {stacked_s / sequential_s:.1f} times as fast as vectorized here"
    return StartedSweep(reason, steps=steps, n_done=len(batches))


@contextlib.contextmanager
def ignore_vmap_warnings() -> Iterator[None]:
    """Silence torch's warnings about operations that vmap runs in a loop; their cost is measured instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def _load(loader: Iterable[Any], n: int) -> tuple[list[Any], float]:
    """Return the first ``n`` batches, and the median time in seconds to load one."""
    source, batches, seconds = cycle_loader(loader), [], []
    for _ in range(n):
        start = time.perf_counter()
        batches.append(next(source))
        seconds.append(time.perf_counter() - start)
    return batches, statistics.median(seconds)


def _fastest_step_s(train: Callable[[Any], None], batches: list[Any], untimed: int, device: torch.device) -> float:
    """Train on all ``batches`` and return the time in seconds of the fastest step after the first ``untimed`` ones.

    The time includes the work of the device. It is inf if there are no such steps.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def time_step(batch: Any) -> float:
        wait()
        start = time.perf_counter()
        train(batch)
        wait()
        return time.perf_counter() - start

    return min([time_step(batch) for batch in batches][untimed:], default=math.inf)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
