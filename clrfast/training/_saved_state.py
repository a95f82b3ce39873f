"""Saves and restores the state of modules, parameters, optimizers, scalers and random generators.

Each ``save_`` function copies one object's state and returns a function that restores it in place, so that tensors keep
their identity and memory.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._torch_compat import buffers_of, is_view, remove_step_post_hooks
from ..optim import FusedOptimizer
from ._distributed_model import local_part

Restore = Callable[[], None]
"""Function that restores what was saved."""

Copy = Callable[[Any], Any]
"""Function that copies a value, such as ``copy_value``."""


def copy_value(value: Any, device: torch.device | str | None = None) -> Any:
    """Return a copy of a tensor's local part on ``device`` (None: its own), or a deep copy of any other value."""
    if isinstance(value, Tensor):
        value = local_part(value.detach())
        return value.to(device=value.device if device is None else device, copy=True)
    return copy.deepcopy(value)


def save_random_states() -> list[Restore]:
    """Save the random states of Python, NumPy, torch's CPU and all CUDA devices in use."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    restores: list[Restore] = [
        lambda: random.setstate(python),
        lambda: np.random.set_state(numpy),  # noqa: NPY002
        lambda: torch.set_rng_state(cpu),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        restores.append(lambda: torch.cuda.set_rng_state_all(states))
    return restores


def save_module(module: nn.Module, copy_value: Copy) -> Restore:
    """Save a module's training flag and its buffers, without its children."""
    training = module.training
    buffers = {name: (buffer, copy_value(buffer)) for name, buffer in buffers_of(module).items()}

    def restore() -> None:
        module.training = training
        for name in [name for name in buffers_of(module) if name not in buffers]:
            del buffers_of(module)[name]
        for name, (buffer, value) in buffers.items():
            buffers_of(module)[name] = buffer  # it may have been replaced by another tensor
            if buffer is not None:
                _write(buffer, value)

    return restore


def save_parameter(param: nn.Parameter, copy_value: Copy) -> Restore:
    """Save a parameter's value and ``requires_grad``, and set its gradient aside: afterwards ``grad`` is None."""
    data, value, grad, requires_grad = param.data, copy_value(param), param.grad, param.requires_grad
    # A gradient that is a view lies in a bucket of a DistributedDataParallel, which will write there.
    bucket_value = None if grad is None or not is_view(grad) else copy_value(grad)
    param.grad = None

    def restore() -> None:
        if local_part(data) is data:
            param.data = data
        _write(param, value)
        if grad is not None and bucket_value is not None:
            _write(grad, bucket_value)
        param.grad = grad
        param.requires_grad_(requires_grad)

    return restore


def save_optimizer(optimizer: torch.optim.Optimizer, copy_value: Copy) -> Restore:
    """Save an optimizer's state, groups, attributes and schedule, and remove its step post-hooks until restored.

    A user's hook, such as a moving average of the weights, must not see the updates in between.
    """
    own = ("state", "param_groups")
    attributes = {name: value for name, value in vars(optimizer).items() if name not in own}
    defaults: dict[str, Any] = getattr(optimizer, "defaults", {})  # a wrapper may have none
    own_defaults = dict(defaults)
    state = {param: (values, _SavedDict(values, copy_value)) for param, values in optimizer.state.items()}
    groups = [(group, _SavedDict(group, copy_value)) for group in optimizer.param_groups]
    fused = optimizer if isinstance(optimizer, FusedOptimizer) else None
    counters = None if fused is None else fused.counters.by_tensor
    counts = None if counters is None else _SavedDict(counters, copy_value)
    follower = None if fused is None else fused.follower
    followed = None if follower is None else dict(vars(follower))
    progress = None if follower is None else follower.control.progress()
    remove_step_post_hooks(optimizer)

    def restore() -> None:
        if follower is not None and followed is not None and progress is not None:
            vars(follower).update(followed)
            follower.control.resume(progress)
        for name in [name for name in vars(optimizer) if name not in (*own, *attributes)]:
            delattr(optimizer, name)
        vars(optimizer).update(attributes)
        defaults.clear()
        defaults.update(own_defaults)
        optimizer.state.clear()
        for param, (values, saved) in state.items():
            saved.restore_into(values)
            optimizer.state[param] = values
        for group, saved in groups:
            saved.restore_into(group)
        if fused is not None and counters is not None and counts is not None:
            fused.counters.by_tensor = counters
            counts.restore_into(counters)

    return restore


def save_scaler(scaler: torch.amp.GradScaler) -> Restore:
    """Save a scaler's attributes; those that are None before the first use become None again."""
    attributes = {name: (value, copy_value(value)) for name, value in vars(scaler).items()}

    def restore() -> None:
        for name, (value, saved) in attributes.items():
            if isinstance(value, Tensor):
                _write(value, saved)
                setattr(scaler, name, value)
            else:
                setattr(scaler, name, saved)

    return restore


class _SavedDict:
    """The entries of a dict: tensors by identity and value, parameter lists by identity, all others as copies."""

    def __init__(self, values: dict[Any, Any], copy_value: Copy):
        self._entries = {
            name: (value, value if isinstance(name, str) and name == "params" else copy_value(value))
            for name, value in values.items()
        }

    def restore_into(self, values: dict[Any, Any]) -> None:
        """Restore the entries in the same dict."""
        values.clear()
        for name, (value, saved) in self._entries.items():
            if isinstance(value, Tensor):
                _write(value, saved)
                values[name] = value
            else:
                values[name] = saved


def _write(tensor: Tensor, value: Tensor) -> None:
    tensor = local_part(tensor)
    value = value.to(tensor.device)
    # Only if it differs, because an expanded tensor, whose elements share memory, cannot be written as a whole.
    if not torch.equal(tensor, value):
        tensor.copy_(value)
