"""``Validation``: measures a metric on fixed batches during a run, every few steps, at a bounded cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .._checks import is_whole
from .._distributed import SINGLE_PROCESS, Ranks
from ..optim import StepControl
from ..training._eager_step import EagerStep, eval_mode
from ._cost import Cost
from ._metrics import Metric, count_samples, measure_batch, name_metric, require_metric, to_tensor
from ._smoothing import Floats

MetricSum = tuple[Tensor | float, int]
"""The sum of a metric over samples, and their number."""

MIN_VALIDATIONS = 10
"""Minimum number of validations in a run, by default. So at most a tenth as many batches as steps are used."""


class Measured(Protocol):
    """What is measured on fixed batches during a run: a validation metric, or the loss of probe batches."""

    def is_due(self, step_count: int, steps: int) -> bool:
        """Return whether to measure after ``step_count`` updates of a run of ``steps``; its end is measured anyway."""

    def total(self, step: EagerStep) -> MetricSum:
        """Measure the sum over all samples, and count them."""


class Validation:
    """Validation batches, and the metric that is measured on them.

    A validation evaluates all of these batches in eval mode. By default, n batches are evaluated every n steps, so that
    validation takes no more forward passes than training.

    Args:
        val_loader: an iterable of batches. The first ones are kept, at most a tenth as many as ``steps``.
        metric: None for the loss, "accuracy", or a function; see ``measure_batch``.
        steps: number of updates of the run.
        every: steps between two validations; None: the number of batches.
        custom_batches: the batches are not pairs ``(inputs, targets)``.
        ranks: the ranks that validate together, each on batches of its own. Each keeps as many as the rank with the
            fewest has.
        cost: counts the forward passes; None counts nothing.
    Attributes:
        every: steps between two validations.
        metric_name: name of the metric.
    Raises:
        ValueError: there are no batches, or the metric or a number of steps is wrong.
    """

    def __init__(
        self,
        val_loader: Iterable[Any],
        metric: Metric | None,
        steps: int,
        every: int | None,
        *,
        custom_batches: bool,
        ranks: Ranks = SINGLE_PROCESS,
        cost: Cost | None = None,
    ):
        if not isinstance(val_loader, Iterable):
            raise ValueError(
                f"val_loader: got {type(val_loader).__name__}; give a DataLoader, or any iterable of batches"
            )
        require_metric(metric)
        if every is not None and (not is_whole(every) or every < 1):
            raise ValueError(f"val_every: got {every!r}; give a whole number of steps, at least 1")
        self._batches = list(islice(val_loader, max(1, steps // MIN_VALIDATIONS)))
        if not self._batches:
            raise ValueError("val_loader: it is empty; give at least one batch, or leave it out")
        del self._batches[min(ranks.all_gather("held-out batches", len(self._batches))) :]
        self.every = len(self._batches) if every is None else every
        self.metric_name = name_metric(metric)
        self._metric, self._custom_batches, self._cost = metric, custom_batches, cost or Cost()

    def is_due(self, step_count: int, steps: int) -> bool:
        """Return whether to validate after ``step_count`` updates of a run of ``steps``.

        The steps are counted back from the end of the run, which is validated in any case.
        """
        return step_count >= self.every and (steps - step_count) % self.every == 0

    def mean(self, step: EagerStep) -> Tensor:
        """Measure the mean over all samples, a tensor of one element."""
        total, n = self.total(step)
        return to_tensor(total / n)

    def total(self, step: EagerStep) -> MetricSum:
        """Measure the sum over all samples, and count them."""
        total: Tensor | float = 0.0
        n_total = 0
        needs_grad = self._custom_batches and self._metric is None  # a compute_loss may contain a derivative
        with eval_mode(step.model), step.autocast_context(), torch.set_grad_enabled(needs_grad):
            for batch in self._batches:
                n = count_samples(batch)
                mean = measure_batch(self._metric, step, batch, custom_batches=self._custom_batches)
                total = total + n * mean.detach().float()
                n_total += n
                self._cost.extra_forward_passes += 1
        return total, n_total


class MeasurementLog:
    """The measurements of one run, each made once, after the same updates as a training loss.

    Args:
        measured: what is measured; None measures nothing.
        step: the training step; its model is evaluated.
        control: counts the updates.
        steps: number of updates of the run.
        ranks: the ranks that make this run together.
    """

    def __init__(self, measured: Measured | None, step: EagerStep, control: StepControl, steps: int, ranks: Ranks):
        self._measured, self._step, self._control, self._steps, self._ranks = measured, step, control, steps, ranks
        self._sums: dict[int, MetricSum] = {}

    def measure_if_due(self, *, last: bool) -> None:
        """Measure if it is due or the run ends. Call this before the batch of a step changes the model."""
        if self._measured is None or not (last or self._measured.is_due(self._control.host_step, self._steps)):
            return
        # Where the device may have skipped updates, the host is ahead.
        at = self._control.synchronize() if self._step.may_skip else self._control.host_step
        if at and at not in self._sums and (last or self._measured.is_due(at, self._steps)):
            self._sums[at] = math.nan, 1
            try:
                self._sums[at] = self._measured.total(self._step)
            except Exception as error:
                self._ranks.defer(error)

    def means(self) -> dict[int, Tensor]:
        """Compute the means over all ranks, by the number of updates before them."""
        return {at: average_over_ranks(self._ranks, metric_sum) for at, metric_sum in self._sums.items()}


def average_over_ranks(ranks: Ranks, metric_sum: MetricSum) -> Tensor:
    """Compute the mean over the samples of all ranks, a tensor of one element."""
    total, n = metric_sum
    if ranks.world_size == 1:
        return to_tensor(total / n)
    totals, counts = zip(*ranks.all_gather("a held-out measure", (float(total), n)), strict=True)
    return to_tensor(sum(totals) / sum(counts))


def align_with_updates(measurements: dict[int, Tensor], n: int) -> Floats:
    """Arrange measurements, keyed by the number of updates before them, as float64 ``[n]``: NaN where there is none."""
    values = np.full(n, np.nan)
    for step_count, value in measurements.items():
        if 0 < step_count <= n:
            values[step_count - 1] = float(value)
    return values
