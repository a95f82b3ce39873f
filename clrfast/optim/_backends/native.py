"""The base of the native backends: one compiled call updates all tensors of a step.

``TensorCollector`` in C++ reads the memory of all tensors at every step, through DLPack's exchange API. Kept addresses
would be silently wrong as soon as a parameter, gradient or buffer is replaced. ``NativeUpdate`` does the same in
Python, slower, where torch is too old for that API, state is missing, or the compiled code cannot judge a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _native
from ..._torch_compat import EXCHANGE_API, increment_version
from .. import _capture as capture
from .._parameters import SUPPORTED, ParamWithGrad, devices_of, params_with_grad
from .._protocols import OptimizerView
from . import reference

OPTIONS = ("lr", "momentum", "weight_decay", "dampening", "nesterov", "maximize")
"""A group's options, in the order in which the compiled calls take them."""

has_exchange_api: bool = (
    _native.why_missing is None
    and EXCHANGE_API is not None
    and _native.load().set_exchange_api_(torch.Tensor, EXCHANGE_API)
)
"""Whether ``TensorCollector`` can read the tensors' memory; if not, every step collects it in Python."""

_DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(SUPPORTED)}
_COLUMNS = 8  # csrc/tensor_list.h: param, grad, buffer, master, momentum_initialized, numel, dtypes, group


class _Cache(NamedTuple):
    """What Python found when it last collected the tensors; csrc/python/tensor_collector.h describes the entries."""

    rows: NDArray[np.int64]
    state_items: list[Any]
    flag_items: list[Any]
    per_param: list[tuple[Any, ...] | None]


class NativeUpdate:
    """The update of an optimizer's parameters on one device: finds their memory; a subclass updates them."""

    device_type: int
    """DLPack's number of the device type."""
    mixed_dtypes: bool
    """Whether the tensors of one parameter may differ in dtype; if so, it may have master weights."""

    def __init__(self, optimizer: OptimizerView, device: torch.device):
        self._device = device
        self._devices = devices_of(optimizer.param_groups)
        self._collector = _native.load().TensorCollector(
            (self.device_type, device.index or 0),
            [other.index for other in self._devices if other != device],
            self.mixed_dtypes,
            optimizer.master_weights,
        )
        self._cache = _Cache(np.zeros((0, _COLUMNS), dtype=np.int64), [], [], [])
        self._params: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._left_to_reference: list[ParamWithGrad] = []

    def prepare(self, optimizer: OptimizerView) -> bool:
        """Find this step's gradients; ``Update.prepare`` has the details."""
        if capture.is_capturing(self._devices):
            capture.require_complete(optimizer, params_with_grad(optimizer.param_groups, optimizer.state))
        groups = range(len(optimizer.param_groups))
        uses_momentum = [optimizer.uses_momentum(group) for group in groups]
        found = self._collector.collect(
            optimizer.param_groups,
            optimizer.state,
            optimizer.momentum_flags.by_buffer,
            uses_momentum,
            [optimizer.tracks_first_update(group) for group in groups],
            self._cache,
        )
        if found is None:
            if devices_of(optimizer.param_groups) != self._devices:
                return False
            self._collect_in_python(optimizer, uses_momentum)
        else:
            # Holding the gradients keeps their memory while the update runs without the interpreter's lock.
            (self._params, self._grads), self._left_to_reference = found, []
        return True

    def update_(self, optimizer: OptimizerView, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Advance the schedule and apply the update; ``Update.update_`` has the details."""
        # Autograd does not see raw writes. It is notified before the update, while the tensors' headers, which
        # `prepare` has just read, are still in the CPU's cache.
        increment_version(self._params)
        self._update_(optimizer, loss, grad_scale, found_inf)
        self._grads = []
        if self._left_to_reference:
            reference.update_all_(optimizer, self._left_to_reference, grad_scale, found_inf)
            self._left_to_reference = []

    def _update_(
        self, optimizer: OptimizerView, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        raise NotImplementedError

    def _collect_in_python(self, optimizer: OptimizerView, uses_momentum: list[bool]) -> None:
        """Make the missing state, then do what ``TensorCollector.collect`` does, and fill its cache."""
        n_params = sum(len(group["params"]) for group in optimizer.param_groups)
        rows = np.zeros((n_params, _COLUMNS), dtype=np.int64)
        per_param: list[tuple[Any, ...] | None] = [None] * n_params
        self._params, self._grads, self._left_to_reference = [], [], []
        for parameter in params_with_grad(optimizer.param_groups, optimizer.state):
            param, grad = parameter.param, parameter.grad
            if param.device != self._device:
                continue
            state = optimizer.ensure_state(parameter.group, param)
            buffer, master = state.get("momentum_buffer"), state.get("master_param")
            flag = optimizer.momentum_flags.flag_of(buffer)
            cached = (param, state, buffer, flag, master, *flat_items(state)) if param in optimizer.state else None
            if not uses_momentum[parameter.group]:
                buffer = flag = None
            if not optimizer.keeps_master(param):
                master = None
            if not self._supports(param, grad, buffer, master) or not _is_flag(flag, param):
                self._left_to_reference.append(parameter)
                continue
            per_param[parameter.index] = cached  # only for parameters that passed the checks
            self._params.append(param)
            self._grads.append(grad)
            rows[parameter.index] = _row(param, grad, buffer, master, flag, parameter.group)
        flags = optimizer.momentum_flags.by_buffer
        self._cache = _Cache(rows, flat_items(optimizer.state), flat_items(flags), per_param)

    def _supports(self, param: Tensor, grad: Tensor, buffer: Tensor | None, master: Tensor | None) -> bool:
        """Return whether a kernel can use the tensors: dense and of one layout, so that one flat loop covers them, of
        known dtypes, and in memory of their own. csrc/python/eligibility.h has the same rules; keep both equal."""
        others = [other for other in (grad, buffer, master) if other is not None]
        if any(tensor.numel() and not tensor.data_ptr() for tensor in (param, *others)):
            return False  # a wrapper around other tensors, such as DTensor
        if any(other.device != param.device or other.dtype not in _DTYPE_NUMBERS for other in others):
            return False
        # The memory of a subclass that handles operations itself may not hold its value.
        if any(
            type(one).__torch_dispatch__ is not Tensor.__torch_dispatch__ or one.is_neg() for one in (param, *others)
        ):
            return False
        if not self.mixed_dtypes and (master is not None or any(other.dtype != param.dtype for other in others)):
            return False
        if master is not None and any(other.dtype != torch.float32 for other in (buffer, master) if other is not None):
            return False
        if param.is_contiguous():
            return all(other.is_contiguous() for other in others)
        return _is_dense(param) and all(other.stride() == param.stride() for other in others)


def flat_items(values: Mapping[Any, Any]) -> list[Any]:
    """Return all keys and values in one list, each value after its key."""
    return [entry for item in values.items() for entry in item]


def _row(
    param: Tensor, grad: Tensor, buffer: Tensor | None, master: Tensor | None, flag: Tensor | None, group: int
) -> tuple[int, ...]:
    """Return the fields of one ``ParamTensors`` of csrc/tensor_list.h."""
    dtypes = [_DTYPE_NUMBERS[(param if tensor is None else tensor).dtype] for tensor in (param, grad, buffer)]
    return (
        param.data_ptr(),
        grad.data_ptr(),
        *(0 if tensor is None else tensor.data_ptr() for tensor in (buffer, master, flag)),
        param.numel(),
        dtypes[0] | dtypes[1] << 2 | dtypes[2] << 4,
        group,
    )


def _is_flag(flag: Tensor | None, param: Tensor) -> bool:
    """Return whether the kernels can use the flag of a buffer of ``param``; True if there is no flag."""
    if flag is None:
        return True
    return (flag.dtype, flag.numel(), flag.device) == (torch.int64, 1, param.device)


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill their memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True
