"""Contexts that restore a model, its optimizer, the order of the data and all random states at their end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ._distributed_model import reshard
from ._loader_order import save_loader_order
from ._module_attributes import ModuleAttributes
from ._optimizer_list import split_optimizer
from ._saved_state import (
    Restore,
    copy_value,
    save_module,
    save_optimizer,
    save_parameter,
    save_random_states,
    save_scaler,
)


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
    """Run a block, then restore the model, the optimizer, the loaders and all random states, even after Ctrl-C.

    It combines ``preserve_rng_and_loaders`` and ``preserve_model_and_optimizer``.
    """
    with (
        preserve_rng_and_loaders(loader),
        preserve_model_and_optimizer(model, optimizer, also, scaler=scaler, snapshot_device=snapshot_device),
    ):
        yield


@contextlib.contextmanager
def preserve_rng_and_loaders(*loaders: Any) -> Iterator[None]:
    """Run a block and restore the random states and the order of the loaders' next batches.

    This covers the random states of Python, NumPy, torch's CPU and all CUDA devices in use, and the state that
    ``save_loader_order`` finds in the loaders.
    """
    with contextlib.ExitStack() as stack:
        for restore in (*save_random_states(), *save_loader_order(*loaders)):
            stack.callback(restore)
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
    """Run a block and restore the model, the optimizer and the scaler.

    This covers the parameters (values, ``grad``, ``requires_grad``), buffers, training flags and plain attributes of
    ``model`` and of the modules in ``also``; the parameters, state and groups of the optimizer; and the scaler. Tensors
    keep their identity and memory. During the block there is one copy of the parameters, buffers and optimizer state.
    The block starts without gradients, and the optimizer's step post-hooks do not run in it.

    Args:
        also: further modules, such as a loss.
        snapshot_device: device of the copy; None for each tensor's own.
    Yields:
        The plain attributes of all modules.
    Raises:
        ValueError: the model has parameters that are not initialized yet.
    """
    modules = {id(module): module for root in (model, *also) for module in root.modules()}
    for module in modules.values():
        reshard(module)
    params = _collect_parameters(modules.values(), optimizer)
    copy_to_device = partial(copy_value, device=snapshot_device)
    with contextlib.ExitStack() as stack:

        def restore_later(restore: Restore) -> None:
            # Registered right after the state is saved; all are restored even if one of them fails.
            stack.callback(torch.no_grad()(restore))

        for module in modules.values():
            restore_later(save_module(module, copy_to_device))
        for param in params:
            restore_later(save_parameter(param, copy_to_device))
        for part in split_optimizer(optimizer):
            restore_later(save_optimizer(part, copy_to_device))
        if scaler is not None:
            restore_later(save_scaler(scaler))
        for module in modules.values():
            restore_later(partial(reshard, module))
        attributes = ModuleAttributes(_name_modules(model, also))
        restore_later(attributes.restore)
        yield attributes


def _collect_parameters(modules: Any, optimizer: torch.optim.Optimizer | None) -> list[nn.Parameter]:
    """Return the parameters of ``modules`` and ``optimizer``, each once."""
    params = {id(param): param for module in modules for param in module.parameters(recurse=False)}
    for group in [] if optimizer is None else optimizer.param_groups:
        params.update({id(param): param for param in group["params"]})
    if any(map(is_lazy, params.values())):
        raise ValueError("model: it has parameters without a shape yet (lazy modules); run one batch through it first")
    return list(params.values())


def _name_modules(model: nn.Module, also: tuple[nn.Module, ...]) -> dict[str, nn.Module]:
    """Return all modules, keyed by the names that messages use."""
    roots = {"": model} | {f"{type(root).__name__} {i}": root for i, root in enumerate(also, 1)}
    return {f"{at}.{name}".strip("."): module for at, root in roots.items() for name, module in root.named_modules()}
