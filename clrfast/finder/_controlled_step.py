"""A training step at the rates of a schedule, with any optimizer; its losses are recorded on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from .._distributed import SINGLE_PROCESS, Failure, Ranks
from .._errors import RankError
from ..optim import FusedOptimizer, StepControl
from ..schedules import Schedule
from ..training._distributed_model import is_data_parallel, is_sharded
from ..training._eager_step import EagerStep


class ControlledStep:
    """A training step whose rate follows ``schedule``.

    Args:
        step: the step without a schedule.
        schedule: its ``total_steps`` must be set.
        keep_ratios: the optimizer's groups keep the ratios of their rates; the schedule's rate is the highest.
        ranks: the ranks that take these steps together.
    Attributes:
        control: the ``StepControl`` that records the losses and counts the updates.
        total_steps: number of updates of the schedule.
        forward_passes: number of batches taken so far, those of steps without an update included.
    """

    def __init__(self, step: EagerStep, schedule: Schedule, *, keep_ratios: bool, ranks: Ranks = SINGLE_PROCESS):
        assert schedule.total_steps is not None
        self.total_steps = schedule.total_steps
        self.forward_passes, self._own_updates = 0, 0
        self._step, self._ranks = step, ranks
        self._sums_losses = ranks.world_size > 1 and step.scaler is not None  # at every step, over the ranks
        # One row more than updates: the last loss is measured after the last update.
        rows = schedule.extended_to(self.total_steps + 1)
        optimizer = step.optimizer
        # All rates are 0 at the start of a warm-up. There are no ratios to keep then.
        if keep_ratios and any(float(group["lr"]) > 0 for group in optimizer.param_groups):
            rows = rows.for_groups(optimizer.param_groups)
        if isinstance(optimizer, FusedOptimizer):
            self.control = optimizer.set_schedule(rows)
        else:
            first = next(param for group in optimizer.param_groups for param in group["params"])
            self.control = StepControl(rows.scaled_for(optimizer.param_groups).table(), device=first.device)
        if ranks.world_size == 1 or self._sums_losses:
            # The device stops at a loss that is not finite; the host stops at any other divergence. Several ranks stop
            # on the device only where it gets their mean loss at every step.
            self.control.watch_divergence(stop_factor=math.inf)

    def __call__(self, batches: Iterator[Any], *, last: bool) -> Tensor:
        """Take one step with the next batches.

        If a step fails on one of several ranks, this rank takes a step with the following batches instead, so that the
        other ranks do not wait for it. They learn of the failure at the next read of the losses.

        Args:
            batches: an iterator; a step takes ``accumulate`` batches.
            last: whether all updates are made; the step then measures the loss without an update.
        Returns:
            The loss before the update, a tensor of one element on the device.
        Raises:
            RankError: this rank failed at a place where the others cannot continue without it.
            Exception: what the step raises, in a single process.
        """
        before = self.control.host_step
        try:
            loss = self._take(batches, last)
            if self._ranks.world_size > 1 and self._step.may_skip and self._step.scaler is None:
                self._count_step_after(before)
            return loss
        except Exception as error:
            self._ranks.defer(error)
            if is_sharded(self._step.model):  # the others wait in the middle of a forward pass
                raise RankError(Failure.from_error(error).message) from error
        try:
            loss = self._take(batches, last)
        except Exception as error:
            if self._step.scaler is not None or is_data_parallel(self._step.model):
                raise RankError(Failure.from_error(self._ranks.deferred or error).message) from error
            loss = self.control.losses.new_full((), math.nan)
        if self._step.scaler is None:
            self._count_step_after(before)
        return loss

    def _count_step_after(self, step: int) -> None:
        """Count a step that this rank has skipped or failed at: all ranks must count the same number."""
        self.control.step.fill_(step + 1)
        self.control.host_step = step + 1

    @property
    def update_steps(self) -> int:
        """Number of updates made so far; the host waits for the device."""
        if isinstance(self._step.optimizer, FusedOptimizer):
            return min(self.control.synchronize(), self.total_steps)  # it also counts the last loss
        return self._own_updates  # the control stops at a loss that is not finite, and such an optimizer does not

    def _take(self, batches: Iterator[Any], last: bool) -> Tensor:
        some = list(islice(batches, self._step.accumulate))
        self.forward_passes += len(some)
        return self._evaluate(some) if last else self._update(some)

    def _evaluate(self, batches: list[Any]) -> Tensor:
        """Record the loss after the last update."""
        with torch.enable_grad():  # as in every step before: a loss may contain a derivative (a gradient penalty)
            loss = torch.stack([self._step.compute_loss(batch).detach().mean() for batch in batches]).mean()
        self.control.advance(loss)
        return loss

    def _update(self, batches: list[Any]) -> Tensor:
        """Make an update at the schedule's rate, and record the loss before it."""
        optimizer = self._step.optimizer
        if isinstance(optimizer, FusedOptimizer) and not self._sums_losses:
            return self._step(*batches)
        loss = self._step.backward(batches)
        if self._sums_losses:
            self._ranks.all_reduce(loss := loss / self._ranks.world_size)
        if isinstance(optimizer, FusedOptimizer):
            self._step.update(loss)
        else:
            self._update_without_schedule(optimizer, loss)
        return loss

    def _update_without_schedule(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Set the rates of an optimizer without a schedule of its own, and update."""
        control = self.control
        rates = [lr for lr, *_ in control.host_row()]
        _set_rates(optimizer, rates * (len(optimizer.param_groups) if len(rates) == 1 else 1))
        if self._step.scaler is None:  # nothing skips an update
            self._step.update()
            self._own_updates += 1
            control.advance(loss)
            return
        applied = _Applied()
        handle = optimizer.register_step_post_hook(applied)
        try:
            self._step.update()
        finally:
            handle.remove()
        found_inf = applied.found_inf(loss.device)
        self._own_updates += found_inf is None or not bool(found_inf)
        control.advance(loss, found_inf)
        control.synchronize()  # the next rate depends on whether this update was skipped


def _set_rates(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


class _Applied:
    """A hook called after an optimizer's step, which records whether the scaler skipped the update."""

    def __init__(self) -> None:
        self._found_inf: Any = 1.0

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # An optimizer that skips updates itself always calls the hook; its found_inf then says whether it skipped.
        self._found_inf = getattr(optimizer, "found_inf", None)

    def found_inf(self, device: torch.device) -> Tensor | None:
        """Return ``found_inf`` for ``StepControl.advance``: None or 0 if the update was made."""
        if self._found_inf is None or isinstance(self._found_inf, Tensor):
            return self._found_inf
        return torch.full((), self._found_inf, device=device)
