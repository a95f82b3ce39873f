"""Put a model, an optimizer, a loader's generators and all random states back as they were."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..optim import SGD

Undo = Callable[[], None]


@contextlib.contextmanager
def restored(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    loader: Any = None,
    also: tuple[nn.Module, ...] = (),
) -> Iterator[None]:
    """A block after which everything is exactly as before, also after an exception or Ctrl-C.

    Covers parameters (values, ``grad``, ``requires_grad``), buffers and train/eval flags of ``model`` and of the
    modules in ``also``, the optimizer's parameters, state and groups, the random states of Python, NumPy, torch's CPU
    and all CUDA devices, and of the loader its persistent workers and the generators that it or its samplers own.
    Tensors keep their identity and memory. Holds one copy of the parameters, buffers and optimizer state, on their
    devices. Within the block, no parameter has a gradient at first, and the optimizer has no step post-hooks.

    Raises:
        ValueError: the model has parameters that are not initialised yet.
    """
    modules = {id(module): module for root in (model, *also) for module in root.modules()}
    params = {id(param): param for module in modules.values() for param in module.parameters(recurse=False)}
    for group in [] if optimizer is None else optimizer.param_groups:
        params.update({id(param): param for param in group["params"]})
    if any(isinstance(param, UninitializedParameter) for param in params.values()):
        raise ValueError("model: it has parameters without a shape yet (lazy modules); run one batch through it first")
    with contextlib.ExitStack() as stack:

        def put_back_later(undo: Undo) -> None:
            # At once after taking it, and all are put back even if one of them fails.
            stack.callback(torch.no_grad()(undo))

        for undo in (*_random_states(), *_loader(loader)):
            put_back_later(undo)
        for module in modules.values():
            put_back_later(_module(module))
        for param in params.values():
            put_back_later(_parameter(param))
        if optimizer is not None:
            put_back_later(_optimizer(optimizer))
        yield


def _random_states() -> list[Undo]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    undo: list[Undo] = [
        lambda: random.setstate(python),
        lambda: np.random.set_state(numpy),  # noqa: NPY002
        lambda: torch.set_rng_state(cpu),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        undo.append(lambda: torch.cuda.set_rng_state_all(states))
    return undo


def _loader(loader: Any) -> list[Undo]:
    """The generators that decide in which order the loader's next epoch comes, and workers that outlive an epoch."""
    sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, sampler, getattr(loader, "sampler", None), getattr(sampler, "sampler", None))
    found = {id(g): g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)}
    undo = [_generator(generator) for generator in found.values()]
    workers = getattr(loader, "_iterator", None)
    if workers is not None or getattr(loader, "persistent_workers", False):
        loader._iterator = None  # the block gets workers of its own
        undo.append(lambda: setattr(loader, "_iterator", workers))
    return undo


def _generator(generator: torch.Generator) -> Undo:
    state = generator.get_state()

    def put_back() -> None:
        generator.set_state(state)

    return put_back


def _module(module: nn.Module) -> Undo:
    """One module's own flag and buffers; a buffer may have been replaced, not only written."""
    training = module.training
    buffers = {name: (buffer, _copied(buffer)) for name, buffer in module._buffers.items()}

    def put_back() -> None:
        module.training = training
        for name in [name for name in module._buffers if name not in buffers]:
            del module._buffers[name]
        for name, (buffer, value) in buffers.items():
            module._buffers[name] = buffer
            if buffer is not None:
                _write_back(buffer, value)

    return put_back


def _parameter(param: nn.Parameter) -> Undo:
    # The gradient is set aside, not copied: the block starts without one.
    data, value, grad, requires_grad = param.data, param.detach().clone(), param.grad, param.requires_grad
    param.grad = None

    def put_back() -> None:
        param.data = data
        _write_back(param, value)
        param.grad = grad
        param.requires_grad_(requires_grad)

    return put_back


def _optimizer(optimizer: torch.optim.Optimizer) -> Undo:
    own = ("state", "param_groups")
    attributes = {name: value for name, value in vars(optimizer).items() if name not in own}
    state = {param: (values, _Snapshot(values)) for param, values in optimizer.state.items()}
    groups = [(group, _Snapshot(group)) for group in optimizer.param_groups]
    control = optimizer.control if isinstance(optimizer, SGD) else None
    progress = None if control is None else control.progress()

    # What the user has happen after an update (a moving average of the weights, say) is not for the block's updates.
    optimizer._optimizer_step_post_hooks = OrderedDict()

    def put_back() -> None:
        if control is not None and progress is not None:
            control.resume(progress)
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

    def __init__(self, values: dict[str, Any]):
        self._entries = {name: (value, value if name == "params" else _copied(value)) for name, value in values.items()}

    def into(self, values: dict[str, Any]) -> None:
        """Put the entries back into the same dict."""
        values.clear()
        for name, (value, copied) in self._entries.items():
            if isinstance(value, Tensor):
                _write_back(value, copied)
                values[name] = value
            else:
                values[name] = copied


def _write_back(tensor: Tensor, value: Tensor) -> None:
    # Written only if it differs: an expanded tensor, whose elements share memory, cannot be written as a whole.
    if not torch.equal(tensor, value):
        tensor.copy_(value)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
