"""The parameters of one step: which have a gradient, and whether they can be updated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ._counters import is_step
from ._rules import Rule

SUPPORTED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The dtypes of parameters, gradients and states, in the order of csrc/dtypes.h."""


@dataclass(frozen=True)
class ParamWithGrad:
    """A parameter that has a gradient; ``index`` counts over all groups, ``group`` is the index of its group."""

    index: int
    group: int
    param: Tensor
    grad: Tensor


class _Optimizer(Protocol):
    """The part of an optimizer that is used here."""

    rule: Rule
    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> Any: ...


def params_with_grad(optimizer: _Optimizer) -> list[ParamWithGrad]:
    """Return the parameters of an optimizer that have a gradient, in order.

    Raises:
        RuntimeError: a gradient or a state cannot be used. Nothing has changed then.
    """
    found: list[ParamWithGrad] = []
    index = 0
    for group, options in enumerate(optimizer.param_groups):
        for param in options["params"]:
            if param.grad is not None:
                found.append(ParamWithGrad(index, group, param, param.grad))
            index += 1
    for parameter in found:
        reason = _why_unusable(parameter, optimizer.state.get(parameter.param, {}), optimizer.rule)
        if reason is not None:
            raise RuntimeError(f"{describe(parameter.index, parameter.group, parameter.param)}: {reason}")
    return found


def require_one_element(lr: Tensor) -> None:
    """Raise ValueError unless ``lr`` has one element."""
    if lr.numel() != 1:
        raise ValueError(f"lr: got a tensor of shape {tuple(lr.shape)}; give a number or a one-element tensor")


def describe(index: int, group: int, param: Tensor) -> str:
    """Return a parameter's name for error messages."""
    return f"parameter {index} (group {group}, shape {tuple(param.shape)})"


def devices_of(param_groups: Sequence[Mapping[str, Any]]) -> tuple[torch.device, ...]:
    """Return the devices of all parameters, in order of first use; the CPU if there are no parameters.

    Raises:
        RuntimeError: there are several, and not all of them are CUDA devices.
    """
    devices = dict.fromkeys(param.device for group in param_groups for param in group["params"])
    if len(devices) > 1 and any(device.type != "cuda" for device in devices):
        raise RuntimeError(
            f"params: they are on several devices ({', '.join(sorted(map(str, devices)))}), which works only for CUDA "
            "devices; make one optimizer per device, or move the model to one"
        )
    return tuple(devices) or (torch.device("cpu"),)


def ensure_master(state: dict[str, Any], param: Tensor) -> None:
    """Make the float32 master weights of ``param``, a 16-bit parameter, if ``state`` lacks them."""
    if state.get("master_param") is None:
        state["master_param"] = param.detach().float()


def needs_master(param: Tensor) -> bool:
    """Return whether master weights of ``param`` hold more bits than it does."""
    return param.dtype in (torch.float16, torch.bfloat16)


def _why_unusable(parameter: ParamWithGrad, state: Mapping[str, Any], rule: Rule) -> str | None:
    param, grad = parameter.param, parameter.grad
    if grad.layout != torch.strided:
        return (
            "its gradient is sparse; use torch's optimizer for it, or make the gradient dense (Embedding(sparse=False))"
        )
    if grad.is_complex() or param.is_complex():
        return "it is complex; use torch's optimizer for it, or optimise torch.view_as_real of it"
    if param.dtype not in SUPPORTED or grad.dtype not in SUPPORTED:
        return f"{param.dtype} with a gradient of {grad.dtype} is not supported; use one of {SUPPORTED}"
    if grad.device != param.device or grad.shape != param.shape:
        return f"its gradient has shape {tuple(grad.shape)} on {grad.device}, the parameter is on {param.device}"
    step = state.get("step")
    if step is not None and not is_step(step):
        return f"its step is {step!r}; it is a number of updates. Was the state of another model loaded?"
    for name in (*rule.states, "master_param"):
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
