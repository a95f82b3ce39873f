"""Everything that suggests a rate: clrfast's own finders and the peers', each with its cost."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import clrfast
from clrfast.training._batches import endless

from ..task_library.definition import RegretTask
from .peers import PEERS, Answer, forward_passes
from .tasks import available

BARE_STEPS = 100


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


def warm_up() -> None:
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
