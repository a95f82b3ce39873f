"""Readers of a run's losses on the host: the losses of one process, or their means over several ranks."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .._distributed import Ranks
from ..optim import StepControl
from ._smoothing import Floats

READ_EVERY = 10
"""Steps between two reads of the losses. Each read of a CUDA device's losses is a copy."""


class LossReader(Protocol):
    """Reads the losses of a run. The first is the loss before the first update."""

    def is_due(self, turn: int, loss: Tensor, limit: float) -> bool:
        """Return whether to read after step ``turn``; a ``loss`` above ``limit`` may have diverged."""

    def read(self) -> Floats:
        """Read the losses known so far; the host does not wait for the last steps of a CUDA device."""

    def read_all(self) -> Floats:
        """Read all losses; the host waits for the device."""


class LocalLosses:
    """Reads the losses of a single process."""

    def __init__(self, control: StepControl):
        self._control = control

    def is_due(self, turn: int, loss: Tensor, limit: float) -> bool:
        # On the CPU a loss costs nothing to read, so a high one is noticed at once.
        high = loss.device.type == "cpu" and not (math.isfinite(value := float(loss)) and value <= limit)
        return high or turn % READ_EVERY == 0

    def read(self) -> Floats:
        return self._control.recorded_losses().astype(np.float64)

    def read_all(self) -> Floats:
        n = self._control.synchronize() + int(self._control.stop)
        return self._control.losses[:n].double().cpu().numpy()


class RankMeanLosses:
    """Reads the mean losses of ranks that train together, with one all-reduce per read.

    All ranks take the same steps and read at the same steps. All see the same losses, so none stops by its own loss.
    An error that a rank has deferred is raised on all ranks by the next read.

    Raises (``read`` and ``read_all``):
        Exception: see ``Ranks.raise_deferred``.
    """

    def __init__(self, control: StepControl, ranks: Ranks):
        self._control, self._ranks = control, ranks
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def is_due(self, turn: int, loss: Tensor, limit: float) -> bool:
        return turn % READ_EVERY == 0

    def read(self) -> Floats:
        if self._control.device.type != "cuda":
            return self.read_all()
        # Return what the previous read copied: which losses a rank sees must not depend on how far its device is.
        previous, copied = self._pending, torch.cuda.Event()
        summed = self._summed()
        pinned = torch.empty(summed.shape, dtype=summed.dtype, device="cpu", pin_memory=True)
        copy = pinned.copy_(summed, non_blocking=True)
        copied.record(torch.cuda.current_stream(self._control.device))
        self._pending = copy, copied
        if previous is None:
            return self._mean(summed.new_zeros(summed.shape, device="cpu"))
        previous[1].synchronize()
        return self._mean(previous[0])

    def read_all(self) -> Floats:
        return self._mean(self._summed().cpu())

    def _summed(self) -> Tensor:
        """Sum losses, number of steps and number of failures over the ranks: float64 ``[total_steps + 2]``."""
        control, failed = self._control, int(self._ranks.deferred is not None)
        numbers = torch.stack((control.step + control.stop, torch.full_like(control.step, failed)))
        summed = torch.cat((control.losses.double(), numbers.double()))
        self._ranks.all_reduce(summed)
        return summed

    def _mean(self, summed: Tensor) -> Floats:
        *losses, steps, failed = (summed / self._ranks.world_size).tolist()
        if failed:
            self._ranks.raise_deferred()
        return np.array(losses[: round(steps)])
