"""One pass of a range test: training steps at the rates of a sweep, with their losses recorded on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._progress import Progress
from .._ranks import ALONE, Failed, RankError, Ranks
from ..optim import SGD, StepControl
from ..schedules import Curve, Schedule
from ..training._eager_step import EagerStep
from ..training._sharded import is_sharded, is_wrapped
from ._loss_record import OwnRecord, Record, SharedRecord
from ._noise import Floats, divergence
from ._validation import HeldOut, Measured, mean_over

MOST_SKIPPED = 40
"""Updates in a row that a scaler may skip: it halves its scale each time, and few losses need 2 ** -40."""


@dataclass
class Recorded:
    """What a pass measured.

    Attributes:
        losses: float64 ``[n + 1]``, before the updates 0, 1, ..., up to where the loss diverged.
        diverged: whether it did; the last loss is then the first beyond the limit, or not finite.
        looks: held-out measures by the number of updates before them.
    On several ranks all of it is the same on each: means over them.
    """

    losses: Floats
    diverged: bool
    looks: dict[int, Tensor] = field(default_factory=dict)


class Sweep:
    """A pass over ``sweep``'s rates with one optimizer.

    Args:
        step: what a training step is.
        sweep: a schedule of the rates.
        keep_ratios: the groups keep the ratios of their rates; the sweep's are those of the highest.
        ranks: that make this pass together. An error on one of them is raised on all at the next look; until then
            that rank goes on, because the others wait for it in every step of a model whose ranks communicate.
        begun: called after the first step.
    """

    def __init__(
        self,
        step: EagerStep,
        sweep: Schedule,
        *,
        keep_ratios: bool,
        stop_factor: float,
        ranks: Ranks = ALONE,
        begun: Callable[[], None] | None = None,
    ):
        assert sweep.total_steps is not None
        optimizer = step.optimizer
        self._step, self._steps, self._stop_factor = step, sweep.total_steps, stop_factor
        # One row more than rates: the last loss is measured after the last update.
        rows = sweep.extended_to(sweep.total_steps + 1)
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        # All are 0 at the start of a warm-up: there are no ratios to keep then.
        if keep_ratios and max(rates) > 0:
            rows = rows.for_groups(optimizer.param_groups)
        if isinstance(optimizer, SGD):
            control = optimizer.set_schedule(rows)
        else:
            first = next(param for group in optimizer.param_groups for param in group["params"])
            control = StepControl(rows.table(), device=first.device)
        if ranks.count == 1 or step.scaler is not None:
            # The device stops at what is not finite, the host at the rest. On several ranks it stops only where it gets
            # their mean loss, which takes an all-reduce at every step; a scaler takes that in any case.
            control.watch_divergence(stop_factor=math.inf)
        self._control, self._ranks, self._begun = control, ranks, begun
        self._record: Record = OwnRecord(control) if ranks.count == 1 else SharedRecord(control, ranks)

    def run(
        self, batches: Iterator[Any], held_out: HeldOut | None, progress: Progress | None, done: int, total: int
    ) -> Recorded:
        """Train until the last rate or divergence; ``done`` of ``total`` steps are behind it already."""
        control = self._control
        looks: dict[int, Measured] = {}
        limit, furthest, reached = math.inf, 0, -1  # the most updates so far, and the turn that made them
        for turn in count():
            last = control.host_step >= self._steps and control.synchronize() >= self._steps
            if held_out is not None:
                self._look_at(held_out, looks, last)
            at = control.host_step
            loss = self._taken(batches, last)
            if turn == 0 and self._begun is not None:
                self._begun()
            if control.host_step > furthest:
                furthest, reached = control.host_step, turn
            elif turn - reached > MOST_SKIPPED:
                raise ValueError(
                    f"scaler: it has skipped {turn - reached} updates in a row; the gradients are not finite at any "
                    "scale"
                )
            if last or self._record.is_due(turn, loss, limit):
                losses = self._record.look()
                index, limit = divergence(losses, self._stop_factor)
                if progress is not None:
                    shown = {"lr": control.host_row()[0][0], "loss": float(losses[-1]) if len(losses) else math.nan}
                    self._tell(partial(progress, done + min(at + 1, self._steps), total, shown))
                if last or index is not None:
                    break
                if self._step.scaler is not None:
                    control.synchronize()  # a device skips without telling, and may do so for ever
        return self._until_divergence(looks)

    def _look_at(self, held_out: HeldOut, looks: dict[int, Measured], last: bool) -> None:
        """Look if it is time: before the batch of this step changes anything, so after the same updates as its loss."""
        control = self._control
        if not (last or held_out.due(control.host_step, self._steps)):
            return
        at = control.synchronize() if self._step.scaler is not None else control.host_step
        if at and at not in looks and (last or held_out.due(at, self._steps)):
            looks[at] = math.nan, 1
            try:
                looks[at] = held_out.measured(self._step)
            except Exception as error:
                self._ranks.set_aside(error)

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:
            self._ranks.set_aside(error)

    def _taken(self, batches: Iterator[Any], last: bool) -> Tensor:
        """One step with the next batches; returns the loss before it. A step that fails on one of several ranks is made
        with the batches after them instead, so that the others do not wait for it."""
        before = self._control.host_step
        try:
            return self._trained(list(islice(batches, self._step.accumulate)), last)
        except Exception as error:
            self._ranks.set_aside(error)
            if is_sharded(self._step.model):  # the others wait in the middle of a forward pass
                raise RankError(Failed.with_(error).told) from error
        try:
            loss = self._trained(list(islice(batches, self._step.accumulate)), last)
        except Exception as error:
            if self._step.scaler is not None or is_wrapped(self._step.model):
                raise RankError(Failed.with_(self._ranks.failure or error).told) from error
            loss = self._control.losses.new_full((), math.nan)
        if self._step.scaler is None:
            self._control.step.fill_(before + 1)  # wherever the error arose, this rank stays beside the others
            self._control.synchronize()
        return loss

    def _trained(self, batches: list[Any], last: bool) -> Tensor:
        if not last:
            return self._updated(batches)
        # The loss after the last update; nothing to update any more. With gradients on, as in every step before: a loss
        # may hold a derivative (a gradient penalty).
        with torch.enable_grad():
            loss = torch.stack([self._step.loss(batch).detach().mean() for batch in batches]).mean()
        self._control.advance(loss)
        return loss

    def _updated(self, batches: list[Any]) -> Tensor:
        """Update at the sweep's rate; the control learns of it. Returns the loss before it."""
        optimizer, control = self._step.optimizer, self._control
        if isinstance(optimizer, SGD) and not self._shares_losses:
            return self._step(*batches)
        loss = self._step.backward(batches)
        if self._shares_losses:
            self._ranks.add(loss := loss / self._ranks.count)
        if isinstance(optimizer, SGD):
            self._step.update(loss)
            return loss
        for group, (lr, *_) in zip(optimizer.param_groups, control.host_row(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        if self._step.scaler is None:  # nothing skips an update
            self._step.update()
            control.advance(loss)
            return loss
        applied = _Applied()
        handle = optimizer.register_step_post_hook(applied)
        try:
            self._step.update()
        finally:
            handle.remove()
        control.advance(loss, applied.skipped(loss.device))
        control.synchronize()  # the next rate depends on whether this update was skipped
        return loss

    @property
    def _shares_losses(self) -> bool:
        """Whether the device learns, at every step, of the mean loss of all ranks."""
        return self._ranks.count > 1 and self._step.scaler is not None

    def _until_divergence(self, looks: dict[int, Measured]) -> Recorded:
        losses = self._record.complete()
        index, _ = divergence(losses, self._stop_factor)
        means = {at: mean_over(self._ranks, measured) for at, measured in looks.items()}
        return Recorded(losses if index is None else losses[: index + 1], index is not None, means)


class _Applied:
    """Whether an optimizer that a scaler steps has made its update: a hook, called after it."""

    def __init__(self) -> None:
        self._found_inf: Any = 1.0

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # An optimizer that skips by itself is called all the same; found_inf then says that it did.
        self._found_inf = getattr(optimizer, "found_inf", None)

    def skipped(self, device: torch.device) -> Tensor | None:
        """For ``StepControl.advance``: None or 0 where the update was made."""
        if self._found_inf is None or isinstance(self._found_inf, Tensor):
            return self._found_inf
        return torch.full((), self._found_inf, device=device)


def rates_of(sweep: Schedule, n: int) -> Floats:
    """The first ``n`` rates."""
    assert isinstance(sweep.lr, Curve)
    return np.asarray(sweep.lr(np.arange(n)), dtype=np.float64)
