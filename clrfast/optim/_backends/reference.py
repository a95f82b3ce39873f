"""The pure-torch backend: the executable specification of ``advance_`` and of the update.

It is tensor code for any device that torch has, and it never waits for the device. ``csrc/step_control.h`` holds the
same formulas and agrees bit for bit. The update itself is in ``_rules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...schedules._group_values import momentum_of
from .. import _capture as capture
from .._parameters import ParamWithGrad, devices_of, params_with_grad
from .._protocols import Control, GradScale, OptimizerView
from .._rules import Row, Rule, Value


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
    rule: Rule,
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor],
    counter: Tensor | None,
    master: Tensor | None = None,
    *,
    row: Row,
    constants: Sequence[float],
    maximize: bool,
    grad_scale: Value = 1.0,
    clip_factor: Value = 1.0,
    apply: Tensor | bool = True,
) -> None:
    """Update one parameter in place by ``rule``; ``grad`` is only read.

    Args:
        param, grad, states: one shape, any real floating dtypes. ``states`` are those that the rule uses.
        counter: float32; its first element counts the applied updates. None for none.
        master: float32 master weights of a 16-bit ``param``. They are updated, and ``param`` becomes their rounded
            copy. Where an element of ``param`` differs from that copy, it was written to from outside, and overrides
            its master weight.
        row: lr, momentum, weight_decay: Python numbers, or one-element tensors on the parameter's device.
        constants: the rule's own options.
        grad_scale, clip_factor: divides, and multiplies, the gradient.
        apply: where false, nothing changes.
    """
    compute = torch.float64 if param.dtype == torch.float64 else torch.float32
    p = param.to(compute)
    if master is not None:
        p = torch.where(master.to(param.dtype) == param, master, p)
    factor = 1 / as_scalar(grad_scale, compute) * as_scalar(clip_factor, compute)
    g = (-factor if maximize else factor) * grad.to(compute)
    count: Value | None = None if counter is None else counter.view(-1)[0]
    if param.device.type == "cpu" and not capture.is_capturing((param.device,)):
        # Reading a tensor does not block there, and powers of beta on the host equal those of backend "cpp".
        row = [float(value) for value in row]
        count = None if count is None else float(count)
    p, new_states, counted = rule.update(p, g, [state.to(compute) for state in states], count, row, constants)
    if counter is not None:
        counter.view(-1)[0] += counted & apply
    for state, value in zip(states, new_states, strict=True):
        write_(state, value, counted & apply)
    if master is not None:
        write_(master, p, apply)
    write_(param, p, apply)


def as_scalar(value: Value, dtype: torch.dtype) -> Value:
    """Return a one-element tensor as ``dtype`` and without dimensions; return a number unchanged."""
    return value.reshape(()).to(dtype) if isinstance(value, Tensor) else value


def write_(target: Tensor, value: Tensor, apply: Tensor | bool) -> None:
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
        self._parameters = params_with_grad(optimizer)
        if capture.is_capturing(self._devices):
            capture.require_complete(optimizer, self._parameters)
        for parameter in self._parameters:
            optimizer.ensure_state(parameter.group, parameter.param)
        return True

    def clip(self, optimizer: OptimizerView, max_norm: float, scale: GradScale) -> None:
        """Return None, because ``clip_all`` measures the norm; ``Update.clip`` has the details."""

    def update_(self, optimizer: OptimizerView, loss: Any, scale: GradScale) -> None:
        """Advance the schedule and apply the update; ``Update.update_`` has the details."""
        for control in optimizer.controls.values():
            control.advance(loss, scale.found_inf)
        update_all_(optimizer, self._parameters, scale)


@torch.no_grad()
def update_all_(optimizer: OptimizerView, parameters: list[ParamWithGrad], scale: GradScale) -> None:
    """Apply ``update_`` to each of ``parameters``, with its state and its group's options."""
    rule = optimizer.rule
    for parameter in parameters:
        param, group = parameter.param, optimizer.param_groups[parameter.group]
        row: list[Any] = [group["lr"], momentum_of(group), group["weight_decay"]]
        apply: Tensor | bool = True
        if optimizer.controls:
            *row, applied = optimizer.controls[param.device].row[parameter.group].unbind()
            apply = applied != 0
        elif scale.found_inf is not None:
            apply = scale.found_inf.reshape(()).to(param.device, non_blocking=True) == 0
        state = optimizer.state.get(param, {})
        names = optimizer.states_of(parameter.group)
        update_(
            rule,
            param,
            parameter.grad,
            [state[name] for name in names],
            optimizer.counters.counter_of(state) if names else None,
            state["master_param"] if optimizer.keeps_master(param) else None,
            row=row,
            constants=rule.constants(group),
            maximize=group["maximize"],
            grad_scale=_on(param.device, scale.grad_scale),
            clip_factor=_on(param.device, scale.clip_factor),
            apply=apply,
        )


def _on(device: torch.device, value: Tensor | None) -> Value:
    return 1.0 if value is None else value.to(device, non_blocking=True)


@torch.no_grad()
def clip_all(optimizer: OptimizerView, max_norm: float, scale: GradScale) -> tuple[Tensor, Tensor, Tensor]:
    """Measure the norm of all gradients, and record it; ``csrc/clip.h`` has the formulas.

    The squares of gradients on other devices are added on the first one, those of DTensors over the ranks.

    Returns:
        The norm, the factor that clips it, and ``found_inf``, each of one element.
    """
    device = devices_of(optimizer.param_groups)[0]
    dtype = torch.float32 if device.type == "mps" else torch.float64
    total = torch.zeros((), dtype=dtype, device=device)
    shared: dict[Any, Tensor] = {}  # sums of DTensors by their mesh
    for parameter in params_with_grad(optimizer):
        squares = parameter.grad.detach().to(dtype).square().sum()
        mesh = getattr(parameter.grad, "device_mesh", None)
        if mesh is None:
            total += squares.to(device, non_blocking=True)
        else:
            shared[mesh] = shared[mesh] + squares if mesh in shared else squares
    for sum_of_mesh in shared.values():
        total += sum_of_mesh.full_tensor().to(device, non_blocking=True)  # type: ignore[attr-defined]
    grad_scale, found_inf = scale.grad_scale, scale.found_inf
    divisor = 1.0 if grad_scale is None else grad_scale.reshape(()).to(device, dtype, non_blocking=True)
    norm = total.sqrt() / divisor
    skip = ~torch.isfinite(norm)
    if found_inf is not None:
        skip = skip | (found_inf.reshape(()).to(device, non_blocking=True) != 0)
    for control in optimizer.controls.values():
        _record_norm_(control, norm.to(control.device, non_blocking=True))
    return norm, (max_norm / (norm + 1e-6)).clamp(max=1.0), skip.to(torch.float32)


def _record_norm_(control: Control, norm: Tensor) -> None:
    """Record the norm at the current step, unless the control has stopped or is past its end."""
    last = control.total_steps - 1
    index = control.step.clamp(max=last).view(1)
    record = ~control.stop & (control.step <= last)
    control.grad_norms.index_copy_(0, index, torch.where(record, norm.to(torch.float32), control.grad_norms[index]))
