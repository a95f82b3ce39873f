"""The pure-torch backend: the executable specification of ``advance_`` and of the update.

It is tensor code for any device that torch has, and it never waits for the device. ``csrc/step_control.h`` and
``csrc/rules/sgd.h`` hold the same formulas and agree bit for bit: each operation rounds by itself, in float32 (float64
for float64 parameters).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...schedules import QUANTITIES
from .. import _capture as capture
from .._parameters import ParamWithGrad, devices_of, params_with_grad
from .._protocols import Control, OptimizerView

Value = Tensor | float


def why_not(device: torch.device) -> str | None:
    """Return None: it works on every device."""
    return None


def updates_of(optimizer: OptimizerView) -> list[ReferenceUpdate]:
    """Return one update for all parameters."""
    return [ReferenceUpdate(optimizer)]


def advance_(control: Control, loss: Tensor | None, found_inf: Tensor | None) -> None:
    """Take one step of the control; ``StepControl.advance`` says which."""
    running, last = ~control.stop, control.total_steps - 1
    if loss is not None:
        loss = loss.detach().reshape(()).to(control.table, non_blocking=True)
        _record_(control, loss, running)
        _watch_(control, loss, running)
    apply = ~control.stop
    if found_inf is not None:
        apply = apply & (found_inf.reshape(()).to(control.row, non_blocking=True) == 0)
    row = control.table[control.step.clamp(max=last).view(1)][0]
    control.row[:, :3] = torch.where(running, row, control.row[:, :3])
    control.row[:, 3] = apply
    control.step += apply


def _record_(control: Control, loss: Tensor, running: Tensor) -> None:
    last = control.total_steps - 1
    index = control.step.clamp(max=last).view(1)
    record = running & (control.step <= last)
    control.losses.index_copy_(0, index, torch.where(record, loss, control.losses[index]))


def _watch_(control: Control, loss: Tensor, running: Tensor) -> None:
    """Update the average and the best loss, and stop where the loss diverges."""
    average, weight, best = control.average
    smoothing, loss_weight = np.float32(control.smoothing), np.float32(1) - np.float32(control.smoothing)
    finite = torch.isfinite(loss)
    average = float(smoothing) * average + float(loss_weight) * loss
    weight = float(smoothing) * weight + float(loss_weight)
    smoothed = average / weight
    best = torch.minimum(best, smoothed)
    if control.stop_factor is not None:
        allowed = float(np.float32(control.stop_factor) - np.float32(1)) * best.abs()
        control.stop |= running & (~finite | (smoothed - best > allowed))
    control.average.copy_(torch.where(running & finite, torch.stack((average, weight, best)), control.average))


def update_(
    param: Tensor,
    grad: Tensor,
    buffer: Tensor | None,
    momentum_initialized: Tensor | None,
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
    """Update one parameter in place; ``grad`` is only read.

        g = (-1 if maximize else 1) / grad_scale * grad
        g = g + weight_decay * p                                        left out where weight_decay == 0
        b = momentum * b + (1 - dampening) * g                          the first applied update: b = g
        d = g + momentum * b if nesterov else b                         d = g where momentum == 0
        p = p - lr * d

    Args:
        param, grad, buffer: one shape, any real floating dtypes. ``buffer`` is None without momentum.
        momentum_initialized: int64 [], 0 until an update of ``buffer`` was applied; None says that one was.
        master: float32 master weights of a 16-bit ``param``. They are updated, and ``param`` becomes their rounded
            copy. Where an element of ``param`` differs from that copy, it was written to from outside, and overrides
            its master weight.
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
        if momentum_initialized is not None:
            b = torch.where(momentum_initialized != 0, b, g)
        has_momentum = momentum != 0
        d = _where(has_momentum, g + momentum * b if nesterov else b, g)
        writes_buffer = has_momentum & apply
        _write_(buffer, b, writes_buffer)
        if momentum_initialized is not None:  # another backend may have written a number above 1
            momentum_initialized += (momentum_initialized == 0) & writes_buffer
    p = p - lr * d
    if master is not None:
        _write_(master, p, apply)
    _write_(param, p, apply)


def _scalar(value: Value, compute: torch.dtype) -> Value:
    return value.reshape(()).to(compute) if isinstance(value, Tensor) else value


def _where(condition: Any, value: Tensor, otherwise: Tensor) -> Tensor:
    """Choose by ``condition``: on the host if it is a bool, on the device if it is a tensor."""
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

    def __init__(self, optimizer: OptimizerView):
        self._devices = devices_of(optimizer.param_groups)
        self._parameters: list[ParamWithGrad] = []

    def prepare(self, optimizer: OptimizerView) -> bool:
        """Find this step's gradients; ``Update.prepare`` has the details."""
        if devices_of(optimizer.param_groups) != self._devices:
            return False
        self._parameters = params_with_grad(optimizer.param_groups, optimizer.state)
        if capture.is_capturing(self._devices):
            capture.require_complete(optimizer, self._parameters)
        for parameter in self._parameters:
            optimizer.ensure_state(parameter.group, parameter.param)
        return True

    def update_(self, optimizer: OptimizerView, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Advance the schedule and apply the update; ``Update.update_`` has the details."""
        for control in optimizer.controls.values():
            control.advance(loss, found_inf)
        update_all_(optimizer, self._parameters, grad_scale, found_inf)


@torch.no_grad()
def update_all_(
    optimizer: OptimizerView,
    parameters: list[ParamWithGrad],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Apply ``update_`` to each of ``parameters``, with its state and its group's options."""
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
            optimizer.momentum_flags.flag_of(buffer),
            state["master_param"] if optimizer.keeps_master(param) else None,
            **dict(zip(QUANTITIES, values, strict=True)),
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            grad_scale=None if grad_scale is None else grad_scale.to(param.device, non_blocking=True),
            apply=apply,
        )
