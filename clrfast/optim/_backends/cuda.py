"""The CUDA backend: one launch for the schedule's step and the update of up to a thousand tensors; it never waits."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ... import _native
from .. import _capture as capture
from .._parameters import described, require_one_element, with_gradient
from .native import OPTIONS, NativeUpdate

if TYPE_CHECKING:
    from .._control import StepControl
    from .._sgd import SGD

MERGED_CHUNKS = 2048
"""A launch of at most so many chunks (of 4,096 elements, 8,192 of 16 bits) takes the schedule's step itself.

An arithmetical choice, to be measured (benchmarks/speed/kernel_variants.cu): a launch of its own costs about 4 us
once, the step within the update about 0.5 us for each time that the blocks fill the device (528 of them on an H100).
"""


def why_not(device: torch.device) -> str | None:
    """Why this backend cannot update parameters on ``device``, and what to do about it; None if it can."""
    if device.type != "cuda":
        return f"it works on CUDA devices, not on {device}; move the model, or use backend='auto'"
    return why_not_built() or _why_not_usable(device.index)


def why_not_built() -> str | None:
    """Why this build or this torch has no such backend; None if both have."""
    if _native.why_missing is not None:
        return f"{_native.why_missing}; {_native.HOW_TO_BUILD}"
    if not hasattr(_native.load(), "sgd_cuda_"):
        return (
            "clrfast was built without CUDA (there was no nvcc, or CLRFAST_CUDA=0); install the CUDA toolkit and "
            "install clrfast again with CLRFAST_CUDA=1, which fails loudly instead of leaving it out"
        )
    return None


def why_no_device() -> str | None:
    """Why no CUDA device can be used at all; None if one can. The backend itself is there."""
    module = _native.load()
    problem: str = module.cuda_problem()
    if not problem and torch.version.cuda is None:
        problem = f"torch {torch.__version__} itself is built without CUDA"
    targets = module.cuda_targets.split(", ")
    span = targets[0] if len(targets) == 1 else f"{targets[0]} … {targets[-1]}"
    return f"built for {span}, {problem}" if problem else None


@functools.cache
def _why_not_usable(index: int) -> str | None:
    reason = why_no_device()
    if reason is not None:
        return reason
    try:
        with _on(index):
            _native.load().load_cuda()
    except RuntimeError as error:
        targets = _native.load().cuda_targets
        return f"built for {targets}; the kernels do not load on {torch.cuda.get_device_name(index)}: {error}"
    return None


def advance_(control: StepControl, loss: Tensor | None, found_inf: Tensor | None) -> None:
    """One step of the control, on its device's current stream."""
    arguments, used = _advance(control, loss, found_inf)
    with _on(control.device):
        _native.load().advance_cuda_(arguments, _stream(control.device))
        if capture.is_capturing((control.device,)):
            _hold_for_graph(control.device, used)


class CudaUpdate(NativeUpdate):
    """The update of an optimizer's parameters on one CUDA device.

    Args:
        tick: int64 [] on the device, counts the updates; an update's number tells the first one of a buffer from
            the later ones (``Tensor::started`` in csrc/tensor_list.h).
    """

    device_type = 2
    mixed = True

    def __init__(self, optimizer: SGD, device: torch.device, tick: Tensor):
        super().__init__(optimizer, device)
        self._tick = tick

    def _update_(self, optimizer: SGD, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        control = optimizer.controls[self._device] if optimizer.controls else None
        if control is not None:
            advance, used = _advance(control, control.as_tensor(loss), found_inf)
            found_inf = None  # the control knows of it
        else:
            advance, used = (None, 0.0, 0.0, 0, 0, self._tick.data_ptr(), 0), [self._tick]
        rates: list[Tensor] = []  # kept until the launch has read their addresses
        groups = [self._group(group, rates) for group in optimizer.param_groups]
        grad_scale, found_inf = (_float32(tensor, self._device) for tensor in (grad_scale, found_inf))
        with _on(self._device):
            try:
                _native.load().sgd_cuda_(
                    self._tensors,
                    groups,
                    advance,
                    _address(grad_scale),
                    _address(found_inf),
                    MERGED_CHUNKS,
                    _stream(self._device),
                )
            except RuntimeError as error:
                first = next((one for one in with_gradient(optimizer) if one.param.device == self._device), None)
                if first is None:
                    raise
                where = described(first.index, first.group, first.param)
                raise RuntimeError(f"{where} and those launched with it were not updated: {error}") from error
            if capture.is_capturing(self._devices):
                used += [*self._updated, *self._grads, self._rest, *optimizer.state_tensors()]
                used += [*rates, grad_scale, found_inf]
                _hold_for_graph(self._device, used)
        if control is not None:
            control.count_step()

    def _group(self, group: dict[str, Any], rates: list[Tensor]) -> tuple[float, ...]:
        """One group's options, and where its rate lies on the device as float32 and float64 (0 for a number)."""
        lr = group["lr"]
        if not isinstance(lr, Tensor) or (lr.device != self._device and lr.device.type == "cpu"):
            return (*(float(group[name]) for name in OPTIONS), 0, 0)
        require_one_element(lr)
        rates += [lr.detach().to(self._device, dtype, non_blocking=True) for dtype in (torch.float32, torch.float64)]
        options = (float(group[name]) for name in OPTIONS[1:])
        return (0.0, *options, rates[-2].data_ptr(), rates[-1].data_ptr())


def _float32(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(device, torch.float32, non_blocking=True)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _advance(control: StepControl, loss: Tensor | None, found_inf: Tensor | None) -> tuple[tuple[Any, ...], list[Any]]:
    """The control's next step as the kernels take it, and the tensors whose addresses are in it."""
    loss, found_inf = (_float32(tensor, control.device) for tensor in (loss, found_inf))
    arguments = (
        control.addresses(),
        control.smoothing,
        control.stop_factor or 0.0,
        _address(loss),
        _address(found_inf),
        _address(control.tick),
        control.ticket.data_ptr(),
    )
    return arguments, [*control.tensors(), control.ticket, control.tick, loss, found_inf]


def _stream(device: torch.device) -> int:
    """The handle of the device's current stream."""
    return torch.cuda.current_stream(device).cuda_stream


def _on(device: torch.device | int) -> contextlib.AbstractContextManager[Any]:
    """A block in which ``device`` is the current one. torch switches, because it knows which devices are in use: to
    return to one that was never used would create a context of hundreds of megabytes there."""
    return torch.cuda.device(device)


def _hold_for_graph(device: torch.device, objects: list[Any]) -> None:
    """Keep ``objects`` for as long as the graph lives that the current stream of ``device`` is capturing."""
    _native.load().hold_for_graph(_stream(device), objects)
