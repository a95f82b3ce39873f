"""The parameters of one step: which have a gradient, whether all can be updated, and their momentum state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SUPPORTED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the order of csrc/dtypes.h


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
        RuntimeError: a gradient or a state that SGD cannot use. Nothing has changed then.
    """
    found: list[Parameter] = []
    index = 0
    for group, options in enumerate(optimizer.param_groups):
        for param in options["params"]:
            if param.grad is not None:
                found.append(Parameter(index, group, param, param.grad))
            index += 1
    for parameter in found:
        reason = _why_unusable(parameter, optimizer.state.get(parameter.param, {}))
        if reason is not None:
            raise RuntimeError(f"{described(parameter.index, parameter.group, parameter.param)}: {reason}")
    return found


def require_one_element(lr: Tensor) -> None:
    """A rate that is a tensor has one element.

    Raises:
        ValueError: it has not.
    """
    if lr.numel() != 1:
        raise ValueError(f"lr: got a tensor of shape {tuple(lr.shape)}; give a number or a one-element tensor")


def described(index: int, group: int, param: Tensor) -> str:
    """A parameter as error messages name it."""
    return f"parameter {index} (group {group}, shape {tuple(param.shape)})"


def devices_of(param_groups: Sequence[Mapping[str, Any]]) -> tuple[torch.device, ...]:
    """The devices of all parameters, in order of first use; the CPU where there are no parameters.

    Raises:
        RuntimeError: they lie on several that are not all CUDA devices.
    """
    devices = dict.fromkeys(param.device for group in param_groups for param in group["params"])
    if len(devices) > 1 and any(device.type != "cuda" for device in devices):
        raise RuntimeError(
            f"params: they lie on several devices ({', '.join(sorted(map(str, devices)))}), which only CUDA devices "
            "may do; make one optimizer per device, or move the model to one"
        )
    return tuple(devices) or (torch.device("cpu"),)


def ensure_master(state: dict[str, Any], param: Tensor) -> None:
    """Give ``param``, a 16-bit one, its float32 master weights."""
    if state.get("master_param") is None:
        state["master_param"] = param.detach().float()


def needs_master(param: Tensor) -> bool:
    """Whether master weights would hold more than ``param`` itself."""
    return param.dtype in (torch.float16, torch.bfloat16)


def _why_unusable(parameter: Parameter, state: Mapping[str, Any]) -> str | None:
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
    for name in ("momentum_buffer", "master_param"):
        tensor = state.get(name)
        if tensor is not None and not tensor.is_floating_point():
            return f"its {name} is of {tensor.dtype}; was the state of another model loaded? Clear optimizer.state"
        if tensor is not None and (tensor.shape != param.shape or tensor.device != param.device):
            return (
                f"its {name} has shape {tuple(tensor.shape)} on {tensor.device}, the parameter is on {param.device}; "
                "was the model moved, or the state of another model loaded? Load the right state after moving the "
                "model, or clear optimizer.state"
            )
    return None
