"""The pure-torch backend: the executable specification of ``advance_`` and of the update.

Sync-free tensor code for any device that torch has. ``csrc/step_control.h`` and ``csrc/sgd_math.h`` hold the same
formulas and agree bit for bit: every operation is rounded by itself, in float32 (float64 for float64 parameters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...schedules import QUANTITIES
from .. import _capture as capture
from .._parameters import Parameter, devices_of, with_gradient

if TYPE_CHECKING:
    from .._control import StepControl
    from .._sgd import SGD

Value = Tensor | float


def advance_(control: StepControl, loss: Tensor | None, found_inf: Tensor | None) -> None:
    """One step of the control; see ``StepControl.advance``."""
    live, last = ~control.stop, control.total_steps - 1
    if loss is not None:
        loss = loss.detach().reshape(()).to(control.table, non_blocking=True)
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
    apply = ~control.stop
    if found_inf is not None:
        apply = apply & (found_inf.reshape(()).to(control.row, non_blocking=True) == 0)
    row = control.table[control.step.clamp(max=last).view(1)][0]
    control.row[:, :3] = torch.where(live, row, control.row[:, :3])
    control.row[:, 3] = apply
    control.step += apply


def update_(
    param: Tensor,
    grad: Tensor,
    buffer: Tensor | None,
    started: Tensor | None,
    master: Tensor | None = None,
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
        started: int64 [], 0 until an update of ``buffer`` was applied; None: it was.
        master: float32 master weights of a 16-bit ``param``: these are updated, and ``param`` becomes their rounded
            copy. An element of ``param`` that is no such copy was changed from outside, and counts instead.
        lr, momentum, weight_decay: Python numbers, or one-element tensors on the parameter's device.
        apply: where false, nothing changes.
    """
    compute = torch.float64 if param.dtype == torch.float64 else torch.float32
    lr, momentum, weight_decay = (_scalar(value, compute) for value in (lr, momentum, weight_decay))
    p, factor = param.to(compute), -1.0 if maximize else 1.0
    if master is not None:
        p = torch.where(master.to(param.dtype) == param, master, p)
    g = (factor if grad_scale is None else factor / _scalar(grad_scale, compute)) * grad.to(compute)
    g = _where(weight_decay != 0, g + weight_decay * p, g)
    d = g
    if buffer is not None:
        b = momentum * buffer.to(compute) + (1 - dampening) * g
        if started is not None:
            b = torch.where(started != 0, b, g)
        moving = momentum != 0
        d = _where(moving, g + momentum * b if nesterov else b, g)
        moving = moving & apply
        _write_(buffer, b, moving)
        if started is not None:  # another backend may have put more than 1 there
            started += (started == 0) & moving
    p = p - lr * d
    if master is not None:
        _write_(master, p, apply)
    _write_(param, p, apply)


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
        self._devices = devices_of(optimizer.param_groups)
        self._parameters: list[Parameter] = []

    def prepare(self, optimizer: SGD) -> bool:
        """Find this step's gradients. False if the parameters have moved to other devices since this was made.

        Raises:
            RuntimeError: one of them cannot be used; nothing has changed then.
        """
        if devices_of(optimizer.param_groups) != self._devices:
            return False
        self._parameters = with_gradient(optimizer)
        if capture.is_capturing(self._devices):
            capture.require_complete(optimizer, self._parameters)
        for parameter in self._parameters:
            optimizer.ensure_state(parameter.group, parameter.param)
        return True

    def update_(self, optimizer: SGD, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Advance the schedule, if there is one, and apply the update.

        Args:
            loss: what the schedule's control records; None without one.
            grad_scale: one element that divides every gradient, or None.
            found_inf: one element; anything but 0 skips the update. Under a schedule its control has seen it.
        """
        for control in optimizer.controls.values():
            control.advance(loss, found_inf)
        update_all_(optimizer, self._parameters, grad_scale, found_inf)


@torch.no_grad()
def update_all_(
    optimizer: SGD, parameters: list[Parameter], grad_scale: Tensor | None, found_inf: Tensor | None
) -> None:
    """``update_`` of each of ``parameters``, with its state and its group's options."""
    for parameter in parameters:
        param, group = parameter.param, optimizer.param_groups[parameter.group]
        values = [group[name] for name in QUANTITIES]
        apply: Tensor | bool = True
        if optimizer.controls:
            *values, applied = optimizer.controls[param.device].row[parameter.group].unbind()
            apply = applied != 0
        elif found_inf is not None:
            apply = found_inf.reshape(()).to(param.device, non_blocking=True) == 0
        state = optimizer.state.get(param, {})
        buffer = state["momentum_buffer"] if optimizer.uses_momentum(parameter.group) else None
        update_(
            param,
            parameter.grad,
            buffer,
            optimizer.first_updates.flag(buffer),
            state["master_param"] if optimizer.keeps_master(param) else None,
            **dict(zip(QUANTITIES, values, strict=True)),
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            grad_scale=None if grad_scale is None else grad_scale.to(param.device, non_blocking=True),
            apply=apply,
        )
