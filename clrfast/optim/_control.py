"""StepControl: the table, the step counter, the loss history and the stop flag of a run, on the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _native
from ..schedules._table import row_at
from . import _backends as backends
from . import _capture as capture
from ._backends import cuda, native, reference


class StepControl:
    """Decides on the device which row of a schedule's table the next update uses, and whether it happens.

    Args:
        table: float32 ``[total_steps, n_groups, 3]`` (lr, momentum, weight_decay): what ``Schedule.table`` returns.
        device: where the control lives.
        backend: "torch", "cpp" or "cuda".
        tick: int64 [] on ``device``, counts the calls of ``advance``; backend "cuda" only.

    Attributes (tensors on ``device``, written by ``advance`` without any synchronisation):
        step: int64 ``[]``, applied updates so far.
        losses: float32 ``[total_steps]``, the loss that was given before update ``i``; NaN where none was.
        average: float32 ``[3]``: the loss's exponential moving average, its weight, and the best smoothed loss.
        stop: bool ``[]``, sticky; see ``watch_divergence``.
        row: float32 ``[n_groups, 4]``: lr, momentum, weight_decay and apply (1 or 0) of the current update.
    """

    def __init__(
        self,
        table: NDArray[np.float32],
        *,
        device: torch.device | str = "cpu",
        backend: str = "torch",
        tick: Tensor | None = None,
    ):
        self.host_table = np.ascontiguousarray(table, dtype=np.float32)
        self.table = torch.from_numpy(self.host_table).to(device)
        self.total_steps, n_groups, _ = table.shape
        self.moves = [bool(self.host_table[:, group, 1].any()) for group in range(n_groups)]
        """Per group, whether its momentum is ever above 0."""
        self.backend = backend
        self.tick = tick
        self.smoothing = 0.98
        self.stop_factor: float | None = None
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.losses = torch.full((self.total_steps,), math.nan, device=device)
        self.average = torch.tensor([0.0, 0.0, math.inf], device=device)
        self.stop = torch.zeros((), dtype=torch.bool, device=device)
        self.row = torch.zeros((n_groups, 4), device=device)
        self.ticket = torch.zeros((), dtype=torch.int32, device=device)
        """Blocks of a running update that have read the state; backend "cuda" only."""
        self.host_step = 0
        """The step as the host knows it without asking the device: exact on the CPU; on other devices an update
        that was skipped there counts as made, and a replayed graph is not seen, until ``synchronize``."""
        self.device = self.table.device
        reason = backends.why_not(backend, self.device)
        if reason is not None:
            raise RuntimeError(f"backend: {backend!r} cannot work on {self.device}: {reason}")
        self._told: tuple[Tensor, int] | None = None
        self._copied: tuple[list[Tensor], torch.cuda.Event] | None = None
        self._seen = np.empty(0, dtype=np.float32)

    def addresses(self) -> tuple[int, ...]:
        """Where the native backends find the control: ``(table, total_steps, n_groups, step, losses, average, stop,
        row)``, all but the two numbers addresses. Read at every step, because torch may move a tensor's memory.

        Raises:
            RuntimeError: one of the tensors is not what it was made as.
        """
        tensors, sizes = self.tensors(), (self.total_steps, len(self.moves))
        place = (2 if self.device.type == "cuda" else 1, self.device.index or 0)  # as DLPack has it
        found: tuple[int, ...] | None = _native.load().control_addresses(tensors, *sizes, place)
        if found is None:  # there is no exchange API, or something is wrong
            self._require_fitting()
            table, *rest = (tensor.data_ptr() for tensor in tensors)
            found = (table, *sizes, *rest)
        return found

    def tensors(self) -> tuple[Tensor, ...]:
        """All that ``advance`` reads and writes on the device."""
        return (self.table, self.step, self.losses, self.average, self.stop, self.row)

    def _require_fitting(self) -> None:
        n_groups = len(self.moves)
        wanted = {
            "table": (torch.float32, (self.total_steps, n_groups, 3)),
            "step": (torch.int64, ()),
            "losses": (torch.float32, (self.total_steps,)),
            "average": (torch.float32, (3,)),
            "stop": (torch.bool, ()),
            "row": (torch.float32, (n_groups, 4)),
        }
        for name, (dtype, shape) in wanted.items():
            tensor = getattr(self, name)
            fits = (tensor.dtype, tuple(tensor.shape), tensor.device) == (dtype, shape, self.device)
            if not fits or not tensor.is_contiguous() or tensor.is_neg():
                raise RuntimeError(
                    f"control.{name}: got {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}; it must be "
                    f"{dtype} of shape {shape} on {self.device}, contiguous; write into it in place instead"
                )

    def recorded(self) -> NDArray[np.float32]:
        """The losses so far, as far as they are known without waiting for the device; the last is the one that set
        ``stop``, if that is set.

        On a CUDA device each call starts a copy and returns the one before, so the answer comes a call late.
        """
        if self.device.type != "cuda":
            return _until_now(self.step, self.stop, self.losses)
        if self._copied is None or self._copied[1].query():
            if self._copied is not None:
                self._seen = _until_now(*self._copied[0])
            if not capture.is_capturing((self.device,)):  # nothing runs yet there, and asking would break the capture
                copies = [_on_its_way(tensor) for tensor in (self.step, self.stop, self.losses)]
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(self.device))
                self._copied = copies, event
        return self._seen

    def watch_divergence(self, *, smoothing: float = 0.98, stop_factor: float = 4.0) -> None:
        """Stop all updates, for good, once the loss diverges or is not finite.

        The loss diverges where ``smoothed - best > (stop_factor - 1) * |best|``: for positive losses where the
        smoothed loss exceeds ``stop_factor`` times its best value so far.

        Args:
            smoothing: weight of the past in the moving average (corrected for its start), in [0, 1).
            stop_factor: > 1.
        """
        require_divergence_limits(smoothing, stop_factor)
        self.smoothing, self.stop_factor = smoothing, stop_factor

    def advance(self, loss: Tensor | float | None = None, found_inf: Tensor | None = None) -> None:
        """Take one step, in this order:

        - where ``stop`` is set: ``apply = 0``, and nothing else changes;
        - record ``loss`` (one element) at ``losses[step]``, and update ``average`` and ``stop`` with it;
        - ``apply = not stop and found_inf == 0``;
        - load row ``min(step, total_steps - 1)`` of the table;
        - ``step += apply``: a skipped update never moves the schedule.
        """
        loss = self.as_tensor(loss)
        backend: Any = {"torch": reference, "cpp": native, "cuda": cuda}[self.backend]
        backend.advance_(self, loss, found_inf)
        self.count_step()

    def as_tensor(self, loss: Tensor | float | None) -> Tensor | None:
        """``loss`` as a tensor of one element; a number too large for float32 is infinite there, as a tensor's is.

        Raises:
            ValueError: it has more, or is complex.
        """
        if loss is None:
            return None
        if not isinstance(loss, Tensor):
            # In two steps: torch.full refuses what overflows, and torch.tensor on the device would wait for it.
            value = torch.tensor(float(loss), dtype=torch.float32, device="cpu").item()
            return torch.full((), value, dtype=torch.float32, device=self.device)
        if loss.numel() != 1:
            raise ValueError(f"loss: got shape {tuple(loss.shape)}; give a scalar, for example loss.mean()")
        if loss.is_complex():
            raise ValueError("loss: got a complex number; give a real one, for example loss.abs()")
        return loss

    def record(self, loss: Tensor | float) -> None:
        """Note the loss that the next ``step()`` belongs to, without waiting for the device.

        For wrappers of the optimizer that pass no ``loss=`` on: call it before their ``step()``, with the loss in its
        own unit. Several calls before one ``step()`` are averaged: under accumulation, and after an update that a
        GradScaler has skipped by not calling ``step()``.

        Args:
            loss: one element.
        Raises:
            ValueError: it has more, or is complex.
        """
        tensor = self.as_tensor(loss)
        assert tensor is not None
        value = tensor.detach().reshape(()).to(torch.float32, copy=True)  # what is told may change, and sums round
        self._told = (value, 1) if self._told is None else (self._told[0] + value, self._told[1] + 1)

    def keep_records_of(self, other: StepControl) -> None:
        """Take over what ``record`` was told by way of ``other``, whose place this control takes."""
        self._told = other._told

    def take_recorded(self) -> Tensor | None:
        """The mean of what ``record`` was told since the last call; None if nothing was."""
        if self._told is None:
            return None
        (total, count), self._told = self._told, None
        return total / count

    def count_step(self) -> None:
        """Bring ``host_step`` up to date after ``advance``."""
        if self.device.type == "cpu":
            self.host_step = int(self.step)
        elif not capture.is_capturing((self.device,)):
            self.host_step += 1

    def synchronize(self) -> int:
        """Wait for the device and return the exact step."""
        self.host_step = int(self.step)
        return self.host_step

    def host_row(self, step: int | None = None) -> list[list[float]]:
        """lr, momentum and weight_decay of each group at ``step``; None: at the next update, as the host knows it."""
        return row_at(self.host_table, self.host_step if step is None else step)

    def progress(self) -> dict[str, Any]:
        """What a checkpoint needs beside the table; ``resume`` takes it back."""
        tensors = {name: getattr(self, name).clone() for name in ("step", "losses", "average", "stop")}
        return {**tensors, "smoothing": self.smoothing, "stop_factor": self.stop_factor}

    def resume(self, progress: dict[str, Any]) -> None:
        """Continue where ``progress`` was taken; the table may have another length. Of the step alone, which is enough,
        the losses before it stay unknown."""
        self.step.fill_(int(progress["step"]))
        if "losses" in progress:
            self.average.copy_(progress["average"])
            self.stop.copy_(progress["stop"])
            kept = min(self.total_steps, len(progress["losses"]))
            self.losses[:kept] = progress["losses"][:kept].to(self.device)
            self.smoothing, self.stop_factor = progress["smoothing"], progress["stop_factor"]
        self.synchronize()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copied": None}  # what an event guards; made anew where needed


def require_divergence_limits(smoothing: float, stop_factor: float) -> None:
    """Raises ValueError unless divergence can be watched with these."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing: got {smoothing}; give a number in [0, 1)")
    if not stop_factor > 1:
        raise ValueError(f"stop_factor: got {stop_factor}; give a number above 1 (4 is usual)")


def _on_its_way(tensor: Tensor) -> Tensor:
    """A copy of ``tensor`` in the CPU's memory, there once the device has come to it."""
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def _until_now(step: Tensor, stop: Tensor, losses: Tensor) -> NDArray[np.float32]:
    return losses[: int(step) + int(stop)].numpy().copy()
