"""What parameter groups have of their own under one schedule: ratios between them, and factors of other schedulers.

A group that ``ScheduleLR`` drives has two entries beside torch's own "initial_lr", and so carries them through any
checkpoint: "scheduled_lr", the rate that the schedule alone gives it, and "lr_factor", what others made of that rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SCHEDULED, FACTOR = "scheduled_lr", "lr_factor"


def note_initial(groups: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The value of ``name`` that each group was made with; noted in the group as torch notes "initial_lr"."""
    key = f"initial_{name}"
    for group in groups:
        value = group[name]
        group.setdefault(key, value.clone() if isinstance(value, Tensor) else value)
    return [float(group[key]) for group in groups]


def write_scheduled(group: dict[str, Any], lr: float, factor: float | Tensor) -> float | Tensor:
    """Note the schedule's ``lr`` and the others' ``factor`` in ``group``, and return the rate that they make."""
    group[SCHEDULED], group[FACTOR] = lr, factor
    return lr * factor


def factor_of_others(group: dict[str, Any]) -> float | Tensor:
    """What other schedulers have multiplied the scheduled rate by. A rate of 0 hides what they did to it.

    Returns:
        A number; for a rate that is a tensor a tensor beside it, because reading it would wait for the device.
    """
    scheduled, before = group.get(SCHEDULED), group.get(FACTOR, 1.0)
    if not scheduled:
        return before
    lr = group["lr"]
    if isinstance(lr, Tensor):
        return torch.where(lr == scheduled * before, before, lr / scheduled).reshape(())
    return before if lr == scheduled * before else lr / scheduled


def factor_at_start(group: dict[str, Any]) -> float:
    """What schedulers that were made before this one have multiplied the initial rate by, as a warm-up does.

    The rates of an earlier ``ScheduleLR`` on this optimizer are no such factor.
    """
    lr, initial = float(group["lr"]), float(group["initial_lr"])
    if lr == initial:
        return 1.0
    if group.get(SCHEDULED):
        return float(factor_of_others(group))
    return lr / initial if initial else 1.0
