"""The C++ backend for parameters in the CPU's memory."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from ... import _native
from .._parameters import devices_of
from .._protocols import Control, OptimizerView
from .native import OPTIONS, NativeUpdate

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
    _native.load().advance_(
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

    def _update_(
        self, optimizer: OptimizerView, loss: Any, grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        control = optimizer.control
        if control is not None:
            control.advance(loss, found_inf)
        groups = [tuple(float(group[name]) for name in OPTIONS) for group in optimizer.param_groups]
        _native.load().sgd_(
            self._cache.rows,
            groups,
            None if control is None else control.addresses(),
            found_inf is None or found_inf.item() == 0,
            1.0 if grad_scale is None else grad_scale.item(),
            1 if _in_forked_child else torch.get_num_threads(),
        )
