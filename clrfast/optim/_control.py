"""``StepControl``: the table, step, losses and stop flag of a run, on the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _native
from .._checks import is_whole
from .._metric_writers import write_series
from ..schedules._table import QUANTITIES, row_at
from . import _backends as backends
from . import _capture as capture

_PROGRESS = ("step", "losses", "grad_norms", "average", "stop")


class StepControl:
    """Decides on the device which row of a schedule's table the next update uses, and whether it is applied.

    Args:
        table: float32 ``[total_steps, n_groups, 3]`` (lr, momentum, weight_decay), as ``Schedule.table`` returns it.
        device: device of all its tensors.
        backend: "torch", "cpp" or "cuda".
        step_count: int64 ``[]`` on ``device``, the number of calls of ``advance``; backend "cuda" only.

    Attributes (tensors on ``device``, which ``advance`` writes without synchronization):
        step: int64 ``[]``, number of applied updates.
        losses: float32 ``[total_steps]``, the loss that was recorded before update ``i``; NaN where none was.
        grad_norms: float32 ``[total_steps]``, the norm of all gradients of update ``i`` before clipping, which an
            optimizer with ``clip_norm`` writes; NaN where none was measured.
        average: float32 ``[3]``: the exponential moving average of the loss, its weight, and the best smoothed loss.
        stop: bool ``[]``, sticky; ``watch_divergence`` says when it is set.
        row: float32 ``[n_groups, 4]``: lr, momentum, weight_decay and apply (1 or 0) of the current update.

    Raises:
        RuntimeError: the backend does not work on ``device``.
    """

    def __init__(
        self,
        table: NDArray[np.float32],
        *,
        device: torch.device | str = "cpu",
        backend: str = "torch",
        step_count: Tensor | None = None,
    ):
        self.host_table = np.ascontiguousarray(table, dtype=np.float32)
        self.table = torch.from_numpy(self.host_table).to(device)
        self.total_steps, n_groups, _ = table.shape
        self.uses_momentum = [bool(self.host_table[:, group, 1].any()) for group in range(n_groups)]
        """Whether the momentum of each group is ever above 0."""
        self.backend = backend
        self.step_count = step_count
        self.smoothing = 0.98
        self.stop_factor: float | None = None
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.losses = torch.full((self.total_steps,), math.nan, device=device)
        self.grad_norms = torch.full((self.total_steps,), math.nan, device=device)
        self.average = torch.tensor([0.0, 0.0, math.inf], device=device)
        self.stop = torch.zeros((), dtype=torch.bool, device=device)
        self.row = torch.zeros((n_groups, 4), device=device)
        self.blocks_done = torch.zeros((), dtype=torch.int32, device=device)
        """Blocks of a running update that have read the state; backend "cuda" only."""
        self.host_step = 0
        """The step as the host knows it without reading the device. It is exact on the CPU. On other devices it also
        counts skipped updates, and misses replayed graphs, until ``synchronize``."""
        self.device = self.table.device
        reason = backends.BACKENDS[backend].why_not(self.device)
        if reason is not None:
            raise RuntimeError(f"backend: {backend!r} cannot work on {self.device}: {reason}")
        self._loss_sum: tuple[Tensor, int] | None = None  # sum and number of the losses passed to `record`
        self._pending_copy: tuple[list[Tensor], torch.cuda.Event] | None = None
        self._copied_losses = np.empty(0, dtype=np.float32)

    def addresses(self) -> tuple[int, ...]:
        """Return ``(table, total_steps, n_groups, step, losses, grad_norms, average, stop, row)`` for native code.

        All but the two numbers are addresses. They are read at every step, because torch may move a tensor's memory.

        Raises:
            RuntimeError: one of the tensors has another dtype, shape, device or layout than it was made with.
        """
        tensors, sizes = self.tensors(), (self.total_steps, len(self.uses_momentum))
        device = (2 if self.device.type == "cuda" else 1, self.device.index or 0)  # as DLPack has it
        found: tuple[int, ...] | None = _native.load().control_addresses(tensors, *sizes, device)
        if found is None:  # there is no exchange API, or a tensor does not fit
            self._require_fitting()
            table, *rest = (tensor.data_ptr() for tensor in tensors)
            found = (table, *sizes, *rest)
        return found

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors on the device that ``advance`` reads and writes."""
        return (self.table, self.step, self.losses, self.grad_norms, self.average, self.stop, self.row)

    def _require_fitting(self) -> None:
        n_groups = len(self.uses_momentum)
        wanted = {
            "table": (torch.float32, (self.total_steps, n_groups, 3)),
            "step": (torch.int64, ()),
            "losses": (torch.float32, (self.total_steps,)),
            "grad_norms": (torch.float32, (self.total_steps,)),
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

    def recorded_losses(self) -> NDArray[np.float32]:
        """Return the losses so far, float32 ``[n]``, without waiting for the device.

        If ``stop`` is set, the last loss is the one that set it. On a CUDA device each call starts a copy and returns
        the result of the previous copy, so the losses are one call late.
        """
        if self.device.type != "cuda":
            return _losses_so_far(self.step, self.stop, self.losses)
        if self._pending_copy is None or self._pending_copy[1].query():
            if self._pending_copy is not None:
                self._copied_losses = _losses_so_far(*self._pending_copy[0])
            if not capture.is_capturing((self.device,)):  # nothing runs in a capture, and a copy would break it
                copies = [_copy_to_host(tensor) for tensor in (self.step, self.stop, self.losses)]
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(self.device))
                self._pending_copy = copies, event
        return self._copied_losses

    def log_to(self, writer: Any, *, start: int = 0) -> int:
        """Write loss, gradient norm, lr, momentum and weight decay of the updates so far to a logger.

        The names are "clrfast/loss", "clrfast/grad_norm", "clrfast/lr" and so on; with several parameter groups whose
        values differ somewhere in the run, "clrfast/lr_0", "clrfast/lr_1" and so on. Waits for the device.

        Args:
            writer: TensorBoard's ``SummaryWriter``, a W&B run, the modules ``mlflow`` and ``trackio``, a logger of
                Lightning, or any object with ``add_scalar``, ``log_metrics`` or ``log``; see ``write_series``.
            start: the first update to write, at least 0. Give what the previous call returned.
        Returns:
            The number of updates so far, at most ``total_steps``.
        Raises:
            TypeError: ``writer`` has none of these methods.
            ValueError: ``start`` is not a whole number of at least 0.
        """
        if not is_whole(start) or start < 0:
            raise ValueError(f"start: got {start!r}; give a number of updates, at least 0")
        step = min(self.synchronize(), self.total_steps)
        rows = self.host_table[start:step]
        series: dict[str, Any] = {"loss": self.losses[start:step].cpu(), "grad_norm": self.grad_norms[start:step].cpu()}
        for column, name in enumerate(QUANTITIES):
            values, of_run = rows[:, :, column], self.host_table[:, :, column]
            if (of_run == of_run[:, :1]).all():  # of the whole run, so that all calls use the same names
                series[name] = values[:, 0]
            else:
                series.update({f"{name}_{group}": values[:, group] for group in range(values.shape[1])})
        write_series(writer, "clrfast", series, start)
        return step

    def watch_divergence(self, *, smoothing: float = 0.98, stop_factor: float = 4.0) -> None:
        """Stop all updates for good once the loss diverges or is not finite.

        The loss diverges where ``smoothed - best > (stop_factor - 1) * |best|``: for positive losses, where the
        smoothed loss exceeds ``stop_factor`` times its best value so far.

        Args:
            smoothing: weight of the past in the moving average (with bias correction), in [0, 1).
            stop_factor: > 1.
        Raises:
            ValueError: an argument is outside its range.
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
        backends.BACKENDS[self.backend].advance_(self, self.as_tensor(loss), found_inf)
        self.count_step()

    def as_tensor(self, loss: Tensor | float | None) -> Tensor | None:
        """Return ``loss`` as a tensor of one element; a number too large for float32 becomes infinite.

        Raises:
            ValueError: it has more than one element, or is complex.
        """
        if loss is None:
            return None
        if not isinstance(loss, Tensor):
            # In two steps: torch.full refuses a number that overflows, and torch.tensor would wait for the device.
            value = torch.tensor(float(loss), dtype=torch.float32, device="cpu").item()
            return torch.full((), value, dtype=torch.float32, device=self.device)
        if loss.numel() != 1:
            raise ValueError(f"loss: got shape {tuple(loss.shape)}; give a scalar, for example loss.mean()")
        if loss.is_complex():
            raise ValueError("loss: got a complex number; give a real one, for example loss.abs()")
        return loss

    def record(self, loss: Tensor | float) -> None:
        """Record the loss for the next ``step()``, without waiting for the device.

        Use it with optimizer wrappers whose ``step()`` takes no ``loss=``: call it before that ``step()``, with the
        loss of one element, before any loss scaling. Several calls before one ``step()`` are averaged: under gradient
        accumulation, and after an update that a GradScaler has skipped by not calling ``step()``.
        """
        tensor = self.as_tensor(loss)
        assert tensor is not None
        value = tensor.detach().reshape(()).to(torch.float32, copy=True)  # the caller may change it; float16 sums round
        self._loss_sum = (value, 1) if self._loss_sum is None else (self._loss_sum[0] + value, self._loss_sum[1] + 1)

    def take_over_records(self, other: StepControl) -> None:
        """Take over the losses recorded by ``other``, which this control replaces, for the next ``step()``."""
        self._loss_sum = other._loss_sum

    def take_recorded(self) -> Tensor | None:
        """Return the mean of the losses recorded since the last call; None if there are none."""
        if self._loss_sum is None:
            return None
        (total, count), self._loss_sum = self._loss_sum, None
        return total / count

    def count_step(self) -> None:
        """Update ``host_step`` after ``advance``."""
        if self.device.type == "cpu":
            self.host_step = int(self.step)
        elif not capture.is_capturing((self.device,)):
            self.host_step += 1

    def synchronize(self) -> int:
        """Wait for the device and return the exact step."""
        self.host_step = int(self.step)
        return self.host_step

    def host_row(self, step: int | None = None) -> list[list[float]]:
        """Return lr, momentum and weight_decay of each group at ``step``; None means ``host_step``."""
        return row_at(self.host_table, self.host_step if step is None else step)

    def progress(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the table, for ``resume``."""
        tensors = {name: getattr(self, name).clone() for name in _PROGRESS}
        return {**tensors, "smoothing": self.smoothing, "stop_factor": self.stop_factor}

    def resume(self, progress: dict[str, Any]) -> None:
        """Continue from ``progress``; the table may have another length.

        "step" alone is enough; the losses before it are then unknown.
        """
        self.step.fill_(int(progress["step"]))
        if "losses" in progress:
            self.average.copy_(progress["average"])
            self.stop.copy_(progress["stop"])
            kept = min(self.total_steps, len(progress["losses"]))
            self.losses[:kept] = progress["losses"][:kept].to(self.device)
            if "grad_norms" in progress:  # older checkpoints have none
                self.grad_norms[:kept] = progress["grad_norms"][:kept].to(self.device)
            self.smoothing, self.stop_factor = progress["smoothing"], progress["stop_factor"]
        self.synchronize()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pending_copy": None}  # an event cannot be copied


def require_divergence_limits(smoothing: float, stop_factor: float) -> None:
    """Raise ValueError unless ``watch_divergence`` accepts the values."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing: got {smoothing}; give a number in [0, 1)")
    if not stop_factor > 1:
        raise ValueError(f"stop_factor: got {stop_factor}; give a number above 1 (4 is usual)")


def _copy_to_host(tensor: Tensor) -> Tensor:
    """Start a copy of ``tensor`` into the CPU's memory; it is complete once the device has reached it."""
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def _losses_so_far(step: Tensor, stop: Tensor, losses: Tensor) -> NDArray[np.float32]:
    return losses[: int(step) + int(stop)].numpy().copy()
