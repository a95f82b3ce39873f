"""The finders that are compared: clrfast's own and those of other packages."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

import clrfast
from clrfast.training._batches import cycle_loader

from ..task_library.definition import BenchmarkTask, TaskDefinition
from .optimizers import OPTIMIZERS
from .peers import PEERS
from .suggestion import Finder, Suggestion, count_forward_passes
from .tasks.development import DEVELOPMENT

BARE_STEPS = 100
"""Steps of the bare training loop that a finder's wall time is compared with."""

ANY_LR = 1e-3
"""The rate of the optimizers that clrfast's finders get; the ramp replaces it."""

RULES = ("edge", "steepest", "valley", "slide", "minimum_tenth")
"""Suggestion rules for the ramp alone: clrfast's own and those of other finders."""


def find_lr(task: BenchmarkTask, optimizer: str, method: str | None = None, **options: Any) -> clrfast.Suggestion:
    """Suggest a rate with clrfast, which makes its own optimizer for SGD.

    Args:
        optimizer: name in ``OPTIMIZERS``.
        method: of ``LRCurve.suggest``.
        options: of ``range_test``.
    """
    own = None if optimizer == "sgd" else OPTIMIZERS[optimizer].make(task, ANY_LR)
    return clrfast.range_test(task.model, task.loss_fn, task.loader(), optimizer=own, **options).suggest(method)


def _finder(name: str, **options: Any) -> Finder:
    """Wrap ``find_lr`` with ``options``: measure its cost; NoSuggestionError means no suggestion."""

    def suggest(task: BenchmarkTask, optimizer: str) -> dict[str, Suggestion]:
        begin = time.perf_counter()
        lr, reason, is_low_confidence = None, "", False
        with count_forward_passes(task.model) as passes:
            try:
                found = find_lr(task, optimizer, **options)
                lr, is_low_confidence = found.max_lr, found.confidence == "low"
            except clrfast.NoSuggestionError as error:
                reason = str(error)
        seconds = time.perf_counter() - begin
        return {name: Suggestion(lr, passes.n, seconds, reason, passes.n_extra, is_low_confidence)}

    return suggest


CONTENDERS: dict[str, Finder] = {
    "clrfast": _finder("clrfast"),
    "clrfast thorough": _finder("clrfast thorough", trials="thorough"),
    **{f"clrfast {rule}": _finder(f"clrfast {rule}", method=rule, trials=False) for rule in RULES},
    **PEERS,
}
"""Finders by name. One finder may suggest for several contenders, such as the rules of fastai."""


@dataclass(frozen=True)
class Measurement:
    """One suggestion of one contender.

    Attributes:
        bare_seconds: wall time of ``BARE_STEPS`` steps of a bare training loop on the same task.
    """

    contender: str
    task: str
    seed: int
    suggestion: Suggestion
    bare_seconds: float


def measure(definition: TaskDefinition, seed: int, optimizer: str, wanted: set[str]) -> list[Measurement]:
    """Run the finders on one task with one seed, each on a fresh model.

    Args:
        optimizer: name in ``OPTIMIZERS``.
        wanted: names in ``CONTENDERS``.
    """
    make = definition.make
    found: dict[str, Suggestion] = {}
    bare = [bare_seconds(make(seed), optimizer)]
    for call_name, suggest in CONTENDERS.items():
        if call_name in wanted:
            torch.manual_seed(seed)
            found |= suggest(make(seed), optimizer)
    bare.append(bare_seconds(make(seed), optimizer))
    mean = statistics.mean(bare)
    return [Measurement(contender, definition.name, seed, each, mean) for contender, each in found.items()]


def warm_up(optimizer: str) -> None:
    """Call every finder once, untimed: the first call in a process imports and loads."""
    torch.set_num_threads(1)
    make = DEVELOPMENT["iris_mlp"].make
    bare_seconds(make(0), optimizer)
    for suggest in CONTENDERS.values():
        with contextlib.suppress(Exception):
            suggest(make(0), optimizer)


def bare_seconds(task: BenchmarkTask, optimizer: str) -> float:
    """Return the wall time of ``BARE_STEPS`` training steps without anything around them."""
    bare_optimizer = OPTIMIZERS[optimizer].make(task, 1e-7)
    task.model.train()
    begin = time.perf_counter()
    for _, (inputs, targets) in zip(range(BARE_STEPS), cycle_loader(task.loader()), strict=False):
        bare_optimizer.zero_grad()
        task.loss_fn(task.model(inputs), targets).backward()
        bare_optimizer.step()
    return time.perf_counter() - begin
