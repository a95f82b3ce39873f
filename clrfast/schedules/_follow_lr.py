"""A torch LR scheduler that reports the rate of an optimizer with its own schedule."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class FollowLR(LRScheduler):
    """Presents an optimizer's own schedule to a framework that requires a scheduler; changes nothing.

    ``step()`` may be called at any time: the optimizer advances its schedule itself, by one row per applied update, and
    its own ``state_dict`` has the position.

    Args:
        optimizer: a ``clrfast.SGD``, ``Adam`` or ``AdamW`` with a schedule.
    Raises:
        ValueError: the optimizer has no schedule.
    """

    # Does not call LRScheduler's __init__, which writes rates into the groups and wraps optimizer.step.
    def __init__(self, optimizer: Optimizer):
        if getattr(optimizer, "schedule", None) is None:
            raise ValueError(
                f"optimizer: got {type(optimizer).__name__}, which follows no schedule of its own; give "
                "as_lr_scheduler a schedule too, or make clrfast.SGD(schedule=...) or AdamW and wrap it afterwards"
            )
        self.optimizer = optimizer
        self.base_lrs = self.get_last_lr()
        self._step_count = 1
        self._read_step()

    def step(self, epoch: int | None = None) -> None:
        """Read the optimizer's step."""
        self._step_count += 1
        self._read_step()

    def _read_step(self) -> None:
        self.last_epoch = int(self.optimizer.param_groups[0]["schedule_step"])
        self._last_lr = self.get_last_lr()

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the rate of each group at the next update."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float | Tensor]:
        """Return ``get_last_lr()``."""
        return self.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of calls of ``step`` and the optimizer's step at the last one."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts of ``state_dict``. The position of the schedule comes with the optimizer's state.

        Raises:
            ValueError: the state is not a scheduler's.
        """
        missing = {"last_epoch", "_step_count"} - set(state_dict)
        if missing:
            raise ValueError(f"state_dict: it lacks {sorted(missing)}; load what FollowLR.state_dict returned")
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
