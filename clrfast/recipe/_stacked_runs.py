"""Short runs made together: copies of the model, stacked, each by its own schedule, on the same batches."""

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
from ..training._stacked_step import StackedStep, SweepPlan

MOST_COPIES = 8
"""At a time: each takes the memory of a training of its own."""


def may_be_together(device: torch.device, options: StepOptions) -> bool:
    """Whether runs with these options of a step are to be made together, where vmap can.

    On a CUDA device, which a small model leaves idle, and where steps are those of plain models. On a CPU it depends on
    the model which way is faster, and to try both would have the answers depend on the clock, if only by rounding.
    """
    plain = dataclasses.replace(options, snapshot_device=None) == StepOptions()
    return plain and graphs.reason_against_graphs(device) is None


def recorded_together(
    model: nn.Module,
    compute_loss: ComputeLoss,
    schedules: Sequence[Schedule],
    batches: Iterator[Any],
    held_out: Validation,
    tell: Callable[[int], None],
) -> list[RunRecord]:
    """What ``ScheduledRun.run`` records of runs by ``schedules``, without the loss after the last update.

    All copies start as ``model`` is now, which stays so, and draw the same random numbers. ``tell`` gets the steps that
    are done, after each.

    Raises:
        Exception: vmap cannot run this model or loss, or the memory is too small for the copies.
    """
    copies = [copy.deepcopy(model) for _ in schedules]
    if not model.training:
        for each in copies:
            each.train()
    plan = SweepPlan(copies, compute_loss, schedules, momentum=0.0, smoothing=0.98, stop_factor=math.inf)
    stacked = StackedStep(plan, randomness="same")
    optimizers = stacked.optimizers
    steps = [EagerStep(each, compute_loss, own) for each, own in zip(copies, optimizers, strict=True)]
    looks: list[dict[int, Tensor]] = [{} for _ in copies]
    n = schedules[0].total_steps
    assert n is not None
    for done, batch in zip(range(1, n + 1), prefetch(batches, stacked.device), strict=False):
        stacked(batch)
        tell(done)
        if held_out.is_due(done, n):
            stacked.copy_to_models()
            for of, step in zip(looks, steps, strict=True):
                of[done] = held_out.mean(step)
    return [_recorded(optimizer.control, of) for optimizer, of in zip(optimizers, looks, strict=True)]


def _recorded(control: StepControl | None, looks: dict[int, Tensor]) -> RunRecord:
    assert control is not None
    stopped = bool(control.stop)
    losses = control.losses[: control.synchronize() + stopped].double().cpu().numpy()
    return RunRecord(losses, stopped, looks)
