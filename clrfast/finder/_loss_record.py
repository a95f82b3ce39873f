"""The losses of a pass as the host sees them: those of a process alone, or their mean over several ranks."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .._ranks import Ranks
from ..optim import StepControl
from ._noise import Floats

POLL_EVERY = 10
"""Steps between two looks of the host at the losses: those of a CUDA device are copied for each."""


class Record(Protocol):
    """What a pass asks of its losses. All of them begin at the loss before the first update."""

    def is_due(self, turn: int, loss: Tensor, limit: float) -> bool:
        """Whether the host looks after step ``turn``; a ``loss`` above ``limit`` may have diverged."""

    def look(self) -> Floats:
        """The losses so far, as far as they are known without waiting for the last steps of a CUDA device."""

    def complete(self) -> Floats:
        """All losses until now."""


class OwnRecord:
    """Losses of a process alone."""

    def __init__(self, control: StepControl):
        self._control = control

    def is_due(self, turn: int, loss: Tensor, limit: float) -> bool:
        # Where a loss costs nothing to read, it tells at once that a look is due.
        high = loss.device.type == "cpu" and not (math.isfinite(value := float(loss)) and value <= limit)
        return high or turn % POLL_EVERY == 0

    def look(self) -> Floats:
        return self._control.recorded().astype(np.float64)

    def complete(self) -> Floats:
        n = self._control.synchronize() + int(self._control.stop)
        return self._control.losses[:n].double().cpu().numpy()


class SharedRecord:
    """Losses averaged over ranks that take their steps together, by one all-reduce for each look.

    All ranks take the same steps and looks, and see the same numbers at each, so that none stops by its own loss. What
    a rank has set aside is raised at the look by which all know of it.

    Raises (both methods that look):
        Exception: see ``Ranks.settle``.
    """

    def __init__(self, control: StepControl, ranks: Ranks):
        self._control, self._ranks = control, ranks
        self._ahead: tuple[Tensor, torch.cuda.Event] | None = None

    def is_due(self, turn: int, loss: Tensor, limit: float) -> bool:
        return turn % POLL_EVERY == 0

    def look(self) -> Floats:
        if self._control.device.type != "cuda":
            return self.complete()
        # The look before this one: which copy the host reads must not depend on how far the device has come.
        known, copied = self._ahead, torch.cuda.Event()
        summed = self._summed()
        pinned = torch.empty(summed.shape, dtype=summed.dtype, device="cpu", pin_memory=True)
        copy = pinned.copy_(summed, non_blocking=True)
        copied.record(torch.cuda.current_stream(self._control.device))
        self._ahead = copy, copied
        if known is None:
            return self._mean(summed.new_zeros(summed.shape, device="cpu"))
        known[1].synchronize()
        return self._mean(known[0])

    def complete(self) -> Floats:
        return self._mean(self._summed().cpu())

    def _summed(self) -> Tensor:
        """float64 ``[total_steps + 2]``: losses, steps and failures, summed over the ranks."""
        control, failed = self._control, int(self._ranks.failure is not None)
        numbers = torch.stack((control.step + control.stop, torch.full_like(control.step, failed)))
        own = torch.cat((control.losses.double(), numbers.double()))
        self._ranks.add(own)
        return own

    def _mean(self, summed: Tensor) -> Floats:
        *losses, steps, failed = (summed / self._ranks.count).tolist()
        if failed:
            self._ranks.settle()
        return np.array(losses[: round(steps)])
