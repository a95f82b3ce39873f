"""Which backend updates which parameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ... import _native
from .._parameters import described, devices_of
from . import cuda
from .native import CppUpdate
from .reference import ReferenceUpdate

if TYPE_CHECKING:
    from .._sgd import SGD

NAMES = ("auto", "torch", "cpp", "cuda")

Update = ReferenceUpdate | CppUpdate | cuda.CudaUpdate


def resolved(backend: str, param_groups: Sequence[Mapping[str, Any]]) -> str:
    """The backend that ``backend``, one of NAMES, stands for with these parameters.

    Raises:
        RuntimeError: a native backend was asked for that cannot update one of them.
    """
    if backend == "auto":
        return _fastest(devices_of(param_groups))
    index = 0
    for group, options in enumerate(param_groups):
        for param in options["params"]:
            reason = why_not(backend, param.device)
            if reason is not None:
                where = f"{described(index, group, param)} on {param.device}"
                raise RuntimeError(f"backend: {backend!r} cannot update {where}: {reason}")
            index += 1
    return backend


def why_not(backend: str, device: torch.device) -> str | None:
    """Why ``backend`` cannot update parameters on ``device``, and what to do about it; None if it can."""
    if backend == "torch":
        return None
    if backend == "cuda":
        return cuda.why_not(device)
    if _native.why_missing is not None:
        return f"{_native.why_missing}; {_native.HOW_TO_BUILD}"
    return None if device.type == "cpu" else "it works on the CPU; use backend='auto'"


def updates_of(optimizer: SGD) -> list[Update]:
    """What updates the parameters of ``optimizer``: all together, or those of each device."""
    backend, devices = optimizer.backend, devices_of(optimizer.param_groups)
    if backend == "torch":
        return [ReferenceUpdate(optimizer)]
    if backend == "cpp":
        return [CppUpdate(optimizer, devices[0])]
    return [cuda.CudaUpdate(optimizer, device, optimizer.tick(device)) for device in devices]


def _fastest(devices: Sequence[torch.device]) -> str:
    native = {"cpu": "cpp", "cuda": "cuda"}.get(devices[0].type)
    if native is None:
        return "torch"
    reasons = [reason for device in devices if (reason := why_not(native, device)) is not None]
    if not reasons:
        return native
    warnings.warn(
        f"the native backend {native!r} is missing, so SGD takes the slower pure-torch one: {reasons[0]}. "
        "backend='torch' chooses pure torch without this warning.",
        stacklevel=5,
    )
    return "torch"
