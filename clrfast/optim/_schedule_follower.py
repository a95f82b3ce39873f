"""``ScheduleFollower``: makes an optimizer's parameter groups follow a schedule."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..schedules import QUANTITIES, Schedule
from ..schedules._group_values import momentum_of, quantity_of, set_momentum
from ..schedules._warnings import warn_past_end
from . import _saved_schedule as saved_schedule
from ._control import StepControl
from ._parameters import devices_of

ParamGroups = list[dict[str, Any]]


class FollowingOptimizer(Protocol):
    """The part of an optimizer that a follower uses."""

    param_groups: ParamGroups

    @property
    def backend(self) -> str: ...

    @property
    def control(self) -> StepControl | None: ...

    def step_count_on(self, device: torch.device) -> Tensor: ...

    def require_schedule_fits(self, table: NDArray[np.float32]) -> None: ...

    def forget_updates(self) -> None: ...


class ScheduleFollower:
    """Keeps the parameter groups of an optimizer and the controls on its devices in step with one schedule.

    The groups show what the next update will use. The user may add, remove and reorder groups, and may write another
    "schedule_step" into them, which moves the schedule. A new lr, momentum or weight decay in a group is an error,
    because the schedule would ignore it.

    Args:
        optimizer: its groups are written to.
        schedule: as the user gave it.
        bound: ``schedule`` with one explicit curve per group.

    Attributes:
        given: ``schedule`` with tables in place of functions; it has one curve for all groups, or one per group.
        bound: the schedule with one explicit curve per group.
        controls: one control per device, with equal contents.
        control: the first of them.

    Raises:
        ValueError: the schedule does not fit the groups' options. The optimizer has not changed then.
    """

    controls: dict[torch.device, StepControl]
    control: StepControl
    bound: Schedule

    def __init__(self, optimizer: FollowingOptimizer, schedule: Schedule, bound: Schedule):
        self.given = schedule.without_functions()
        self._shown_rows: list[list[float]] = []
        self._shown_step = 0
        self._groups: ParamGroups = []  # the groups that the shown rows belong to
        self._warned_past_end = False
        self._bind(optimizer, bound, None)

    def _bind(self, optimizer: FollowingOptimizer, bound: Schedule, progress: dict[str, Any] | None) -> None:
        """Make the controls of ``bound``, and show the values at the step in ``progress``."""
        table, backend = bound.table(), optimizer.backend
        controls = {
            device: StepControl(
                table,
                device=device,
                backend=backend,
                step_count=optimizer.step_count_on(device) if backend == "cuda" else None,
            )
            for device in devices_of(optimizer.param_groups)
        }
        control, *_ = controls.values()
        if optimizer.control is not None:
            control.take_over_records(optimizer.control)
        optimizer.require_schedule_fits(control.host_table)
        if progress is not None:
            for one in controls.values():
                one.resume(progress)
        self.controls, self.control, self.bound = controls, control, bound
        self._groups = list(optimizer.param_groups)
        optimizer.forget_updates()
        saved_schedule.write_schedule(optimizer.param_groups, bound)
        self.show_next_row(optimizer.param_groups)

    # ------------------------------------------------------------------------------------- what the groups show

    def show_next_row(self, param_groups: ParamGroups) -> None:
        """Write the next update's values into the groups, from the host's own copy of the table."""
        self._shown_rows, self._shown_step = self.control.host_row(), self.control.host_step
        for group, (lr, momentum, weight_decay) in zip(param_groups, self._shown_rows, strict=True):
            group["lr"], group["weight_decay"] = lr, weight_decay
            set_momentum(group, momentum)
            group[saved_schedule.STEP] = self._shown_step

    def warn_past_end(self) -> None:
        """Warn once of an update past the schedule's end, as far as the host knows without waiting for the device."""
        if self._shown_step > self.control.total_steps and not self._warned_past_end:
            self._warned_past_end = True
            warn_past_end(self.control.total_steps)

    def shows_rate_of_zero(self, param_groups: ParamGroups) -> bool:
        """Return whether the user has written 0 as the rate of every group."""
        shown = [lr for lr, *_ in self._shown_rows]
        rates = [group["lr"] for group in param_groups]
        if len(rates) != len(shown) or any(a is b for a, b in zip(rates, shown, strict=True)):
            return False  # the rates are the shown ones, which may be 0
        return not any(isinstance(rate, Tensor) or rate != 0 for rate in rates)

    # ------------------------------------------------------------------------------------ what the user changes

    def accept_changes(self, optimizer: FollowingOptimizer) -> None:
        """Follow the user's changes of the groups.

        Raises:
            RuntimeError: the user has written a value that the schedule sets, or has removed groups for which it has
                curves.
        """
        self.follow_changed_groups(optimizer)
        groups = optimizer.param_groups
        if self._shows_the_row(groups):
            return
        step = self._written_step(groups)
        rows = [self._shown_rows] if step is None else [self._shown_rows, self.control.host_row(step)]
        for index, group in enumerate(groups):
            for column, name in enumerate(QUANTITIES):
                key = "betas" if name == "momentum" and "betas" in group else name
                if all(quantity_of(group, name) != row[index][column] for row in rows):
                    raise RuntimeError(
                        f"param_groups[{index}][{key!r}] was set to {group[key]}, but the schedule sets it "
                        f"({rows[-1][index][column]} at step {self._shown_step if step is None else step}); put the "
                        "change into the schedule, or make the optimizer without one (a torch LR scheduler needs that "
                        "too). If a framework makes a scheduler of its own, give it "
                        "clrfast.as_lr_scheduler(optimizer) instead"
                    )
        if step is not None:
            self._move_to(step, groups)

    def _shows_the_row(self, param_groups: ParamGroups) -> bool:
        """Return whether the groups have exactly the values that ``show_next_row`` has written: the usual case."""
        return all(
            group["lr"] is lr
            and group["weight_decay"] is weight_decay
            and momentum_of(group) is momentum
            and group.get(saved_schedule.STEP) is self._shown_step
            for group, (lr, momentum, weight_decay) in zip(param_groups, self._shown_rows, strict=True)
        )

    def follow_changed_groups(self, optimizer: FollowingOptimizer) -> None:
        """Follow groups that the user has added to the list, removed from it or reordered.

        Raises:
            RuntimeError: the schedule has a curve for each of another number of groups.
        """
        groups = optimizer.param_groups
        if not groups or (len(groups) == len(self._groups) and all(map(operator.is_, groups, self._groups))):
            return
        if self.given.n_groups not in (1, len(groups)):
            raise RuntimeError(
                f"param_groups: there are {len(groups)}, and the schedule has curves for {self.given.n_groups}; "
                "add the missing groups with add_param_group, or call set_schedule"
            )
        self.follow_groups(optimizer)

    def follow_groups(self, optimizer: FollowingOptimizer) -> None:
        """Make the schedule follow the present groups, from the current step."""
        own = (saved_schedule.schedule_of(group) for group in optimizer.param_groups)  # of groups followed before
        bound = [
            self.given.group(index).bound_to([group]).group(0) if known is None else known
            for index, (group, known) in enumerate(zip(optimizer.param_groups, own, strict=True))
        ]
        progress, step = self.control.progress(), self._written_step(optimizer.param_groups)
        self._bind(optimizer, Schedule.from_groups(bound), progress if step is None else {**progress, "step": step})

    def follow_devices(self, optimizer: FollowingOptimizer) -> None:
        """Make the controls again where the parameters have moved to other devices."""
        if tuple(self.controls) != devices_of(optimizer.param_groups):
            self._bind(optimizer, self.bound, self.control.progress())

    # ----------------------------------------------------------------------------------------- the current step

    def count_replay(self, param_groups: ParamGroups) -> None:
        """Show the next update's values after a replay of a captured step."""
        for control in self.controls.values():
            control.host_step += 1
        self.show_next_row(param_groups)
        self.warn_past_end()

    def synchronize(self, param_groups: ParamGroups) -> None:
        """Show the exact step; waits for the device. A step that the user has written moves the schedule."""
        step = self._written_step(param_groups)
        self._move_to(self.control.synchronize() if step is None else step, param_groups)

    def resume(self, progress: dict[str, Any]) -> None:
        """Continue from the progress of a checkpoint."""
        for control in self.controls.values():
            control.resume(progress)

    def adopt(self, param_groups: ParamGroups) -> None:
        """Follow newly loaded groups in place of the present ones, in the same order."""
        self._groups = list(param_groups)
        saved_schedule.write_schedule(param_groups, self.bound)
        if param_groups:
            self.show_next_row(param_groups)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_warned_past_end": False}  # a copy gives its own warning

    def _move_to(self, step: int, param_groups: ParamGroups) -> None:
        self.resume({"step": step})
        self.show_next_row(param_groups)

    def _written_step(self, param_groups: Sequence[dict[str, Any]]) -> int | None:
        """Return the step that the user has written into the groups; None if the shown step is unchanged.

        The shown step may differ from ``control.host_step``, which changes once the host learns of skipped updates.
        """
        step = saved_schedule.written_step(param_groups)
        return None if step == self._shown_step else step
