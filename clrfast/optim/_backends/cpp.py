"""The C++ backend for parameters in the CPU's memory."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from ... import _native
from .._parameters import devices_of
from .._protocols import Control, GradScale, OptimizerView
from .native import NativeUpdate, as_float32, clip_arguments, group_numbers

_in_forked_child = False
"""Whether this process was forked. OpenMP's threads do not exist in the child, and a parallel region would wait for
them."""


def _note_fork() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def why_not(device: torch.device) -> str | None:
    """Return why this backend cannot update parameters on ``device``, and the remedy; None if it can."""
    if _native.why_missing is not None:
        return f"{_native.why_missing}; {_native.HOW_TO_BUILD}"
    return None if device.type == "cpu" else "it works on the CPU; use backend='auto'"


def updates_of(optimizer: OptimizerView) -> list[CppUpdate]:
    """Return one update for all parameters."""
    return [CppUpdate(optimizer, devices_of(optimizer.param_groups)[0])]


def advance_(control: Control, loss: Tensor | None, found_inf: Tensor | None) -> None:
    """Take one step of a control in the CPU's memory."""
    _native.load().advance_(_advance_arguments(control, loss, found_inf))


def _advance_arguments(control: Control, loss: Tensor | None, found_inf: Tensor | None) -> tuple[Any, ...]:
    return (
        control.addresses(),
        control.smoothing,
        control.stop_factor or 0.0,
        None if loss is None else loss.item(),
        0.0 if found_inf is None else found_inf.item(),
    )


class CppUpdate(NativeUpdate):
    """The update of all parameters of an optimizer on the CPU."""

    device_type = 1
    mixed_dtypes = False

    def _clip_(self, optimizer: OptimizerView, max_norm: float, scale: GradScale, result: Tensor) -> None:
        control = optimizer.control
        grad_scale, found_inf = (as_float32(tensor, self._device) for tensor in (scale.grad_scale, scale.found_inf))
        _native.load().clip_(
            self._cache.rows,
            len(optimizer.param_groups),
            clip_arguments(control, max_norm, grad_scale, found_inf, result),
            _n_threads(),
        )

    def _update_(self, optimizer: OptimizerView, loss: Any, scale: GradScale) -> None:
        control, rule, advance = optimizer.control, optimizer.rule, None
        if control is not None:
            advance = _advance_arguments(control, control.as_tensor(loss), scale.found_inf)
        getattr(_native.load(), f"{rule.name}_")(
            self._cache.rows,
            [group_numbers(rule, group) for group in optimizer.param_groups],
            advance,
            scale.found_inf is None or scale.found_inf.item() == 0,
            1.0 if scale.grad_scale is None else scale.grad_scale.item(),
            1.0 if scale.clip_factor is None else scale.clip_factor.item(),
            _n_threads(),
        )
        if control is not None:
            control.count_step()


def _n_threads() -> int:
    return 1 if _in_forked_child else torch.get_num_threads()
