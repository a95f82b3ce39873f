"""A schedule for any other optimizer: an ordinary torch LR scheduler."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .schedule import Schedule, row_at


class ScheduleLR(LRScheduler):
    """Sets lr, momentum and weight decay of an optimizer's groups to a schedule's values, on the host.

    The values are those of ``schedule.table()``, so a run with ``clrfast.SGD(schedule=...)`` is the same run. For
    optimizers with ``betas`` the momentum goes to the first of them. Past the end the last values stay.

    Args:
        optimizer: any torch optimizer, without a schedule of its own.
        schedule: with ``total_steps``; a quantity that is None is left alone.
        follow_updates: let ``step()`` move the schedule only if ``optimizer.step()`` has run since the last call. For
            loops that call both always: an update that ``GradScaler`` skips, or a micro-batch whose gradients are
            only accumulated, then does not move the schedule.
        last_epoch: as in torch.
    Raises:
        ValueError: the schedule has no ``total_steps``, does not fit the groups, or cycles something that a group
            does not have.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, *, follow_updates: bool = False, last_epoch: int = -1):
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule: got {schedule!r}; give a clrfast.Schedule, for example clrfast.one_cycle(...)")
        if getattr(optimizer, "schedule", None) is not None:
            raise ValueError("optimizer: it follows a schedule of its own already; make it without one")
        schedule.require_groups(len(optimizer.param_groups))
        for index, group in enumerate(optimizer.param_groups):
            if schedule.momentum is not None and not ("momentum" in group or "betas" in group):
                raise ValueError(f"schedule: param_groups[{index}] has neither momentum nor betas; give momentum=None")
            if schedule.weight_decay is not None and "weight_decay" not in group:
                raise ValueError(f"schedule: param_groups[{index}] has no weight_decay; give weight_decay=None")
        self._schedule = schedule.without_functions()
        self._table = schedule.table()
        self._n_groups = len(optimizer.param_groups)
        self._follow_updates = follow_updates
        self._updated = False
        self.optimizer = optimizer
        self._register()
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next row of the table."""
        if self._follow_updates and not self._updated:
            return
        n_groups = len(self.optimizer.param_groups)
        if n_groups != self._n_groups:  # a group was added
            self._schedule.require_groups(n_groups)
            self._n_groups = n_groups
        self._updated = False
        super().step(epoch)

    def _initial_step(self) -> None:
        self._updated = True  # the first row needs no update before it
        super()._initial_step()

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the current row; its momentum and weight decay are written into the groups."""
        rows = row_at(self._table, self.last_epoch)
        rates: list[float | Tensor] = []
        for index, group in enumerate(self.optimizer.param_groups):
            lr, momentum, weight_decay = rows[index if len(rows) > 1 else 0]
            rates.append(lr)
            if self._schedule.momentum is not None:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
            if self._schedule.weight_decay is not None:
                group["weight_decay"] = weight_decay
        return rates

    def state_dict(self) -> dict[str, Any]:
        """The schedule and the step, as plain data."""
        return {
            "schedule": self._schedule.to_dict(),
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "updated": self._updated,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved step, and show its values in the optimizer's groups.

        This scheduler's own schedule stays in force; a warning says so if the saved one differs in more than a
        shorter run. Load the optimizer's state first: it brings the groups' saved values with it.

        Raises:
            ValueError: the state is another scheduler's.
        """
        if "schedule" not in state_dict:
            raise ValueError(
                f"state_dict: it is not a ScheduleLR's (it has {sorted(state_dict)}); load that of the same scheduler"
            )
        if not self._schedule.continues(Schedule.from_dict(state_dict["schedule"])):
            warnings.warn(
                "load_state_dict: the saved schedule differs from the one given; the given one stays in force, "
                "from the saved step on.",
                stacklevel=2,
            )
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        self._updated = state_dict["updated"]
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self._last_lr = [lr.clone() if isinstance(lr, Tensor) else lr for lr in rates]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()  # a copied optimizer has lost its hooks

    def _register(self) -> None:
        """Have the optimizer tell of its updates, without keeping this scheduler alive."""
        if not self._follow_updates:
            return
        reference = weakref.ref(self)

        def note(optimizer: Optimizer, *_: Any) -> None:
            scheduler = reference()
            # GradScaler calls the step of an optimizer that skips by itself; found_inf then says that it did.
            found_inf = getattr(optimizer, "found_inf", None)
            if scheduler is not None and (found_inf is None or not found_inf.item()):
                scheduler._updated = True

        self.optimizer.register_step_post_hook(note)


def as_lr_scheduler(optimizer: Optimizer, schedule: Schedule, *, follow_updates: bool = False) -> ScheduleLR:
    """``schedule`` as a ``torch.optim.lr_scheduler.LRScheduler`` for ``optimizer``; see ``ScheduleLR``.

    Call its ``step()`` after every ``optimizer.step()``, not once an epoch.
    """
    return ScheduleLR(optimizer, schedule, follow_updates=follow_updates)
