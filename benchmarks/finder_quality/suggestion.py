"""The suggestion of a finder for a task, and its cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..task_library.definition import BenchmarkTask


@dataclass(frozen=True)
class Suggestion:
    """A finder's suggestion and its cost.

    Attributes:
        lr: None if the finder made no suggestion.
        steps: forward passes in training mode with gradients.
        seconds: wall time of the whole call.
        reason: why there is no suggestion.
        extra_passes: all other forward passes, such as those of a validation.
        is_low_confidence: the finder says that the rate may be wrong.
    """

    lr: float | None
    steps: int
    seconds: float
    reason: str = ""
    extra_passes: int = 0
    is_low_confidence: bool = False


Finder = Callable[[BenchmarkTask, str], dict[str, Suggestion]]
"""``find(task, optimizer)`` returns suggestions by contender: one call of a package may suggest under several rules.

``optimizer`` is a name in ``OPTIMIZERS``.
"""


@dataclass
class PassCounter:
    """Numbers of forward passes: in training mode with gradients, and all others."""

    n: int = 0
    n_extra: int = 0


@contextlib.contextmanager
def count_forward_passes(model: nn.Module) -> Iterator[PassCounter]:
    """Count the model's forward passes: the one measure of cost that fits all finders."""
    counter = PassCounter()

    def count(module: nn.Module, *_: Any) -> None:
        if module.training and torch.is_grad_enabled():
            counter.n += 1
        else:
            counter.n_extra += 1

    handle = model.register_forward_hook(count)
    try:
        yield counter
    finally:
        handle.remove()
