"""Trials at once: stacked copies of the model, each with its own schedule, on the same batches."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..finder._scheduled_run import RunRecord
from ..finder._validation import Validation
from ..optim import StepControl
from ..schedules import Schedule
from ..training import StepOptions, prefetch
from ..training import _graph_cache as graphs
from ..training._eager_step import EagerStep
from ..training._losses import ComputeLoss
from ..training._optimizer_factory import MakeOptimizer
from ..training._stacked_step import StackedStep, SweepPlan

MAX_COPIES = 8
"""Maximum number of copies at once. Each takes the memory of a training."""


def can_stack(device: torch.device, options: StepOptions) -> bool:
    """Return whether trials with these options run as stacked copies, if vmap supports the model.

    They do on a CUDA device, which a small model leaves idle, with default options. On a CPU the model decides which
    way is faster; trying both would make the results depend on the clock, if only by rounding.
    """
    default = dataclasses.replace(options, snapshot_device=None) == StepOptions()
    return default and graphs.reason_against_graphs(device) is None


def run_stacked(
    model: nn.Module,
    compute_loss: ComputeLoss,
    schedules: Sequence[Schedule],
    batches: Iterator[Any],
    validation: Validation,
    show: Callable[[int], None],
    make_optimizer: MakeOptimizer,
) -> list[RunRecord]:
    """Train a copy of ``model`` along each schedule, all at once, and return their records.

    A record is that of ``ScheduledRun.run`` without the loss after the last update. All copies start as ``model`` is
    and draw the same random numbers; ``model`` does not change. ``show(done)`` is called after each step.

    Raises:
        Exception: vmap does not support the model or the loss, or memory is too small for the copies.
    """
    copies = [copy.deepcopy(model) for _ in schedules]
    if not model.training:
        for each in copies:
            each.train()
    plan = SweepPlan(copies, compute_loss, schedules, make_optimizer, smoothing=0.98, stop_factor=math.inf)
    stacked = StackedStep(plan, randomness="same")
    optimizers = stacked.optimizers
    steps = [EagerStep(each, compute_loss, optimizer) for each, optimizer in zip(copies, optimizers, strict=True)]
    val_losses: list[dict[int, Tensor]] = [{} for _ in copies]
    n = schedules[0].total_steps
    assert n is not None
    for done, batch in zip(range(1, n + 1), prefetch(batches, stacked.device), strict=False):
        stacked(batch)
        show(done)
        if validation.is_due(done, n):
            stacked.copy_to_models()
            for val_loss, step in zip(val_losses, steps, strict=True):
                val_loss[done] = validation.mean(step)
    return [_record(optimizer.control, val_loss) for optimizer, val_loss in zip(optimizers, val_losses, strict=True)]


def _record(control: StepControl | None, val_loss: dict[int, Tensor]) -> RunRecord:
    assert control is not None
    diverged, update_steps = bool(control.stop), control.synchronize()
    losses = control.losses[: update_steps + diverged].double().cpu().numpy()
    return RunRecord(losses, diverged, update_steps, val_loss)
