"""A torch LR scheduler that follows an optimizer with a schedule of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class FollowLR(LRScheduler):
    """Shows the schedule of a scheduled ``clrfast.SGD`` to a framework that wants a scheduler; it changes nothing.

    ``step()`` may be called at any time and as often as the framework likes: the optimizer moves its schedule itself,
    by one row per applied update, and its own ``state_dict`` holds the position.

    Args:
        optimizer: a ``clrfast.SGD`` with a schedule.
    Raises:
        ValueError: the optimizer has no schedule.
    """

    # Without LRScheduler's own __init__, which writes rates into the groups and wraps optimizer.step.
    def __init__(self, optimizer: Optimizer):
        if getattr(optimizer, "schedule", None) is None:
            raise ValueError(
                f"optimizer: got {type(optimizer).__name__}, which follows no schedule of its own; give "
                "as_lr_scheduler a schedule too, or make clrfast.SGD(schedule=...) and wrap it afterwards"
            )
        self.optimizer = optimizer
        self.base_lrs = self.get_last_lr()
        self._step_count = 1
        self._show_step()

    def step(self, epoch: int | None = None) -> None:
        """Take note of the optimizer's step."""
        self._step_count += 1
        self._show_step()

    def _show_step(self) -> None:
        self.last_epoch = int(self.optimizer.param_groups[0]["schedule_step"])
        self._last_lr = self.get_last_lr()

    def get_last_lr(self) -> list[float | Tensor]:
        """The rate of each group at the next update."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float | Tensor]:
        """As ``get_last_lr``."""
        return self.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """How often ``step`` was called, and the optimizer's step then."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the count of a ``state_dict``. The position of the schedule comes with the optimizer's state.

        Raises:
            ValueError: the state is not a scheduler's.
        """
        missing = {"last_epoch", "_step_count"} - set(state_dict)
        if missing:
            raise ValueError(f"state_dict: it lacks {sorted(missing)}; load what FollowLR.state_dict returned")
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
