"""Emulates ``torch.set_default_device("cuda:0")`` on the CPU.

Tensors claim to be on the device, and torch functions raise the errors that CUDA raises. So tests
without a GPU find code that would fail on one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext, _device_constructors
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_iter, tree_map_only

from clrfast.optim import _capture as capture
from clrfast.optim._backends import cuda, reference
from clrfast.training import _graph_cache as graphs
from tests.cuda_on_cpu import emulated_graphs
from tests.helpers.default_device import reset_default_device

CUDA = torch.device("cuda:0")

BOTH = {torch.Tensor.copy_, torch.Tensor.__getitem__, torch.Tensor.to}
"""Functions that accept tensors of the CPU together with tensors of the device."""


class OnCuda(torch.Tensor):
    """A tensor that claims to be on ``cuda:0``; its memory is the CPU's."""

    device = CUDA
    is_cuda = True
    is_cpu = False

    @staticmethod
    def of(plain: torch.Tensor) -> OnCuda:
        """Return ``plain`` as a tensor of the device, over the same memory."""
        return torch.Tensor._make_subclass(OnCuda, plain)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with no_dispatch():
            made = func(*args, **kwargs)
        return tree_map_only(torch.Tensor, lambda out: out if isinstance(out, OnCuda) else OnCuda.of(out), made)

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self):
        return plain(self).tolist()

    def record_stream(self, stream):
        pass

    def __repr__(self, **_):
        return f"OnCuda({plain(self)})"


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` as one of the CPU, over the same memory."""
    with no_dispatch():
        return torch.Tensor._make_subclass(torch.Tensor, tensor.detach())


class Generator(torch._C.Generator):
    """A generator of the CPU that claims to be on the device it was made for."""

    where = torch.device("cpu")

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.where = torch.device(device)
        return made

    @property
    def device(self):
        return self.where


def require_one_device(values: Any) -> None:
    """Raise torch's error if the tensors are on both devices; tensors of the CPU without dimensions are allowed."""
    tensors = [value for value in tree_iter(values) if isinstance(value, torch.Tensor)]
    strangers = [
        tensor
        for tensor in tensors
        if tensor.device.type == "cpu" and tensor.dim() and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    ]
    if strangers and len(strangers) < len(tensors) and any(isinstance(tensor, OnCuda) for tensor in tensors):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
        )


def require_generator(generator: torch._C.Generator | None, device: torch.device) -> None:
    """Raise torch's error if the generator is on another device."""
    if generator is not None and generator.device.type != device.type:
        raise RuntimeError(f"Expected a '{device.type}' device type for generator but found '{generator.device.type}'")


class CudaByDefault(TorchFunctionMode):
    """Makes the tensors of constructors without a device on ``cuda:0``, and raises the errors that CUDA raises."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if isinstance(func, torch._ops.OpOverload):  # of a graph that is replayed
            return func(*args, **kwargs)
        if func not in BOTH:
            require_one_device((args, kwargs))
        if func in (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu):
            return moved(func, *args, **kwargs)
        if func is torch.Tensor.pin_memory:
            if isinstance(args[0], OnCuda):
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
            return args[0].clone()
        if func in _device_constructors():
            return constructed(func, CUDA, *args, **kwargs)
        if args and isinstance(args[0], torch.Tensor):
            require_generator(kwargs.get("generator"), args[0].device)
            if kwargs.get("device") is not None or kwargs.get("pin_memory"):
                return constructed(func, args[0].device, *args, **kwargs)
        return func(*args, **kwargs)


def constructed(func, default, *args, device=None, generator=None, pin_memory=False, requires_grad=False, **kwargs):
    """Call the constructor ``func`` on ``device``, or on ``default`` where that is None."""
    device = default if device is None else torch.device(device)
    if pin_memory and device.type != "cpu":
        raise RuntimeError("Only dense CPU tensors can be pinned")
    require_generator(generator, device)
    if generator is not None:
        kwargs["generator"] = generator
    if device.type not in ("cpu", "cuda"):
        return func(*args, **kwargs, device=device, requires_grad=requires_grad)
    args, kwargs = tree_map_only(OnCuda, plain, (args, kwargs))
    made = func(*args, **kwargs, device="cpu")
    return (OnCuda.of(made) if device.type == "cuda" else made).requires_grad_(requires_grad)


def moved(func, tensor, *args, **kwargs):
    """Perform ``tensor.to``, ``.cuda`` or ``.cpu``."""
    device = {torch.Tensor.cuda: CUDA, torch.Tensor.cpu: torch.device("cpu")}.get(func)
    flags = iter(("non_blocking", "copy"))
    for value in (*args, kwargs.pop("device", None)):
        if isinstance(value, torch.Tensor):
            device, kwargs["dtype"] = value.device, value.dtype
        elif isinstance(value, torch.dtype):
            kwargs["dtype"] = value
        elif isinstance(value, bool):
            kwargs[next(flags)] = value
        elif value is not None:
            device = torch.device(value)
    if device is None or device.type == tensor.device.type:
        return torch.Tensor.to(tensor, **kwargs) if kwargs else tensor
    if device.type not in ("cpu", "cuda"):
        return torch.Tensor.to(tensor, device=device, **kwargs)
    return Moved.apply(torch.Tensor.to(tensor, **{**kwargs, "copy": True}), device)


class Moved(torch.autograd.Function):
    """Moves a tensor from the CPU to the device or back, as a step of autograd."""

    @staticmethod
    def forward(ctx, tensor, device):
        ctx.before = tensor.device
        return OnCuda.of(tensor.detach()) if device.type == "cuda" else plain(tensor)

    @staticmethod
    def backward(ctx, grad):
        return Moved.apply(grad, ctx.before), None


class Event:
    def record(self, stream):
        pass

    def query(self):
        return True

    def synchronize(self):
        pass


class Update(reference.ReferenceUpdate):
    """The reference in place of backend "cuda"'s update."""

    _left_to_reference = ()

    def __init__(self, optimizer, device, step_count):
        super().__init__(optimizer)


def default_device() -> torch.device:
    """Replace ``torch.get_default_device``; a ``with torch.device(...)`` block still takes effect."""
    contexts = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, DeviceContext)]
    return contexts[-1].device if contexts else CUDA


@contextlib.contextmanager
def cuda_by_default(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a block as after ``torch.set_default_device("cuda:0")``, with emulated graphs.

    Backend "cuda" computes with the reference.
    """
    reason_against_graphs = graphs.reason_against_graphs
    emulated_graphs.install(patch)
    for name, value in {
        "Event": Event,
        "current_device": lambda: 0,
        "is_current_stream_capturing": lambda: capture.is_capturing(()),
        "is_bf16_supported": lambda: True,
        "_sleep": lambda cycles: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "synchronize": lambda device=None: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
    }.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(graphs, "reason_against_graphs", reason_against_graphs)
    patch.setattr(torch, "Generator", Generator)
    patch.setattr(torch, "get_default_device", default_device)
    patch.setattr(cuda, "why_not", lambda device: None if device.type == "cuda" else "it is for CUDA devices")
    patch.setattr(cuda, "advance_", reference.advance_)
    patch.setattr(cuda, "CudaUpdate", Update)
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    try:
        with CudaByDefault():
            yield
    finally:
        reset_default_device()
