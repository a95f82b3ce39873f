"""The optimizers that sweeps and the training of tasks make: SGD, or what the caller's function returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor

from ..optim import SGD, FusedOptimizer
from ..schedules import Schedule

MakeOptimizer = Callable[[Iterable[Tensor]], FusedOptimizer]
"""Function that makes an optimizer of clrfast over the given parameters, such as ``clrfast.AdamW``."""

DEFAULT_MOMENTUM = 0.9
"""Momentum of the SGD that is used when no optimizer is given."""


def resolve_optimizer(make_optimizer: MakeOptimizer | None, momentum: float | None) -> MakeOptimizer:
    """Return ``make_optimizer``; None stands for ``clrfast.SGD`` with ``momentum``, or else with 0.9.

    Raises:
        ValueError: it is not a function, or both arguments are given.
    """
    if make_optimizer is None:
        return partial(SGD, momentum=DEFAULT_MOMENTUM if momentum is None else momentum)
    if not callable(make_optimizer):
        raise ValueError(
            f"make_optimizer: got {type(make_optimizer).__name__}; give a function of the parameters, for example "
            "clrfast.AdamW"
        )
    if momentum is not None:
        raise ValueError(
            f"momentum: got {momentum!r}, and make_optimizer decides it; leave it out, or give "
            "functools.partial(clrfast.SGD, momentum=...) as make_optimizer"
        )
    return make_optimizer


def make_scheduled(make_optimizer: MakeOptimizer, params: Iterable[Tensor], schedule: Schedule) -> FusedOptimizer:
    """Make an optimizer over ``params`` that follows ``schedule``.

    Raises:
        ValueError: the function returns something other than an optimizer of clrfast without a schedule, or the
            schedule does not fit it.
    """
    optimizer: Any = make_optimizer(params)
    if not isinstance(optimizer, FusedOptimizer):
        kind = type(optimizer)
        raise ValueError(
            f"make_optimizer: it returned {kind.__module__}.{kind.__qualname__}; return an optimizer of clrfast, whose "
            "schedule is on the device: clrfast.SGD, Adam or AdamW"
        )
    if optimizer.schedule is not None:
        raise ValueError(
            "make_optimizer: it returned an optimizer with a schedule; return one without, because it is given one here"
        )
    optimizer.set_schedule(schedule)
    return optimizer
