"""Every private name of torch that clrfast uses, and what differs between the versions of torch that it supports.

Each docstring says what the name is for, since which version torch has it, and what happens without it. "Required"
means that ``import clrfast`` or the call fails without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

__all__ = [
    "EXCHANGE_API",
    "MODULE_DICTS",
    "NormBase",
    "TorchDispatchMode",
    "buffers_of",
    "children_of",
    "disable_dynamo",
    "end_allocation",
    "forget_step",
    "found_inf_tensors",
    "has_step_hooks",
    "has_stepped",
    "increment_version",
    "is_profiling",
    "is_view",
    "locations_in_memory",
    "parameters_of",
    "remove_step_post_hooks",
    "scale_tensor",
    "sparse_parts",
    "tree_flatten",
    "tree_leaves",
    "tree_map_only",
    "tree_unflatten",
    "version_of",
]

# torch.utils._pytree finds the tensors in nested batches: lists, tuples, dicts and registered classes. All four
# functions exist since 2.2; required. torch.utils._python_dispatch.TorchDispatchMode sees every operation, which is how
# memory is measured. Since 1.13; required.

# ------------------------------------------------------------------------------------------------------------ compiling

disable_dynamo = torch._disable_dynamo
"""Decorator for functions that torch.compile must not trace. A compiled caller breaks its graph there once, instead of
guarding on every number that a step reads. torch uses it for its own optimizers. The public ``torch.compiler.disable``
would import the compiler together with the decorated module. Since 2.1; required."""

# ----------------------------------------------------------------------------------------------------------- optimizers
# torch also reads one private name that clrfast defines: ``Optimizer._step_supports_amp_scaling``. GradScaler passes
# `grad_scale` and `found_inf` to an optimizer that has it, and waits for the device otherwise. Since 2.0.
#
# ``ScheduleLR`` and ``FollowLR`` override or set names of torch's ``LRScheduler`` that have no public form:
# ``_initial_step``, ``_step_count``, ``_last_lr``, and ``_get_closed_form_lr``, which ``SequentialLR`` calls for the
# rates at a given step. All supported versions have them; required.


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether a hook runs before or after a step of this optimizer, or of all optimizers.

    Without hooks ``SGD.step`` skips torch's wrapper, which costs more than the update of a small model. Since 2.0;
    required.
    """
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or optimizer_module._global_optimizer_pre_hooks
        or optimizer_module._global_optimizer_post_hooks
    )


def remove_step_post_hooks(optimizer: Optimizer) -> None:
    """Remove the hooks that run after a step of this optimizer.

    The updates of a range test are undone, so a moving average of the weights must not see them. Since 2.0; without
    it, such hooks would run.
    """
    optimizer._optimizer_step_post_hooks = OrderedDict()


def has_stepped(optimizer: Optimizer) -> bool:
    """Return whether the optimizer has made a step since a torch scheduler was attached to it.

    After a step, a rate other than the initial one is where an earlier scheduler ended; before it, it is the first rate
    of a warm-up. Since 2.4; without it, only the optimizer's state shows a step, and plain SGD has no state.
    """
    return getattr(optimizer, "_opt_called", False)


def locations_in_memory(tensor: Tensor) -> tuple[int, int, int]:
    """Return the addresses of a tensor's Python object, of its header and of its storage's header.

    Native code fetches them into the cache ahead of their use, and reads nothing by them. Since 2.0; 0 without them,
    and for tensors without a storage.
    """
    try:
        storage = tensor.untyped_storage()._cdata
    except (AttributeError, NotImplementedError, RuntimeError):
        storage = 0
    return id(tensor), getattr(tensor, "_cdata", 0), storage


def is_profiling() -> bool:
    """Return whether a profiler is active. ``SGD.step`` then uses torch's wrapper, which gives the step a range of its
    own in the profile. Since 1.8; required."""
    return torch.autograd._profiler_enabled()


# ----------------------------------------------------------------------------------------------------------- GradScaler


def scale_tensor(scaler: torch.amp.GradScaler) -> Tensor | None:
    """Return the scale on the device; None before the first ``scale()``. A captured step reads it at a fixed address,
    which every replay checks. ``get_scale()`` would wait for the device. Since 1.6; required with a scaler."""
    return scaler._scale


def found_inf_tensors(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> list[Tensor]:
    """Return the flags that ``scaler.unscale_(optimizer)`` has set, one per device. Ranks share them, so that all skip
    the same updates. Since 1.6; required for steps with a scaler on several ranks."""
    return list(scaler._found_inf_per_device(optimizer).values())


def forget_step(scaler: torch.amp.GradScaler) -> None:
    """Discard the scaler's state of a step that failed between ``step()`` and ``update()``. The next scale would be
    computed from it. Since 1.6; required where a capture fails with a scaler."""
    scaler._per_optimizer_states.clear()


# -------------------------------------------------------------------------------------------------------------- modules

MODULE_DICTS = ("_parameters", "_buffers", "_modules")
"""The attributes of a module that hold its own parameters, buffers and children by name, None included.

Since 0.1; ``csrc/python/fingerprint.h`` reads them as well. Without them, replays compare every tensor in Python; see
``Fingerprint``.
"""

NormBase = nn.modules.batchnorm._NormBase
"""The base class of batch and instance normalisation. Since 1.4; required."""


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the module's own parameters; required. ``named_parameters`` leaves out None and duplicates."""
    return module._parameters


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the module's own buffers, in a dict to write to; required. ``named_buffers`` leaves out None and
    duplicates."""
    return module._buffers


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the module's own children; required. ``named_children`` leaves out None and duplicates."""
    return module._modules


# -------------------------------------------------------------------------------------------------------------- tensors

EXCHANGE_API: Any = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
"""DLPack's C exchange API, a capsule: compiled code reads a tensor's memory through it in one call. Since
pytorch#169724 (December 2025). None in older versions: Python then does the same, slower."""


def is_view(tensor: Tensor) -> bool:
    """Return whether ``tensor`` is a view for autograd. A gradient that is a view lies in a bucket of
    DistributedDataParallel. Since 1.0; required."""
    return tensor._is_view()


def sparse_parts(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the stored indices and values of a COO tensor. The public ``indices()`` and ``values()`` refuse a tensor
    that is not coalesced. Since 0.4; required for sparse batches."""
    return tensor._indices(), tensor._values()


def version_of(tensor: Tensor) -> int:
    """Return how often ``tensor`` was written to in place. This finds modules that write to attributes too large to
    copy. Since 0.4; required. Inference tensors have no version: it raises RuntimeError."""
    return tensor._version


try:
    torch.autograd.graph.increment_version(())
    _INCREMENTS_MANY = True
except (TypeError, RuntimeError):
    _INCREMENTS_MANY = False


def increment_version(tensors: Sequence[Tensor]) -> None:
    """Mark each of ``tensors`` as written to in place, so that autograd notices a write by compiled code. The function
    is public; older versions of torch take one tensor per call."""
    if _INCREMENTS_MANY:
        torch.autograd.graph.increment_version(tensors)
    else:
        for tensor in tensors:
            torch.autograd.graph.increment_version(tensor)


# ---------------------------------------------------------------------------------------------------------- CUDA graphs


def end_allocation(device: int | None, pool: Any) -> None:
    """Stop the allocator from taking memory from ``pool`` after a failed capture, which torch does not do
    (pytorch#180395). The function has its present name since 2.8, and another one in older versions.

    Raises:
        RuntimeError: torch has ended it itself.
        AttributeError: this torch has neither name.
    """
    before_2_8 = "_cuda_endAllocateCurrentStreamToPool"
    getattr(torch._C, before_2_8 if hasattr(torch._C, before_2_8) else "_cuda_endAllocateToPool")(device, pool)
