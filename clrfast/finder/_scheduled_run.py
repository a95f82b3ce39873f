"""One training run along a schedule: steps, validations, and the end at the last rate or at divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from .._distributed import SINGLE_PROCESS, Ranks
from .._progress import Progress
from ..schedules import Curve, Schedule
from ..training._eager_step import EagerStep
from ._controlled_step import ControlledStep
from ._cost import Cost
from ._divergence import find_divergence
from ._loss_reader import LocalLosses, LossReader, RankMeanLosses
from ._smoothing import Floats
from ._validation import Measured, MeasurementLog

MAX_SKIPPED_UPDATES = 40
"""Maximum number of skipped updates in a row. A scaler halves its scale each time, and few losses need a scale of
2 ** -40."""


@dataclass
class RunRecord:
    """The measurements of a run. On several ranks they are means, and equal on all ranks.

    Attributes:
        losses: float64 ``[n + 1]``, before the updates 0, 1, ..., up to the divergence.
        diverged: the last loss is the first one beyond the limit, or not finite.
        update_steps: number of updates; a run that the host ends after its divergence made more than n.
        validations: the validation metric by the number of updates before it, each a tensor of one element.
        probe_losses: the loss of the probe batches, in the same form.
    """

    losses: Floats
    diverged: bool
    update_steps: int
    validations: dict[int, Tensor] = field(default_factory=dict)
    probe_losses: dict[int, Tensor] = field(default_factory=dict)


class ScheduledRun:
    """A training run along ``schedule``.

    Args:
        step: the training step.
        schedule: its ``total_steps`` must be set.
        keep_ratios: the optimizer's groups keep the ratios of their rates; the schedule's rate is the highest.
        stop_factor: see ``find_divergence``; > 1.
        cost: counts the updates and the forward passes of the run.
        ranks: the ranks that make this run together. A failure of one of them is raised on all at the next read of the
            losses. Until then that rank continues, because the others wait for it in every step.
        after_first_step: called once, after the first step.
    """

    def __init__(
        self,
        step: EagerStep,
        schedule: Schedule,
        *,
        keep_ratios: bool,
        stop_factor: float,
        cost: Cost,
        ranks: Ranks = SINGLE_PROCESS,
        after_first_step: Callable[[], None] | None = None,
    ):
        self._step, self._stop_factor, self._cost = step, stop_factor, cost
        self._ranks, self._after_first_step = ranks, after_first_step
        self._controlled = ControlledStep(step, schedule, keep_ratios=keep_ratios, ranks=ranks)
        control = self._controlled.control
        self._losses: LossReader = LocalLosses(control) if ranks.world_size == 1 else RankMeanLosses(control, ranks)

    def run(
        self,
        batches: Iterator[Any],
        validation: Measured | None,
        progress: Progress | None,
        done: int,
        total: int,
        probes: Measured | None = None,
    ) -> RunRecord:
        """Train up to the last rate or to divergence.

        Args:
            batches: enough for all steps and for the loss after the last update.
            validation: validation during the run and after the last update; None for none.
            progress: called after every read of the losses, with ``done`` plus the number of steps.
            done, total: steps of the whole call before this run, and the maximum number of all steps of the call.
            probes: measured during the run and after the last update, like the validation; None for none.
        Raises:
            ValueError: every update is skipped.
        """
        control, steps = self._controlled.control, self._controlled.total_steps
        validations, probe_losses = (
            MeasurementLog(measured, self._step, control, steps, self._ranks) for measured in (validation, probes)
        )
        limit, skips = math.inf, _SkippedUpdates("clip_norm" if self._step.scaler is None else "scaler")
        for turn in count():
            last = control.host_step >= steps and control.synchronize() >= steps
            validations.measure_if_due(last=last)
            probe_losses.measure_if_due(last=last)
            before = control.host_step
            loss = self._controlled(batches, last=last)
            if turn == 0 and self._after_first_step is not None:
                self._after_first_step()
            skips.require_few(turn, control.host_step)
            if last or self._losses.is_due(turn, loss, limit):
                losses = self._losses.read()
                index, limit = find_divergence(losses, self._stop_factor)
                self._report(progress, done + min(before + 1, steps), total, losses)
                if last or index is not None:
                    break
                if self._step.may_skip:
                    control.synchronize()  # the device may skip every update, and only the host can notice
        losses = self._losses.read_all()
        index, _ = find_divergence(losses, self._stop_factor)
        losses = losses if index is None else losses[: index + 1]
        update_steps = self._count_passes()
        return RunRecord(losses, index is not None, update_steps, validations.means(), probe_losses.means())

    def _count_passes(self) -> int:
        """Add the updates and the other forward passes to the cost; return the number of updates."""
        updates = self._controlled.update_steps
        self._cost.update_steps += updates
        self._cost.extra_forward_passes += self._controlled.forward_passes - updates * self._step.accumulate
        return updates

    def _report(self, progress: Progress | None, done: int, total: int, losses: Floats) -> None:
        if progress is None:
            return
        lr = self._controlled.control.host_row()[0][0]
        try:
            progress(done, total, {"lr": lr, "loss": float(losses[-1]) if len(losses) else math.nan})
        except Exception as error:
            self._ranks.defer(error)


class _SkippedUpdates:
    """Counts the updates in a row that were skipped.

    Args:
        cause: the argument that makes the step skip.
    """

    def __init__(self, cause: str) -> None:
        self._cause = cause
        self._step_count, self._turn = 0, -1  # the most updates so far, and the turn that made the last of them

    def require_few(self, turn: int, step_count: int) -> None:
        """Raise ValueError if more than ``MAX_SKIPPED_UPDATES`` turns in a row made no update."""
        if step_count > self._step_count:
            self._step_count, self._turn = step_count, turn
        elif turn - self._turn > MAX_SKIPPED_UPDATES:
            raise ValueError(
                f"{self._cause}: it has skipped {turn - self._turn} updates in a row; the gradients are not finite"
                + (" at any scale" if self._cause == "scaler" else "")
            )


def compute_rates(schedule: Schedule, n: int) -> Floats:
    """Compute the first ``n`` learning rates of ``schedule``, float64 ``[n]``."""
    assert isinstance(schedule.lr, Curve)
    return np.asarray(schedule.lr(np.arange(n)), dtype=np.float64)
