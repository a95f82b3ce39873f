"""The finders that are compared: clrfast's own and those of other packages."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import clrfast
from clrfast.training._batches import cycle_loader

from ..task_library.definition import BenchmarkTask, TaskDefinition
from .peers import PEERS
from .suggestion import Finder, Suggestion, count_forward_passes
from .tasks.development import DEVELOPMENT

BARE_STEPS = 100
"""Steps of the bare training loop that a finder's wall time is compared with."""

RULES = ("steepest", "valley", "slide", "minimum_tenth")
"""Suggestion rules of other finders, applied to clrfast's curve."""


def _default(task: BenchmarkTask) -> float:
    return clrfast.range_test(task.model, task.loss_fn, task.loader()).suggest().max_lr


def _by_rule(task: BenchmarkTask, rule: str) -> float:
    return clrfast.range_test(task.model, task.loss_fn, task.loader()).suggest(rule).max_lr


def _thorough(task: BenchmarkTask) -> float:
    return clrfast.trial_cycles(task.model, task.loss_fn, task.loader()).suggest().max_lr


def _finder(name: str, find: Callable[[BenchmarkTask], float]) -> Finder:
    """Wrap ``find``: measure its cost; NoSuggestionError means no suggestion."""

    def suggest(task: BenchmarkTask) -> dict[str, Suggestion]:
        begin = time.perf_counter()
        with count_forward_passes(task.model) as passes:
            try:
                lr, reason = find(task), ""
            except clrfast.NoSuggestionError as error:
                lr, reason = None, str(error)
        return {name: Suggestion(lr, passes.n, time.perf_counter() - begin, reason)}

    return suggest


CONTENDERS: dict[str, Finder] = {
    "clrfast": _finder("clrfast", _default),
    "clrfast thorough": _finder("clrfast thorough", _thorough),
    **{f"clrfast {rule}": _finder(f"clrfast {rule}", partial(_by_rule, rule=rule)) for rule in RULES},
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


def measure(definition: TaskDefinition, seed: int, wanted: set[str]) -> list[Measurement]:
    """Run the finders on one task with one seed, each on a fresh model.

    Args:
        wanted: names in ``CONTENDERS``.
    """
    make = definition.make
    found: dict[str, Suggestion] = {}
    bare = [bare_seconds(make(seed))]
    for call_name, suggest in CONTENDERS.items():
        if call_name in wanted:
            torch.manual_seed(seed)
            found |= suggest(make(seed))
    bare.append(bare_seconds(make(seed)))
    mean = statistics.mean(bare)
    return [Measurement(contender, definition.name, seed, each, mean) for contender, each in found.items()]


def warm_up() -> None:
    """Call every finder once, untimed: the first call in a process imports and loads."""
    torch.set_num_threads(1)
    make = DEVELOPMENT["iris_mlp"].make
    bare_seconds(make(0))
    for suggest in CONTENDERS.values():
        with contextlib.suppress(Exception):
            suggest(make(0))


def bare_seconds(task: BenchmarkTask) -> float:
    """Return the wall time of ``BARE_STEPS`` training steps without anything around them."""
    optimizer = torch.optim.SGD(task.model.parameters(), lr=1e-7, momentum=0.9)
    task.model.train()
    begin = time.perf_counter()
    for _, (inputs, targets) in zip(range(BARE_STEPS), cycle_loader(task.loader()), strict=False):
        optimizer.zero_grad()
        task.loss_fn(task.model(inputs), targets).backward()
        optimizer.step()
    return time.perf_counter() - begin
