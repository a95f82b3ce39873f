"""The pure-torch backend: the executable specification of ``advance_`` and of the update.

Sync-free tensor code for any device that torch has. ``csrc/step_control.h`` and ``csrc/sgd_math.h`` hold the same
formulas and agree bit for bit: every operation is rounded by itself, in float32 (float64 for float64 parameters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..schedules import QUANTITIES
from .parameters import Parameter, ensure_momentum, with_gradient

if TYPE_CHECKING:
    from .control import StepControl
    from .sgd import SGD

Value = Tensor | float


def advance_(control: StepControl, loss: Tensor | None, found_inf: Tensor | None) -> None:
    """One step of the control; see ``StepControl.advance``."""
    live, last = ~control.stop, control.total_steps - 1
    if loss is not None:
        loss = loss.detach().reshape(()).to(control.table)
        slot = control.step.clamp(max=last).view(1)
        record = live & (control.step <= last)
        control.losses.index_copy_(0, slot, torch.where(record, loss, control.losses[slot]))

        average, weight, best = control.average
        smoothing, gain = np.float32(control.smoothing), np.float32(1) - np.float32(control.smoothing)
        finite = torch.isfinite(loss)
        average = float(smoothing) * average + float(gain) * loss
        weight = float(smoothing) * weight + float(gain)
        smoothed = average / weight
        best = torch.minimum(best, smoothed)
        if control.stop_factor is not None:
            room = float(np.float32(control.stop_factor) - np.float32(1)) * best.abs()
            control.stop |= live & (~finite | (smoothed - best > room))
        control.average.copy_(torch.where(live & finite, torch.stack((average, weight, best)), control.average))
    apply = ~control.stop if found_inf is None else ~control.stop & (found_inf.reshape(()).to(control.row.device) == 0)
    row = control.table[control.step.clamp(max=last).view(1)][0]
    control.row[:, :3] = torch.where(live, row, control.row[:, :3])
    control.row[:, 3] = apply
    control.step += apply


def update_(
    param: Tensor,
    grad: Tensor,
    buffer: Tensor | None,
    started: Tensor | None,
    *,
    lr: Value,
    momentum: Value,
    weight_decay: Value,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    grad_scale: Tensor | None = None,
    apply: Tensor | bool = True,
) -> None:
    """The update of one parameter, in place; ``grad`` is only read.

        g = (-1 if maximize else 1) / grad_scale * grad
        g = g + weight_decay * p                                        left out where weight_decay == 0
        b = momentum * b + (1 - dampening) * g                          the first applied update: b = g
        d = g + momentum * b if nesterov else b                         d = g where momentum == 0
        p = p - lr * d

    Args:
        param, grad, buffer: one shape; any real floating types. ``buffer`` is None without momentum.
        started: bool [], whether ``buffer`` holds an applied update; goes with ``buffer``.
        lr, momentum, weight_decay: Python numbers, or one-element tensors on the parameter's device.
        apply: where false, nothing changes.
    """
    compute = torch.float64 if param.dtype == torch.float64 else torch.float32
    lr, momentum, weight_decay = (_scalar(value, compute) for value in (lr, momentum, weight_decay))
    p, factor = param.to(compute), -1.0 if maximize else 1.0
    g = (factor if grad_scale is None else factor / _scalar(grad_scale, compute)) * grad.to(compute)
    g = _where(weight_decay != 0, g + weight_decay * p, g)
    d = g
    if buffer is not None and started is not None:
        b = momentum * buffer.to(compute) + (1 - dampening) * g
        b = torch.where(started, b, g)
        moving = momentum != 0
        d = _where(moving, g + momentum * b if nesterov else b, g)
        moving = moving & apply
        _write_(buffer, b, moving)
        started |= moving
    _write_(param, p - lr * d, apply)


def _scalar(value: Value, compute: torch.dtype) -> Value:
    return value.reshape(()).to(compute) if isinstance(value, Tensor) else value


def _where(condition: Any, value: Tensor, otherwise: Tensor) -> Tensor:
    """``value`` where the condition holds: decided here for a bool, on the device for a tensor."""
    if isinstance(condition, Tensor):
        return torch.where(condition, value, otherwise)
    return value if condition else otherwise


def _write_(target: Tensor, value: Tensor, apply: Tensor | bool) -> None:
    if apply is True:
        target.copy_(value)
    else:
        target.copy_(torch.where(torch.as_tensor(apply, device=target.device), value.to(target.dtype), target))


class ReferenceUpdate:
    """The update of all parameters of an optimizer, one after the other."""

    def __init__(self, optimizer: SGD):
        self._optimizer = optimizer
        self._parameters: list[Parameter] = []

    def prepare(self) -> None:
        """Find this step's gradients.

        Raises:
            RuntimeError: one of them cannot be used; nothing has changed then.
        """
        self._parameters = with_gradient(self._optimizer)

    def update_(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Apply the update.

        Args:
            grad_scale: one element that divides every gradient, or None.
            found_inf: one element; anything but 0 skips the update. Under a schedule its control has seen it.
        """
        update_all_(self._optimizer, self._parameters, grad_scale, found_inf)


@torch.no_grad()
def update_all_(
    optimizer: SGD, parameters: list[Parameter], grad_scale: Tensor | None, found_inf: Tensor | None
) -> None:
    """``update_`` of each of ``parameters``, with its state and its group's options."""
    control = optimizer.control
    apply: Tensor | bool = True if found_inf is None else found_inf.reshape(()) == 0
    for parameter in parameters:
        param, group = parameter.param, optimizer.param_groups[parameter.group]
        values = [group[name] for name in QUANTITIES]
        if control is not None:
            *values, applied = control.row[parameter.group].unbind()
            apply = applied != 0
        state: dict[str, Any] = {}
        if optimizer.uses_momentum(parameter.group):
            state = optimizer.state[param]
            ensure_momentum(state, param)
        update_(
            param,
            parameter.grad,
            state.get("momentum_buffer"),
            state.get("started"),
            **dict(zip(QUANTITIES, values, strict=True)),
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            grad_scale=grad_scale,
            apply=apply,
        )
