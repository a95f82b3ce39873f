"""The update rules, in pure torch: the executable specification of csrc/rules.

Each operation rounds by itself, in float32 (float64 for float64 parameters), so that all backends agree bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Value = Tensor | float
Row = Sequence[Value]
"""One group's row of the table: lr, momentum, weight_decay."""
Updated = tuple[Tensor, list[Tensor], Tensor | bool]
"""The new parameter, the new states, and whether the states are written and the update is counted."""


@dataclass(frozen=True)
class Rule:
    """An update rule.

    Attributes:
        name: names the compiled functions.
        states: names of the tensors of a parameter's state, in the order of csrc/rules.
        constants: returns the options of a group besides its row and ``maximize``, in the order of csrc/rules.
        update: ``update(p, g, states, count, row, constants)``, where ``count`` is the number of applied updates of
            the parameter, or None without a counter.
    """

    name: str
    states: tuple[str, ...]
    constants: Callable[[Mapping[str, Any]], tuple[float, ...]]
    update: Callable[[Tensor, Tensor, Sequence[Tensor], Value | None, Row, Sequence[float]], Updated]


def sgd(
    p: Tensor, g: Tensor, states: Sequence[Tensor], count: Value | None, row: Row, constants: Sequence[float]
) -> Updated:
    """Update by SGD.

    g = g + weight_decay * p                                        left out where weight_decay == 0
    b = momentum * b + (1 - dampening) * g                          the first applied update: b = g
    d = g + momentum * b if nesterov else b                         d = g where momentum == 0
    p = p - lr * d
    """
    lr, momentum, weight_decay = (_as(value, p.dtype) for value in row)
    dampening, nesterov = constants
    g = _where(weight_decay != 0, g + weight_decay * p, g)
    if not states:
        return p - lr * g, [], False
    b = momentum * states[0] + (1 - dampening) * g
    if count is not None:
        b = _where(count != 0, b, g)
    has_momentum = momentum != 0
    d = _where(has_momentum, g + momentum * b if nesterov else b, g)
    return p - lr * d, [b], has_momentum


def adamw(
    p: Tensor, g: Tensor, states: Sequence[Tensor], count: Value | None, row: Row, constants: Sequence[float]
) -> Updated:
    """Update by AdamW, or by Adam if the decay is not decoupled.

    p = p * (1 - lr * weight_decay)                                 AdamW
    g = g + weight_decay * p                                        Adam; left out where weight_decay == 0
    m = m + (1 - beta1) * (g - m)                                   g - beta1 * (g - m) where beta1 <= 1/2
    v = beta2 * v + (1 - beta2) * g * g
    x = max(x, v)                                                   AMSGrad only; else x is v
    p = p - lr / (1 - beta1^t) * m / (sqrt(x) * (1 / sqrt(1 - beta2^t)) + eps)
    """
    assert count is not None
    lr, beta1, weight_decay, t = (_as(value, _coefficient_dtype(p)) for value in (*row, count + 1))
    beta2, eps, amsgrad, decoupled = constants
    m, v, *largest = states
    if decoupled:
        p = p * _as(1 - lr * weight_decay, p.dtype)
    else:
        g = _where(weight_decay != 0, g + _as(weight_decay, p.dtype) * p, g)
    difference = g - m
    m = _where(beta1 <= 0.5, g - _as(beta1, p.dtype) * difference, m + _as(1 - beta1, p.dtype) * difference)
    v = beta2 * v + (1 - beta2) * g * g
    x = torch.where(largest[0] >= v, largest[0], v) if amsgrad else v
    step_size, inverse_root = lr / (1 - beta1**t), 1 / _sqrt(1 - beta2**t)
    p = p - _as(step_size, p.dtype) * m / (_sqrt(x) * _as(inverse_root, p.dtype) + eps)
    return p, [m, v, x][: len(states)], True


def _coefficient_dtype(p: Tensor) -> torch.dtype:
    """Return the dtype of Adam's coefficients: float64, where the device has it."""
    return torch.float32 if p.device.type == "mps" else torch.float64


def _as(value: Value, dtype: torch.dtype) -> Value:
    return value.reshape(()).to(dtype) if isinstance(value, Tensor) else value


def _sqrt(x: Any) -> Any:
    """Return the correctly rounded root. On a CPU, many of torch's own are off by one unit in the last place."""
    if not isinstance(x, Tensor):
        return math.sqrt(x)
    if x.device.type != "cpu":
        return torch.sqrt(x)
    if x.dtype == torch.float32:
        return torch.sqrt(x.double()).float()
    root = torch.sqrt(x)
    # A Newton step with the exact remainder x - root**2, by Dekker's product: high and low have 26 bits of root each.
    square, high = root * root, root * (2**27 + 1)
    high = high - (high - root)
    low = root - high
    remainder = (x - square) - ((high * high - square) + 2 * high * low + low * low)
    return torch.where(remainder.isfinite() & (root > 0), root + remainder / (2 * root), root)


def _where(condition: Any, value: Tensor, otherwise: Tensor) -> Tensor:
    """Choose by ``condition``: on the host if it is a bool, on the device if it is a tensor."""
    if isinstance(condition, Tensor):
        return torch.where(condition, value, otherwise)
    return value if condition else otherwise


SGD = Rule(
    "sgd",
    ("momentum_buffer",),
    lambda group: (float(group["dampening"]), float(group["nesterov"])),
    sgd,
)
ADAMW = Rule(
    "adamw",
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    lambda group: (
        float(group["betas"][1]),
        float(group["eps"]),
        float(group["amsgrad"]),
        float(group["decoupled_weight_decay"]),
    ),
    adamw,
)
