"""Joins several optimizers into one, for a model whose parts have separate optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..optim import FusedOptimizer

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
"""One optimizer, or several that are stepped together."""


class JoinedOptimizer(torch.optim.Optimizer):
    """Steps all of ``optimizers``. Its ``param_groups`` lists their groups, the same dicts.

    Raises:
        ValueError: two of them share a parameter, or one of them follows a schedule.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        for optimizer in optimizers:
            if isinstance(optimizer, FusedOptimizer) and optimizer.control is not None:
                raise ValueError(
                    f"optimizer: got several, and one of them is a clrfast.{type(optimizer).__name__} with a schedule, "
                    "which would keep its own rates; give it without"
                )
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        try:
            super().__init__([dict(group) for group in groups], {})
        except ValueError as error:
            raise ValueError(f"optimizer: got several that cannot be combined: {error}") from error
        self.param_groups = groups
        self.optimizers = tuple(optimizers)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Step each optimizer once; the closure is ignored."""
        for optimizer in self.optimizers:
            optimizer.step()


def join_optimizers(optimizer: Any) -> Any:
    """Return a list or tuple of optimizers as one optimizer; anything else is returned unchanged.

    Raises:
        ValueError: the list is empty or holds something else, or its optimizers cannot be joined.
    """
    if not isinstance(optimizer, list | tuple):
        return optimizer
    if not optimizer or not all(isinstance(each, torch.optim.Optimizer) for each in optimizer):
        kinds = [type(each).__name__ for each in optimizer]
        raise ValueError(f"optimizer: got a list of {kinds}; give one torch optimizer, or a list of them")
    return optimizer[0] if len(optimizer) == 1 else JoinedOptimizer(optimizer)


def split_optimizer(optimizer: torch.optim.Optimizer | None) -> tuple[torch.optim.Optimizer, ...]:
    """Return the joined optimizers, or the optimizer alone if it is not a joined one, or () for None."""
    if optimizer is None:
        return ()
    return optimizer.optimizers if isinstance(optimizer, JoinedOptimizer) else (optimizer,)
