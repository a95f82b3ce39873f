"""The C++ backend: one native call for all tensors of a step.

What does not change from step to step (addresses, layouts, momentum buffers) is kept; ``collect_`` verifies it at
every step in C++, because a parameter or buffer that was swapped unseen would be silently wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
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
        self._tensors: NDArray[np.int64] | None = None
        self._layouts: list[tuple[torch.dtype, tuple[int, ...] | None] | None] = []
        self._buffers: list[tuple[dict[str, Any], Tensor | None]] = []
        self._rest: list[Parameter] = []
        self._updated: list[Tensor] = []

    def prepare(self) -> None:
        """Find this step's gradients.

        Raises:
            RuntimeError: one of them cannot be used; nothing has changed then.
        """
        optimizer = self._optimizer
        updated = None
        if self._tensors is not None:
            updated = _native.load().collect_(
                optimizer.param_groups, optimizer.state, self._tensors, self._layouts, self._buffers
            )
        self._updated = self._rebuild() if updated is None else updated

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
        if self._rest:
            reference.update_all_(optimizer, self._rest, grad_scale, found_inf)

    def _rebuild(self) -> list[Tensor]:
        """Make the native list anew; returns the parameters that it updates."""
        optimizer = self._optimizer
        params = [param for group in optimizer.param_groups for param in group["params"]]
        parameters = with_gradient(optimizer.param_groups)
        self._tensors = np.zeros((len(params), _COLUMNS), dtype=np.int64)
        self._layouts = [None] * len(params)
        self._rest = []
        updated = []
        for parameter in parameters:
            param, grad, buffer, started = parameter.param, parameter.grad, None, None
            if optimizer.uses_momentum(parameter.group):
                state = optimizer.state[param]
                ensure_momentum(state, param)
                buffer, started = state["momentum_buffer"], state["started"]
            if not _alike(param, grad, buffer):
                self._rest.append(parameter)  # without a layout: the list is made anew at every step
                continue
            updated.append(param)
            self._layouts[parameter.index] = (param.dtype, None if param.is_contiguous() else param.stride())
            self._tensors[parameter.index] = (
                param.data_ptr(),
                grad.data_ptr(),
                0 if buffer is None else buffer.data_ptr(),
                0 if started is None else started.data_ptr(),
                param.numel(),
                _DTYPES[param.dtype],
                parameter.group,
            )
        self._buffers = [(state, state.get("momentum_buffer")) for state in optimizer.state.values()]
        return updated


def _alike(param: Tensor, grad: Tensor, buffer: Tensor | None) -> bool:
    """Whether the tensors are dense, of one dtype and laid out alike, so that one flat loop covers them."""
    others = (grad,) if buffer is None else (grad, buffer)
    if any(other.dtype != param.dtype or other.device != param.device for other in others):
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
