"""The base of the native backends: one compiled call updates all tensors of a step.

``TensorCollector`` in C++ reads the memory of all tensors at every step, through DLPack's exchange API. Kept addresses
would be silently wrong as soon as a parameter, gradient or buffer is replaced. ``NativeUpdate`` does the same in
Python, slower, where torch is too old for that API, state is missing, or the compiled code cannot judge a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _native
from ..._torch_compat import EXCHANGE_API, increment_version, locations_in_memory
from ...schedules._group_values import momentum_of
from .. import _capture as capture
from .._parameters import SUPPORTED, ParamWithGrad, devices_of, params_with_grad
from .._protocols import Control, GradScale, OptimizerView
from .._rules import Rule
from . import reference

has_exchange_api: bool = (
    _native.why_missing is None
    and EXCHANGE_API is not None
    and _native.load().set_exchange_api_(torch.Tensor, EXCHANGE_API)
)
"""Whether ``TensorCollector`` can read the tensors' memory; if not, every step collects it in Python."""

_DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(SUPPORTED)}
_MAX_STATES = 3
_N_HINTS = 24  # csrc/python/prefetch.h
_COLUMNS = 10  # csrc/tensor_list.h: param, grad, three states, master, counter, numel, dtypes, group


class _Cache(NamedTuple):
    """What Python found when it last collected the tensors; csrc/python/tensor_collector.h describes the entries."""

    rows: NDArray[np.int64]
    state_items: list[Any]
    counter_items: list[Any]
    per_param: list[tuple[Any, ...] | None]
    hints: NDArray[np.int64]


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
        self._cache = _Cache(np.zeros((0, _COLUMNS), dtype=np.int64), [], [], [], _no_hints(0))
        self._params: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._left_to_reference: list[ParamWithGrad] = []

    def prepare(self, optimizer: OptimizerView) -> bool:
        """Find this step's gradients; ``Update.prepare`` has the details."""
        if capture.is_capturing(self._devices):
            capture.require_complete(optimizer, params_with_grad(optimizer))
        groups = range(len(optimizer.param_groups))
        states = [optimizer.states_of(group) for group in groups]
        found = self._collector.collect(
            optimizer.param_groups,
            optimizer.state,
            optimizer.counters.by_tensor,
            [len(names) for names in states],
            [optimizer.counts_updates(group) for group in groups],
            self._cache,
        )
        if found is None:
            if devices_of(optimizer.param_groups) != self._devices:
                return False
            self._collect_in_python(optimizer, states)
        else:
            # Holding the gradients keeps their memory while the update runs without the interpreter's lock.
            (self._params, self._grads), self._left_to_reference = found, []
        return True

    def clip(self, optimizer: OptimizerView, max_norm: float, scale: GradScale) -> tuple[Tensor, Tensor, Tensor] | None:
        """Measure the norm of all gradients, unless some are elsewhere; ``Update.clip`` has the details."""
        if self._left_to_reference or len(self._devices) > 1:
            return None
        result = torch.empty(3, dtype=torch.float64, device=self._device)  # ClipResult of csrc/clip.h
        self._clip_(optimizer, max_norm, scale, result)
        return result[0], result[1], result[2:].view(torch.float32)[0]

    def update_(self, optimizer: OptimizerView, loss: Any, scale: GradScale) -> None:
        """Advance the schedule and apply the update; ``Update.update_`` has the details."""
        # Autograd does not see raw writes. It is notified before the update, while the tensors' headers, which
        # `prepare` has just read, are still in the CPU's cache.
        increment_version(self._params)
        self._update_(optimizer, loss, scale)
        self._grads = []
        if self._left_to_reference:
            reference.update_all_(optimizer, self._left_to_reference, scale)
            self._left_to_reference = []

    def _clip_(self, optimizer: OptimizerView, max_norm: float, scale: GradScale, result: Tensor) -> None:
        raise NotImplementedError

    def _update_(self, optimizer: OptimizerView, loss: Any, scale: GradScale) -> None:
        raise NotImplementedError

    def _collect_in_python(self, optimizer: OptimizerView, states_of: list[tuple[str, ...]]) -> None:
        """Make the missing state, then do what ``TensorCollector.collect`` does, and fill its cache."""
        n_params = sum(len(group["params"]) for group in optimizer.param_groups)
        rows = np.zeros((n_params, _COLUMNS), dtype=np.int64)
        per_param: list[tuple[Any, ...] | None] = [None] * n_params
        hints = _no_hints(n_params)
        self._params, self._grads, self._left_to_reference = [], [], []
        for parameter in params_with_grad(optimizer):
            param, grad = parameter.param, parameter.grad
            if param.device != self._device:
                continue
            state = optimizer.ensure_state(parameter.group, param)
            names = states_of[parameter.group]
            tensors = [state[name] for name in names]
            counter = optimizer.counters.counter_of(state) if names else None
            master = state["master_param"] if optimizer.keeps_master(param) else None
            if not self._supports(param, grad, tensors, master) or not _is_counter(counter, param):
                self._left_to_reference.append(parameter)
                continue
            if param in optimizer.state:  # only for parameters that passed the checks
                known = (*(state.get(name) for name in optimizer.rule.states), *[None] * _MAX_STATES)[:_MAX_STATES]
                kept = optimizer.counters.counter_of(state)
                address = None if kept is None else kept.data_ptr()
                master_kept = state.get("master_param")
                per_param[parameter.index] = (param, state, *known, kept, address, master_kept, *flat_items(state))
            _fill_hints(hints[parameter.index], [param, grad, *tensors], state, counter)
            self._params.append(param)
            self._grads.append(grad)
            rows[parameter.index] = _row(param, grad, tensors, master, counter, parameter.group)
        counters = optimizer.counters.by_tensor
        self._cache = _Cache(rows, flat_items(optimizer.state), flat_items(counters), per_param, hints)

    def _supports(self, param: Tensor, grad: Tensor, states: Sequence[Tensor], master: Tensor | None) -> bool:
        """Return whether a kernel can use the tensors: dense and of one layout, so that one flat loop covers them, of
        known dtypes, and in memory of their own. csrc/python/eligibility.h has the same rules; keep both equal."""
        kept = [*states, *([] if master is None else [master])]
        others = [grad, *kept]
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
        if len({state.dtype for state in states}) > 1:
            return False
        if master is not None and any(one.dtype != torch.float32 for one in kept):
            return False
        if param.is_contiguous():
            return all(other.is_contiguous() for other in others)
        return _is_dense(param) and all(other.stride() == param.stride() for other in others)


def group_numbers(rule: Rule, group: Mapping[str, Any]) -> tuple[float, ...]:
    """Return a group's options in the order in which the compiled calls take them."""
    row = (group["lr"], momentum_of(group), group["weight_decay"], group["maximize"])
    return (*map(float, row), *rule.constants(group))


def clip_arguments(
    control: Control | None, max_norm: float, grad_scale: Tensor | None, found_inf: Tensor | None, result: Tensor
) -> tuple[Any, ...]:
    """Return ``ClipParams`` of csrc/clip.h as the compiled calls take them; grad_scale and found_inf are float32."""
    addresses = (0 if tensor is None else tensor.data_ptr() for tensor in (grad_scale, found_inf, result))
    return (None if control is None else control.addresses(), float(max_norm), *addresses)


def as_float32(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    """Return ``tensor`` as float32 on ``device``, without waiting."""
    return None if tensor is None else tensor.detach().to(device, torch.float32, non_blocking=True)


def flat_items(values: Mapping[Any, Any]) -> list[Any]:
    """Return all keys and values in one list, each value after its key."""
    return [entry for item in values.items() for entry in item]


def _row(
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor],
    master: Tensor | None,
    counter: Tensor | None,
    group: int,
) -> tuple[int, ...]:
    """Return the fields of one ``ParamTensors`` of csrc/tensor_list.h."""
    dtypes = [_DTYPE_NUMBERS[tensor.dtype] for tensor in (param, grad, states[0] if states else param)]
    return (
        param.data_ptr(),
        grad.data_ptr(),
        *(state.data_ptr() for state in states),
        *[0] * (_MAX_STATES - len(states)),
        *(0 if tensor is None else tensor.data_ptr() for tensor in (master, counter)),
        param.numel(),
        dtypes[0] | dtypes[1] << 2 | dtypes[2] << 4,
        group,
    )


def _no_hints(n_params: int) -> NDArray[np.int64]:
    return np.zeros((n_params, _N_HINTS), dtype=np.int64)


def _fill_hints(
    hints: NDArray[np.int64], tensors: Sequence[Tensor], state: Mapping[str, Any], counter: Tensor | None
) -> None:
    """Write the addresses that the next step reads of one parameter into ``hints``, int64 ``[n_hints]``."""
    addresses = [id(state)]
    if counter is not None:
        addresses += [*locations_in_memory(counter), counter.data_ptr()]
    for tensor in tensors:
        addresses += locations_in_memory(tensor)
    hints[: len(addresses)] = addresses[: len(hints)]


def _is_counter(counter: Tensor | None, param: Tensor) -> bool:
    """Return whether the kernels can use the counter of ``param``; True if there is none."""
    return counter is None or (counter.dtype == torch.float32 and counter.device == param.device)


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill their memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True
