"""``Probes``: fixed training batches whose loss is measured in training mode, before, during and after short runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..training._eager_step import EagerStep
from ..training._preservation import preserve_rng_and_loaders
from ..training._saved_state import copy_value, save_module
from ._cost import Cost
from ._metrics import count_samples
from ._smoothing import Floats
from ._validation import MetricSum

SEED = 0
"""Seed of the random numbers of a measurement, such as dropout masks. They are the same in every measurement."""


class Probes:
    """Fixed training batches on which the loss is measured in training mode.

    All measurements use the same batches and the same random numbers, so their differences are due to the weights. The
    batches are measured in training mode, because the rate is chosen for the training; batch norm then normalises with
    the statistics of the batch. Buffers are restored after each measurement.

    Args:
        batches: at least one; all are measured.
        every: number of updates between two measurements of a run; None measures at its end only.
        custom_batches: the batches are not pairs ``(inputs, targets)``, and their loss may contain a derivative.
        loss_modules: modules of the loss, whose buffers are restored too.
        cost: counts the forward passes; None counts nothing.
    """

    def __init__(
        self,
        batches: list[Any],
        *,
        every: int | None = None,
        custom_batches: bool,
        loss_modules: tuple[nn.Module, ...] = (),
        cost: Cost | None = None,
    ):
        self._batches, self._every, self._custom_batches = batches, every, custom_batches
        self._loss_modules, self._cost = loss_modules, cost or Cost()
        self._last_losses: list[Tensor] = []

    def is_due(self, step_count: int, steps: int) -> bool:
        """Return whether to measure after ``step_count`` updates; the end of a run is measured anyway."""
        return self._every is not None and step_count % self._every == 0

    @property
    def last_losses(self) -> Floats:
        """The mean loss of each batch in the last measurement: float64 ``[n]``. The host waits for the device."""
        return torch.stack(self._last_losses).double().cpu().numpy()

    def total(self, step: EagerStep) -> MetricSum:
        """Measure the sum of the loss over all samples, and count them."""
        total: Tensor | float = 0.0
        n_total = 0
        self._last_losses = []
        with (
            preserve_rng_and_loaders(),
            _preserve_modules((step.model, *self._loss_modules)),
            step.autocast_context(),
            torch.set_grad_enabled(self._custom_batches),
        ):
            torch.manual_seed(SEED)
            for batch in self._batches:
                n = count_samples(batch)
                loss = step.compute_loss(batch).detach().float().mean()
                self._last_losses.append(loss)
                total = total + n * loss
                n_total += n
                self._cost.extra_forward_passes += 1
        return total, n_total


@contextlib.contextmanager
def _preserve_modules(modules: tuple[nn.Module, ...]) -> Iterator[None]:
    """Run a block, then restore the buffers and the training flags of ``modules`` and of all modules inside them."""
    with contextlib.ExitStack() as stack:
        for module in {inner for outer in modules for inner in outer.modules()}:
            stack.callback(save_module(module, copy_value))
        yield
