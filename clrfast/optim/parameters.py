"""The parameters of one step: which have a gradient, whether all can be updated, and their momentum state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SUPPORTED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Parameter:
    """One parameter with a gradient. ``index`` counts over all groups; ``group`` is its group's index."""

    index: int
    group: int
    param: Tensor
    grad: Tensor


def with_gradient(optimizer: Optimizer) -> list[Parameter]:
    """All parameters that have a gradient, in order.

    Raises:
        RuntimeError: a gradient or a momentum buffer that SGD cannot use, or parameters on several devices. Nothing
            has changed then.
    """
    found: list[Parameter] = []
    index = 0
    for group, options in enumerate(optimizer.param_groups):
        for param in options["params"]:
            if param.grad is not None:
                found.append(Parameter(index, group, param, param.grad))
            index += 1
    for parameter in found:
        reason = _why_unusable(parameter, optimizer.state.get(parameter.param, {}).get("momentum_buffer"))
        if reason is not None:
            shape = tuple(parameter.param.shape)
            raise RuntimeError(f"parameter {parameter.index} (group {parameter.group}, shape {shape}): {reason}")
    require_one_device(optimizer.param_groups)
    return found


def require_one_device(param_groups: Sequence[Mapping[str, Any]]) -> torch.device:
    """The device of all parameters.

    Raises:
        RuntimeError: they lie on several.
    """
    devices = {param.device for group in param_groups for param in group["params"]} or {torch.device("cpu")}
    if len(devices) > 1:
        raise RuntimeError(
            f"params: they lie on several devices ({', '.join(sorted(map(str, devices)))}); "
            "make one optimizer per device, or move the model to one"
        )
    return devices.pop()


def ensure_momentum(state: dict[str, Any], param: Tensor) -> None:
    """Give ``param`` its momentum buffer, zeros, and the flag ``started``: whether it holds an applied update.

    torch has no such flag: there a buffer exists from the first update on. Here a first update may be skipped on
    the device, after the host has made the buffer. A buffer without a flag comes from outside, and holds one.
    """
    if state.get("momentum_buffer") is None:
        state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["started"] = torch.zeros((), dtype=torch.bool, device=param.device)
    elif "started" not in state:
        state["started"] = torch.ones((), dtype=torch.bool, device=param.device)


def _why_unusable(parameter: Parameter, buffer: Tensor | None) -> str | None:
    param, grad = parameter.param, parameter.grad
    if grad.layout != torch.strided:
        return (
            "its gradient is sparse; use torch.optim.SGD for it, or make the gradient dense (Embedding(sparse=False))"
        )
    if grad.is_complex() or param.is_complex():
        return "it is complex; use torch.optim.SGD for it, or optimise torch.view_as_real of it"
    if param.dtype not in SUPPORTED or grad.dtype not in SUPPORTED:
        return f"{param.dtype} with a gradient of {grad.dtype} is not supported; use one of {SUPPORTED}"
    if grad.device != param.device or grad.shape != param.shape:
        return f"its gradient has shape {tuple(grad.shape)} on {grad.device}, the parameter is on {param.device}"
    if buffer is not None and (buffer.shape != param.shape or buffer.device != param.device):
        return (
            f"its momentum_buffer has shape {tuple(buffer.shape)} on {buffer.device}; "
            "was the state of another model loaded? Load the right one, or clear optimizer.state"
        )
    return None
