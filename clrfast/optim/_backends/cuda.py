"""The CUDA backend: one launch advances the schedule and updates up to a thousand tensors. It never waits."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor

from ... import _native
from .. import _capture as capture
from .._parameters import describe, devices_of, params_with_grad, require_one_element
from .._protocols import Control, GradScale, OptimizerView
from .._rules import Rule
from .native import NativeUpdate, as_float32, clip_arguments, group_numbers

MAX_MERGED_CHUNKS = 2048
"""Maximum number of chunks (4,096 elements; 8,192 of 16 bits) for which one launch advances the schedule and updates.

The value is estimated, not measured; benchmarks/speed/kernel_variants measures it. A separate launch costs about
4 us once. Advancing within the update costs about 0.5 us each time that its blocks fill the device (528 blocks on an
H100).
"""


def why_not(device: torch.device) -> str | None:
    """Return why this backend cannot update parameters on ``device``, and the remedy; None if it can."""
    if device.type != "cuda":
        return f"it works on CUDA devices, not on {device}; move the model, or use backend='auto'"
    return why_not_built() or _why_not_usable(device.index)


def why_not_built() -> str | None:
    """Return why this build lacks the backend, and the remedy; None if it has it."""
    if _native.why_missing is not None:
        return f"{_native.why_missing}; {_native.HOW_TO_BUILD}"
    if not hasattr(_native.load(), "sgd_cuda_"):
        return (
            "clrfast was built without CUDA (there was no nvcc, or CLRFAST_CUDA=0); install the CUDA toolkit and "
            "install clrfast again with CLRFAST_CUDA=1, which fails loudly instead of leaving it out"
        )
    return None


def why_no_device() -> str | None:
    """Return why no CUDA device can be used at all; None if one can. The build must have the backend."""
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
        with _device_guard(index):
            _native.load().load_cuda()
    except RuntimeError as error:
        targets = _native.load().cuda_targets
        return f"built for {targets}; the kernels do not load on {torch.cuda.get_device_name(index)}: {error}"
    return None


def updates_of(optimizer: OptimizerView) -> list[CudaUpdate]:
    """Return one update per device."""
    devices = devices_of(optimizer.param_groups)
    return [CudaUpdate(optimizer, device, optimizer.step_count_on(device)) for device in devices]


def advance_(control: Control, loss: Tensor | None, found_inf: Tensor | None) -> None:
    """Take one step of the control, on its device's current stream."""
    arguments, used = _advance_params(control, loss, found_inf)
    with _device_guard(control.device):
        _native.load().advance_cuda_(arguments, _stream_handle(control.device))
        if capture.is_capturing((control.device,)):
            _hold_for_graph(control.device, used)


class CudaUpdate(NativeUpdate):
    """The update of an optimizer's parameters on one CUDA device.

    Args:
        step_count: int64 [] on the device, the number of the current step, which counters refer to
            (``UpdateCounter`` in csrc/rules/rule.h).
    """

    device_type = 2
    mixed_dtypes = True

    def __init__(self, optimizer: OptimizerView, device: torch.device, step_count: Tensor):
        super().__init__(optimizer, device)
        self._step_count = step_count

    def _clip_(self, optimizer: OptimizerView, max_norm: float, scale: GradScale, result: Tensor) -> None:
        control = optimizer.control
        grad_scale, found_inf = (as_float32(tensor, self._device) for tensor in (scale.grad_scale, scale.found_inf))
        rows = self._cache.rows
        sums = torch.empty(_native.load().clip_scratch(rows), dtype=torch.float64, device=self._device)
        with _device_guard(self._device):
            _native.load().clip_cuda_(
                rows,
                len(optimizer.param_groups),
                clip_arguments(control, max_norm, grad_scale, found_inf, result),
                sums.data_ptr() or result.data_ptr(),
                _stream_handle(self._device),
            )
            if capture.is_capturing(self._devices):
                used = [*self._grads, grad_scale, found_inf, result, sums]
                _hold_for_graph(self._device, [*used, *(control.tensors() if control is not None else ())])

    def _update_(self, optimizer: OptimizerView, loss: Any, scale: GradScale) -> None:
        control = optimizer.controls[self._device] if optimizer.controls else None
        grad_scale, found_inf = (as_float32(tensor, self._device) for tensor in (scale.grad_scale, scale.found_inf))
        clip_factor = scale.clip_factor
        if clip_factor is not None:
            clip_factor = clip_factor.to(self._device, torch.float64, non_blocking=True)
        if control is not None:
            advance, used = _advance_params(control, control.as_tensor(loss), found_inf)
            found_inf = None  # the control decides whether to apply the update
        else:
            advance, used = (None, 0.0, 0.0, 0, 0, self._step_count.data_ptr(), 0), [self._step_count]
        rates: list[Tensor] = []  # keeps them alive until the launch has read them
        groups = [self._group(optimizer.rule, group, rates) for group in optimizer.param_groups]
        with _device_guard(self._device):
            try:
                getattr(_native.load(), f"{optimizer.rule.name}_cuda_")(
                    self._cache.rows,
                    groups,
                    advance,
                    _address(grad_scale),
                    _address(clip_factor),
                    _address(found_inf),
                    MAX_MERGED_CHUNKS,
                    _stream_handle(self._device),
                )
            except RuntimeError as error:
                first = next((one for one in params_with_grad(optimizer) if one.param.device == self._device), None)
                if first is None:
                    raise
                where = describe(first.index, first.group, first.param)
                raise RuntimeError(f"{where} and those launched with it were not updated: {error}") from error
            if capture.is_capturing(self._devices):
                used += [*self._params, *self._grads, self._left_to_reference, *optimizer.state_tensors()]
                used += [*rates, grad_scale, clip_factor, found_inf]
                _hold_for_graph(self._device, used)
        if control is not None:
            control.count_step()

    def _group(self, rule: Rule, group: dict[str, Any], rates: list[Tensor]) -> tuple[float, ...]:
        """Return a group's options, and the addresses of its rate on the device (float32, float64); 0 for a number."""
        lr = group["lr"]
        if not isinstance(lr, Tensor) or (lr.device != self._device and lr.device.type == "cpu"):
            return (*group_numbers(rule, group), 0, 0)
        require_one_element(lr)
        rates += [lr.detach().to(self._device, dtype, non_blocking=True) for dtype in (torch.float32, torch.float64)]
        return (*group_numbers(rule, {**group, "lr": 0.0}), rates[-2].data_ptr(), rates[-1].data_ptr())


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _advance_params(
    control: Control, loss: Tensor | None, found_inf: Tensor | None
) -> tuple[tuple[Any, ...], list[Any]]:
    """Return the arguments that make the kernels advance ``control``, and the tensors whose addresses are in them."""
    loss, found_inf = (as_float32(tensor, control.device) for tensor in (loss, found_inf))
    arguments = (
        control.addresses(),
        control.smoothing,
        control.stop_factor or 0.0,
        _address(loss),
        _address(found_inf),
        _address(control.step_count),
        control.blocks_done.data_ptr(),
    )
    return arguments, [*control.tensors(), control.blocks_done, control.step_count, loss, found_inf]


def _stream_handle(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def _device_guard(device: torch.device | int) -> contextlib.AbstractContextManager[Any]:
    """Make ``device`` the current one within a block. Unlike ``cudaSetDevice``, torch's guard does not return to a
    device that was never used, which would create a context of hundreds of megabytes there."""
    return torch.cuda.device(device)


def _hold_for_graph(device: torch.device, objects: list[Any]) -> None:
    """Keep ``objects`` alive as long as the graph that the current stream of ``device`` is capturing."""
    _native.load().hold_for_graph(_stream_handle(device), objects)
