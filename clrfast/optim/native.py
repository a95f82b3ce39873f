"""The C++ backend: one native call for all tensors of a step.

``collect_`` finds the memory of all tensors anew at every step, in C++ through DLPack's exchange API: addresses that
were kept would be silently wrong as soon as a parameter, gradient or buffer is swapped unseen. Where torch is too old
for that API, or a tensor needs Python's judgement, the same is done here, correct and slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import _native
from . import reference
from .parameters import Parameter, ensure_momentum, with_gradient

if TYPE_CHECKING:
    from .control import StepControl
    from .sgd import SGD

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}  # csrc/dtypes.h
_COLUMNS = 7  # csrc/tensor_list.h: param, grad, buffer, started, numel, dtype, group
_OPTIONS = ("lr", "momentum", "weight_decay", "dampening", "nesterov", "maximize")


def native_control(control: StepControl) -> Any:
    """The native control over the memory of a StepControl's tensors, which are on the CPU."""
    tensors = control.table, control.step, control.losses, control.average, control.stop.view(torch.uint8), control.row
    return _native.load().Control(*(tensor.numpy() for tensor in tensors))


class CppUpdate:
    """The update of all parameters of an optimizer on the CPU, in C++."""

    def __init__(self, optimizer: SGD):
        self._optimizer = optimizer
        self._tensors = np.zeros((0, _COLUMNS), dtype=np.int64)
        self._states: list[dict[str, Any]] = []
        self._momentum: list[tuple[dict[str, Any], Tensor, Tensor, int] | None] = []
        self._rest: list[Parameter] = []
        self._updated: list[Tensor] = []
        self._grads: list[Tensor] = []

    def prepare(self) -> None:
        """Find this step's gradients.

        Raises:
            RuntimeError: one of them cannot be used; nothing has changed then.
        """
        optimizer = self._optimizer
        moves = [optimizer.uses_momentum(index) for index in range(len(optimizer.param_groups))]
        found = _native.load().collect_(
            optimizer.param_groups, optimizer.state, self._tensors, self._states, self._momentum, moves
        )
        if found is None:
            self._collect_slowly(moves)
        else:
            # Holding the gradients keeps their memory while the update runs without the interpreter's lock.
            (self._updated, self._grads), self._rest = found, []

    def update_(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Apply the update; arguments as of ``ReferenceUpdate.update_``."""
        # Raw writes do not count as in-place changes for autograd until it is told. Told before the update, because
        # `prepare` has just brought the tensors' headers into the cache and the update drives them out.
        _increment_version(self._updated)
        optimizer, control = self._optimizer, self._optimizer.control
        groups = [tuple(float(group[name]) for name in _OPTIONS) for group in optimizer.param_groups]
        apply = found_inf is None or found_inf.item() == 0
        _native.load().sgd_(
            self._tensors,
            groups,
            None if control is None else control.native,
            apply,
            1.0 if grad_scale is None else grad_scale.item(),
            torch.get_num_threads(),
        )
        self._grads = []
        if self._rest:
            reference.update_all_(optimizer, self._rest, grad_scale, found_inf)
            self._rest = []

    def _collect_slowly(self, moves: list[bool]) -> None:
        """What ``collect_`` does, after making the missing momentum state; what C++ cannot update goes to ``_rest``."""
        optimizer = self._optimizer
        params = [param for group in optimizer.param_groups for param in group["params"]]
        parameters = with_gradient(optimizer)
        self._tensors = np.zeros((len(params), _COLUMNS), dtype=np.int64)
        self._momentum = [None] * len(params)
        self._updated, self._grads, self._rest = [], [], []
        for parameter in parameters:
            index, param, grad, buffer, flag = parameter.index, parameter.param, parameter.grad, None, 0
            if moves[parameter.group]:
                state = optimizer.state[param]
                ensure_momentum(state, param)
                buffer, started = state["momentum_buffer"], state["started"]
                flag = started.data_ptr()
                self._momentum[index] = (state, buffer, started, flag)
            if not _alike(param, grad, buffer):
                self._rest.append(parameter)
                continue
            self._updated.append(param)
            self._grads.append(grad)
            self._tensors[index] = (
                param.data_ptr(),
                grad.data_ptr(),
                0 if buffer is None else buffer.data_ptr(),
                flag,
                param.numel(),
                _DTYPES[param.dtype],
                parameter.group,
            )
        self._states = list(optimizer.state.values())


def _alike(param: Tensor, grad: Tensor, buffer: Tensor | None) -> bool:
    """Whether the tensors are dense, of one dtype and laid out alike, so that one flat loop covers them."""
    others = (grad,) if buffer is None else (grad, buffer)
    if any(other.dtype != param.dtype or other.device != param.device or other.is_neg() for other in others):
        return False
    if param.is_contiguous():
        return all(other.is_contiguous() for other in others)
    return _is_dense(param) and all(other.stride() == param.stride() for other in others)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gap or overlap, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _increment_version(tensors: list[Tensor]) -> None:
    if _INCREMENTS_MANY:
        torch.autograd.graph.increment_version(tensors)
    else:
        for tensor in tensors:
            torch.autograd.graph.increment_version(tensor)


try:
    torch.autograd.graph.increment_version(())
    _INCREMENTS_MANY = True
except (TypeError, RuntimeError):  # older versions of torch take one tensor only
    _INCREMENTS_MANY = False

if _native.why_missing is None and hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    _native.load().set_exchange_api_(torch.Tensor.__dlpack_c_exchange_api__)
