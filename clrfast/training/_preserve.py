"""Put a model, an optimizer, a loader's generators and all random states back as they were."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .._torch_compat import buffers_of, is_view, remove_step_post_hooks
from ..optim import SGD
from ._distributed_model import local_part, reshard
from ._joined_optimizer import split_optimizer
from ._loader_order import Restore, save_loader_order
from ._module_attributes import ModuleAttributes

Copy = Callable[[Any], Any]


@contextlib.contextmanager
def preserve_all(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    loader: Any = None,
    also: tuple[nn.Module, ...] = (),
    *,
    scaler: torch.amp.GradScaler | None = None,
    snapshot_device: torch.device | str | None = None,
) -> Iterator[None]:
    """A block after which everything is exactly as before, also after an exception or Ctrl-C.

    What ``preserve_model_and_optimizer`` and ``preserve_rng_and_loaders`` cover together.
    """
    with (
        preserve_rng_and_loaders(loader),
        preserve_model_and_optimizer(model, optimizer, also, scaler=scaler, snapshot_device=snapshot_device),
    ):
        yield


@contextlib.contextmanager
def preserve_rng_and_loaders(*loaders: Any) -> Iterator[None]:
    """A block after which the data come in the order in which they would have come, and random numbers likewise.

    Covers the random states of Python, NumPy, torch's CPU and all CUDA devices, and of the loaders what
    ``save_loader_order`` finds in them.
    """
    with contextlib.ExitStack() as stack:
        for undo in (*_random_states(), *save_loader_order(*loaders)):
            stack.callback(undo)
        yield


@contextlib.contextmanager
def preserve_model_and_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    also: tuple[nn.Module, ...] = (),
    *,
    scaler: torch.amp.GradScaler | None = None,
    snapshot_device: torch.device | str | None = None,
) -> Iterator[ModuleAttributes]:
    """A block after which the model and what trains it are as before.

    Covers parameters (values, ``grad``, ``requires_grad``), buffers, train/eval flags and plain ``Attributes`` of
    ``model`` and of the modules in ``also``, the optimizer's parameters, state and groups, and the scaler. Tensors keep
    their identity and memory. Holds one copy of the parameters, buffers and optimizer state, on ``snapshot_device``
    (None: each on its own device). Within the block, no parameter has a gradient at first, and the optimizer has no
    step post-hooks.

    Raises:
        ValueError: the model has parameters that are not initialised yet.
    """
    modules = {id(module): module for root in (model, *also) for module in root.modules()}
    for module in modules.values():
        reshard(module)
    params = {id(param): param for module in modules.values() for param in module.parameters(recurse=False)}
    for group in [] if optimizer is None else optimizer.param_groups:
        params.update({id(param): param for param in group["params"]})
    if any(isinstance(param, UninitializedParameter) for param in params.values()):
        raise ValueError("model: it has parameters without a shape yet (lazy modules); run one batch through it first")
    copied = partial(_copied, device=snapshot_device)
    with contextlib.ExitStack() as stack:

        def restore_later(undo: Restore) -> None:
            # At once after taking it, and all are put back even if one of them fails.
            stack.callback(torch.no_grad()(undo))

        for module in modules.values():
            restore_later(_module(module, copied))
        for param in params.values():
            restore_later(_parameter(param, copied))
        for part in split_optimizer(optimizer):
            restore_later(_optimizer(part, copied))
        if scaler is not None:
            restore_later(_scaler(scaler))
        for module in modules.values():
            restore_later(partial(reshard, module))
        roots = {"": model} | {f"{type(root).__name__} {i}": root for i, root in enumerate(also, 1)}
        named = {
            f"{at}.{name}".strip("."): module for at, root in roots.items() for name, module in root.named_modules()
        }
        attributes = ModuleAttributes(named)
        restore_later(attributes.put_back)
        yield attributes


def _random_states() -> list[Restore]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    undo: list[Restore] = [
        lambda: random.setstate(python),
        lambda: np.random.set_state(numpy),  # noqa: NPY002
        lambda: torch.set_rng_state(cpu),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        undo.append(lambda: torch.cuda.set_rng_state_all(states))
    return undo


def _module(module: nn.Module, copied: Copy) -> Restore:
    """One module's own flag and buffers; a buffer may have been replaced, not only written."""
    training = module.training
    buffers = {name: (buffer, copied(buffer)) for name, buffer in buffers_of(module).items()}

    def put_back() -> None:
        module.training = training
        for name in [name for name in buffers_of(module) if name not in buffers]:
            del buffers_of(module)[name]
        for name, (buffer, value) in buffers.items():
            buffers_of(module)[name] = buffer
            if buffer is not None:
                _write_back(buffer, value)

    return put_back


def _parameter(param: nn.Parameter, copied: Copy) -> Restore:
    data, value, grad, requires_grad = param.data, copied(param), param.grad, param.requires_grad
    # The gradient is set aside, not copied: the block starts without one. A view is one into a bucket of a
    # DistributedDataParallel, which writes the block's gradients there.
    in_bucket = None if grad is None or not is_view(grad) else copied(grad)
    param.grad = None

    def put_back() -> None:
        if local_part(data) is data:
            param.data = data
        _write_back(param, value)
        if grad is not None and in_bucket is not None:
            _write_back(grad, in_bucket)
        param.grad = grad
        param.requires_grad_(requires_grad)

    return put_back


def _optimizer(optimizer: torch.optim.Optimizer, copied: Copy) -> Restore:
    own = ("state", "param_groups")
    attributes = {name: value for name, value in vars(optimizer).items() if name not in own}
    state = {param: (values, _Snapshot(values, copied)) for param, values in optimizer.state.items()}
    groups = [(group, _Snapshot(group, copied)) for group in optimizer.param_groups]
    follower = optimizer.follower if isinstance(optimizer, SGD) else None
    progress = None if follower is None else follower.control.progress()
    followed = None if follower is None else dict(vars(follower))

    # What the user has happen after an update (a moving average of the weights, say) is not for the block's updates.
    remove_step_post_hooks(optimizer)

    def put_back() -> None:
        if follower is not None and followed is not None and progress is not None:
            vars(follower).update(followed)
            follower.control.resume(progress)
        for name in [name for name in vars(optimizer) if name not in (*own, *attributes)]:
            delattr(optimizer, name)
        vars(optimizer).update(attributes)
        optimizer.state.clear()
        for param, (values, snapshot) in state.items():
            snapshot.into(values)
            optimizer.state[param] = values
        for group, snapshot in groups:
            snapshot.into(group)

    return put_back


class _Snapshot:
    """The entries of a dict: tensors by reference and value, parameter lists by reference, the rest copied."""

    def __init__(self, values: dict[str, Any], copied: Copy):
        self._entries = {name: (value, value if name == "params" else copied(value)) for name, value in values.items()}

    def into(self, values: dict[str, Any]) -> None:
        """Put the entries back into the same dict."""
        values.clear()
        for name, (value, copied) in self._entries.items():
            if isinstance(value, Tensor):
                _write_back(value, copied)
                values[name] = value
            else:
                values[name] = copied


def _scaler(scaler: torch.amp.GradScaler) -> Restore:
    # Its tensors are made at its first use: what is None now must be so again.
    attributes = {name: (value, _copied(value)) for name, value in vars(scaler).items()}

    def put_back() -> None:
        for name, (value, copied) in attributes.items():
            if isinstance(value, Tensor):
                _write_back(value, copied)
                setattr(scaler, name, value)
            else:
                setattr(scaler, name, copied)

    return put_back


def _write_back(tensor: Tensor, value: Tensor) -> None:
    tensor = local_part(tensor)
    value = value.to(tensor.device)
    # Written only if it differs: an expanded tensor, whose elements share memory, cannot be written as a whole.
    if not torch.equal(tensor, value):
        tensor.copy_(value)


def _copied(value: Any, device: torch.device | str | None = None) -> Any:
    if isinstance(value, Tensor):
        value = local_part(value.detach())
        return value.to(device=value.device if device is None else device, copy=True)
    return copy.deepcopy(value)
