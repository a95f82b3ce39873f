"""The suggestion of a finder for a task, and its cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..task_library.definition import BenchmarkTask


@dataclass(frozen=True)
class Suggestion:
    """A finder's suggestion and its cost.

    Attributes:
        lr: None if the finder made no suggestion.
        steps: forward passes in training mode.
        seconds: wall time of the whole call.
        reason: why there is no suggestion.
    """

    lr: float | None
    steps: int
    seconds: float
    reason: str = ""


Finder = Callable[[BenchmarkTask], dict[str, Suggestion]]
"""Returns suggestions by contender: one call of a package may suggest under several rules."""


@dataclass
class PassCounter:
    """Number of forward passes in training mode."""

    n: int = 0


@contextlib.contextmanager
def count_forward_passes(model: nn.Module) -> Iterator[PassCounter]:
    """Count the model's forward passes in training mode: the one measure of cost that fits all finders."""
    counter = PassCounter()

    def count(module: nn.Module, *_: Any) -> None:
        counter.n += module.training

    handle = model.register_forward_hook(count)
    try:
        yield counter
    finally:
        handle.remove()
