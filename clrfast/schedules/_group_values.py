"""A parameter group's momentum, and the entries by which ``ScheduleLR`` combines its rate with others' factors.

A group has two entries besides torch's own "initial_lr", so any checkpoint of the optimizer carries them:
"scheduled_lr", the rate of the schedule alone, and "lr_factor", the product of the factors of other schedulers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import parse_float, short_repr

SCHEDULED, FACTOR = "scheduled_lr", "lr_factor"

SAME_RATE = 1e-5
"""Relative difference below which two rates are the same, with a margin over float32's rounding."""


def record_initial(groups: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return the initial value of ``name`` of each group, and record it in the group as torch does "initial_lr"."""
    key = f"initial_{name}"
    for group in groups:
        value = group[name]
        group.setdefault(key, value.clone() if isinstance(value, Tensor) else value)
    return [float(group[key]) for group in groups]


def record_scheduled(group: dict[str, Any], lr: float, factor: float | Tensor) -> float | Tensor:
    """Record the schedule's ``lr`` and the other schedulers' ``factor`` in ``group``; return their product."""
    group[SCHEDULED], group[FACTOR] = lr, factor
    return lr * factor


def external_factor(group: dict[str, Any]) -> float | Tensor:
    """Return the factor by which other schedulers have multiplied the scheduled rate; a rate of 0 hides changes in it.

    Returns:
        A number; a tensor on the same device if the rate is one, because reading it would block the host.
    """
    scheduled, before = group.get(SCHEDULED), group.get(FACTOR, 1.0)
    if not scheduled:
        return before
    lr = group["lr"]
    if isinstance(lr, Tensor):
        return torch.where(lr == scheduled * before, before, lr / scheduled).reshape(())
    return before if lr == scheduled * before else lr / scheduled


def initial_factor(group: dict[str, Any]) -> float:
    """Return the factor of schedulers made before this one, such as a warm-up, on the initial rate.

    Rates of an earlier ``ScheduleLR`` on the same optimizer do not count.
    """
    lr, initial = float(group["lr"]), float(group["initial_lr"])
    if lr == initial:
        return 1.0
    if group.get(SCHEDULED):
        return float(external_factor(group))
    return lr / initial if initial else 1.0


def momentum_of(group: Mapping[str, Any]) -> Any:
    """Return the momentum of a group; for Adam and its variants, that is the first of the betas."""
    return group["betas"][0] if "betas" in group else group["momentum"]


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set the momentum of a group; ``momentum_of`` says what that is."""
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def quantity_of(group: Mapping[str, Any], name: str) -> Any:
    """Return a group's lr, momentum or weight_decay."""
    return momentum_of(group) if name == "momentum" else group[name]


def lr_scales_of(groups: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the factor of each group's rate: its entry "lr_scale", 1 by default.

    timm's ``param_groups_layer_decay`` writes that entry, and timm's schedulers multiply by it.

    Raises:
        ValueError: one of them is not a finite number >= 0.
    """
    scales = []
    for index, group in enumerate(groups):
        name, scale = f"param_groups[{index}]['lr_scale']", group.get("lr_scale", 1.0)
        scales.append(parse_float(name, scale))
        if not 0 <= scales[-1] < math.inf:
            raise ValueError(f"{name}: got {short_repr(scale)}; give a finite number >= 0")
    return scales


def base_rates_of(groups: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the rate of each group without its "lr_scale".

    A rate contains the scale if a schedule has written it. It also does if all rates are in proportion to the scales:
    then timm's scheduler has written them.
    """
    rates, scales = [float(group["lr"]) for group in groups], lr_scales_of(groups)
    base = [rate / scale if scale else rate for rate, scale in zip(rates, scales, strict=True)]
    trained = [rate for rate, scale in zip(base, scales, strict=True) if scale]
    in_proportion = bool(trained) and max(trained) - min(trained) <= SAME_RATE * max(trained)
    scheduled = any(SCHEDULED in group or "schedule_step" in group for group in groups)
    return base if scheduled or in_proportion else rates
