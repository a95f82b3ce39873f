"""Saves and loads what torch's ``state_dict`` leaves out: the schedule, its progress, and float32 state."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..schedules import Schedule
from ..schedules._warnings import describe_differences, warn_user
from . import _saved_schedule as saved_schedule
from ._control import StepControl
from ._counters import Counters
from ._parameters import needs_master
from ._rules import Rule
from ._schedule_follower import ScheduleFollower


class SavedOptimizer(Protocol):
    """The part of an optimizer that saving and loading use."""

    param_groups: list[dict[str, Any]]
    master_weights: bool
    rule: Rule
    follower: ScheduleFollower | None

    @property
    def counters(self) -> Counters: ...

    @property
    def state(self) -> Any: ...

    def exported_state(self, state: dict[str, Any]) -> dict[str, Any]: ...

    def follow(self, schedule: Schedule, bound: Schedule) -> StepControl: ...

    def forget_updates(self) -> None: ...


def complete(optimizer: SavedOptimizer, saved: dict[str, Any]) -> None:
    """Turn ``saved`` into the ``state_dict`` of torch's optimizer, and add the schedule and its progress."""
    saved["state"] = {index: optimizer.exported_state(state) for index, state in saved["state"].items()}
    follower = optimizer.follower
    if follower is not None:
        saved["clrfast"] = {"schedule": follower.bound.to_dict(), "progress": follower.control.progress()}


def take_over(optimizer: SavedOptimizer, state_dict: dict[str, Any]) -> None:
    """Load the parts of a ``state_dict`` that torch leaves out."""
    _restore_float32(optimizer, state_dict)
    optimizer.forget_updates()
    optimizer.counters.by_tensor.clear()  # what was loaded is not known there
    for param, state in optimizer.state.items():
        if isinstance(param, Tensor):
            optimizer.counters.take_over(state, param.device)
    run = saved_schedule.saved_run(state_dict)
    if run is not None:
        _resume(optimizer, *run)
    elif optimizer.follower is not None and any(
        optimizer.rule.states[0] in state for state in optimizer.state.values()
    ):
        warn_user(
            "load_state_dict: the state has momentum, but no step of a schedule, so the optimizer's schedule stays at "
            f"step {optimizer.follower.control.synchronize()}; write the step into param_groups[i]"
            f"[{saved_schedule.STEP!r}] if that is wrong"
        )
    if optimizer.follower is not None:
        optimizer.follower.adopt(optimizer.param_groups)


def _resume(optimizer: SavedOptimizer, saved: Schedule, progress: dict[str, Any]) -> None:
    """Continue at the saved progress, by the optimizer's own schedule if it has one."""
    if optimizer.follower is None:
        optimizer.follow(saved, saved)
    elif not (bound := optimizer.follower.bound).continues(saved) and (
        differences := describe_differences(saved, bound)
    ):
        warn_user(
            f"load_state_dict: the saved schedule differs from the optimizer's ({differences}); the optimizer follows "
            "its own from the saved step on. Make the optimizer without a schedule to take the saved one."
        )
    assert optimizer.follower is not None
    optimizer.follower.resume(progress)


def _restore_float32(optimizer: SavedOptimizer, state_dict: dict[str, Any]) -> None:
    """Load master weights and their state again: torch has rounded them to their parameter's dtype."""
    if not optimizer.master_weights:
        for state in optimizer.state.values():
            state.pop("master_param", None)  # saved by another optimizer; it would become outdated here
        return
    saved_ids = [saved for group in state_dict["param_groups"] for saved in group["params"]]
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for saved, param in zip(saved_ids, params, strict=True):
        for name in (*optimizer.rule.states, "master_param"):
            value = state_dict["state"].get(saved, {}).get(name)
            if isinstance(value, Tensor) and needs_master(param):
                optimizer.state[param][name] = value.detach().to(param.device, torch.float32, copy=True)
