"""The native backends: one compiled call for all tensors of a step. This is what they share, and the CPU's.

``collect_`` finds the memory of all tensors anew at every step, in C++ through DLPack's exchange API: addresses that
were kept would be silently wrong as soon as a parameter, gradient or buffer is swapped unseen. Where torch is too old
for that API, or a tensor needs Python's judgement, the same is done here, correct and slower.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ... import _native
from ..._torch_compat import EXCHANGE_API, increment_version
from .. import _capture as capture
from .._parameters import SUPPORTED, Parameter, devices_of, with_gradient
from . import reference

if TYPE_CHECKING:
    from .._control import StepControl
    from .._sgd import SGD

_DTYPES = {dtype: number for number, dtype in enumerate(SUPPORTED)}
_COLUMNS = 8  # csrc/tensor_list.h: param, grad, buffer, master, started, numel, types, group
OPTIONS = ("lr", "momentum", "weight_decay", "dampening", "nesterov", "maximize")


def advance_(control: StepControl, loss: Tensor | None, found_inf: Tensor | None) -> None:
    """One step of a control in the CPU's memory."""
    _native.load().advance_(
        control.addresses(),
        control.smoothing,
        control.stop_factor or 0.0,
        None if loss is None else loss.item(),
        0.0 if found_inf is None else found_inf.item(),
    )


_in_forked_child = False
"""OpenMP's threads do not follow into a forked process, and its next parallel loop would wait for them."""


def _note_fork() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class NativeUpdate:
    """The update of an optimizer's parameters on one device: finds their memory; a subclass updates them."""

    device_type: int
    """DLPack's number of the kind of device."""
    mixed: bool
    """Whether the tensors of one parameter may differ in dtype, and master weights are known."""

    def __init__(self, optimizer: SGD, device: torch.device):
        self._device = device
        self._devices = devices_of(optimizer.param_groups)
        self._other_ids = [other.index for other in self._devices if other != device]
        self._tensors = np.zeros((0, _COLUMNS), dtype=np.int64)
        # Keys and values in turn, in their order: of the optimizer's state, and of the flags of first updates.
        self._states: list[Any] = []
        self._flags: list[Any] = []
        self._remembered: list[tuple[Any, ...] | None] = []  # per parameter: csrc/bindings.cpp, `collect_`
        self._rest: list[Parameter] = []
        self._updated: list[Tensor] = []
        self._grads: list[Tensor] = []

    def prepare(self, optimizer: SGD) -> bool:
        """Find this step's gradients. False if the parameters have moved to other devices since this was made.

        Raises:
            RuntimeError: one of them cannot be used; nothing has changed then.
        """
        if capture.is_capturing(self._devices):
            capture.require_complete(optimizer, with_gradient(optimizer))
        moves = [optimizer.uses_momentum(index) for index in range(len(optimizer.param_groups))]
        tracks = [optimizer.tracks(index) for index in range(len(optimizer.param_groups))]
        found = _native.load().collect_(
            optimizer.param_groups,
            optimizer.state,
            optimizer.first_updates.flags,
            self._tensors,
            self._states,
            self._flags,
            self._remembered,
            moves,
            tracks,
            (self.device_type, self._device.index or 0),
            self._other_ids,
            self.mixed,
            optimizer.master_weights,
        )
        if found is None:
            if devices_of(optimizer.param_groups) != self._devices:
                return False
            self._collect_slowly(optimizer, moves)
        else:
            # Holding the gradients keeps their memory while the update runs without the interpreter's lock.
            (self._updated, self._grads), self._rest = found, []
        return True

    def update_(self, optimizer: SGD, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Advance the schedule and apply the update; arguments as of ``ReferenceUpdate.update_``."""
        # Raw writes do not count as in-place changes for autograd until it is told. Told before the update, because
        # `prepare` has just brought the tensors' headers into the cache and the update drives them out.
        increment_version(self._updated)
        self._update_(optimizer, loss, grad_scale, found_inf)
        self._grads = []
        if self._rest:
            reference.update_all_(optimizer, self._rest, grad_scale, found_inf)
            self._rest = []

    def _update_(self, optimizer: SGD, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        raise NotImplementedError

    def _collect_slowly(self, optimizer: SGD, moves: list[bool]) -> None:
        """What ``collect_`` does, after making the missing state; what it cannot update goes to ``_rest``."""
        params = [param for group in optimizer.param_groups for param in group["params"]]
        parameters = with_gradient(optimizer)
        self._tensors = np.zeros((len(params), _COLUMNS), dtype=np.int64)
        self._remembered = [None] * len(params)
        self._updated, self._grads, self._rest = [], [], []
        for parameter in parameters:
            index, param, grad = parameter.index, parameter.param, parameter.grad
            if param.device != self._device:
                continue
            state = optimizer.ensure_state(parameter.group, param)
            buffer = state.get("momentum_buffer")
            started = optimizer.first_updates.flag(buffer)
            master = state.get("master_param")
            remembered = (param, state, buffer, started, master, *in_turn(state)) if param in optimizer.state else None
            buffer, started = (buffer, started) if moves[parameter.group] else (None, None)
            master = master if optimizer.keeps_master(param) else None
            if not self._takes(param, grad, buffer, master) or not _is_flag(started, param):
                self._rest.append(parameter)
                continue
            self._remembered[index] = remembered  # only of those that were looked at and taken
            self._updated.append(param)
            self._grads.append(grad)
            types = [_DTYPES[(param if tensor is None else tensor).dtype] for tensor in (param, grad, buffer)]
            self._tensors[index] = (
                param.data_ptr(),
                grad.data_ptr(),
                0 if buffer is None else buffer.data_ptr(),
                0 if master is None else master.data_ptr(),
                0 if started is None else started.data_ptr(),
                param.numel(),
                types[0] | types[1] << 2 | types[2] << 4,
                parameter.group,
            )
        self._states, self._flags = in_turn(optimizer.state), in_turn(optimizer.first_updates.flags)

    def _takes(self, param: Tensor, grad: Tensor, buffer: Tensor | None, master: Tensor | None) -> bool:
        """Whether the tensors are dense and laid out alike, so that one flat loop covers them, and of known dtypes."""
        others = [other for other in (grad, buffer, master) if other is not None]
        if any(tensor.numel() and not tensor.data_ptr() for tensor in (param, *others)):
            return False  # a wrapper around other tensors, such as DTensor, without memory of its own
        if any(other.device != param.device or other.dtype not in _DTYPES for other in others):
            return False
        # A subclass that handles operations itself may hold other memory than it shows.
        if any(
            type(one).__torch_dispatch__ is not Tensor.__torch_dispatch__ or one.is_neg() for one in (param, *others)
        ):
            return False
        if not self.mixed and (master is not None or any(other.dtype != param.dtype for other in others)):
            return False
        if master is not None and any(other.dtype != torch.float32 for other in (buffer, master) if other is not None):
            return False
        if param.is_contiguous():
            return all(other.is_contiguous() for other in others)
        return _is_dense(param) and all(other.stride() == param.stride() for other in others)


class CppUpdate(NativeUpdate):
    """The update of all parameters of an optimizer on the CPU, in C++."""

    device_type = 1
    mixed = False

    def _update_(self, optimizer: SGD, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        control = optimizer.control
        if control is not None:
            control.advance(loss, found_inf)
        groups = [tuple(float(group[name]) for name in OPTIONS) for group in optimizer.param_groups]
        _native.load().sgd_(
            self._tensors,
            groups,
            None if control is None else control.addresses(),
            found_inf is None or found_inf.item() == 0,
            1.0 if grad_scale is None else grad_scale.item(),
            1 if _in_forked_child else torch.get_num_threads(),
        )


def in_turn(values: Mapping[Any, Any]) -> list[Any]:
    """Keys and values, each value after its key."""
    return [entry for item in values.items() for entry in item]


def _is_flag(started: Tensor | None, param: Tensor) -> bool:
    """Whether the kernels can use the flag ``started`` of a buffer of ``param``, or need not."""
    if started is None:
        return True
    return (started.dtype, started.numel(), started.device) == (torch.int64, 1, param.device)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gap or overlap, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


has_exchange_api: bool = (
    _native.why_missing is None
    and EXCHANGE_API is not None
    and _native.load().set_exchange_api_(torch.Tensor, EXCHANGE_API)
)
"""Whether ``collect_`` finds the tensors' memory; else ``_collect_slowly`` does."""
