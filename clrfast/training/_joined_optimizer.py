"""JoinedOptimizer optimizers as one, for models whose parts are trained by one each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..optim import SGD

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]


class JoinedOptimizer(torch.optim.Optimizer):
    """Steps all of ``optimizers``, whose groups, the very same dicts, are its own.

    Raises:
        ValueError: a parameter that two of them have, or one of them follows a schedule of its own.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        for optimizer in optimizers:
            if isinstance(optimizer, SGD) and optimizer.control is not None:
                raise ValueError(
                    "optimizer: got several, and one of them is a clrfast.SGD with a schedule, which would go on with "
                    "its own rates; give it without"
                )
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        try:
            super().__init__([dict(group) for group in groups], {})
        except ValueError as error:
            raise ValueError(f"optimizer: got several that do not go together: {error}") from error
        self.param_groups = groups
        self.optimizers = tuple(optimizers)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of each; without a closure."""
        for optimizer in self.optimizers:
            optimizer.step()


def join_optimizers(optimizer: Any) -> Any:
    """A list or tuple of optimizers as one; everything else is returned unchanged."""
    if not isinstance(optimizer, list | tuple):
        return optimizer
    if not optimizer or not all(isinstance(each, torch.optim.Optimizer) for each in optimizer):
        kinds = [type(each).__name__ for each in optimizer]
        raise ValueError(f"optimizer: got a list of {kinds}; give one torch optimizer, or a list of them")
    return optimizer[0] if len(optimizer) == 1 else JoinedOptimizer(optimizer)


def split_optimizer(optimizer: torch.optim.Optimizer | None) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers that ``optimizer`` stands for: none, itself, or several."""
    if optimizer is None:
        return ()
    return optimizer.optimizers if isinstance(optimizer, JoinedOptimizer) else (optimizer,)
