"""Helpers for tests of the range test: optimizers, a network and its data, and losses that overflow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clrfast

OPTIMIZERS = {
    "clrfast": lambda p: clrfast.SGD(p, lr=0.1),
    "torch": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "clrfast adamw": lambda p: clrfast.AdamW(p, lr=0.1),
}

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def batch_norm_net(seed: int = 0) -> nn.Sequential:
    """A network with batch normalization, which shows an evaluation at the wrong moment, and without randomness."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def batches_of(*sizes: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """One batch of 5 features and 2 classes for each of ``sizes``."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(n, 5, generator=generator) for n in sizes]
    return [(x, (x[:, 0] > 0).long()) for x in inputs]


def mean_of_outputs(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric that can be pickled."""
    return outputs[:, 0].mean()


def scaler_state(scaler: torch.amp.GradScaler) -> Any:
    """All attributes of ``scaler``, as values that compare with ==."""

    def comparable(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): comparable(entry) for key, entry in value.items()}
        return value.tolist() if isinstance(value, Tensor) else str(value)

    return comparable(vars(scaler))


class Overflowing(torch.autograd.Function):
    """The identity, whose gradient is infinite at the calls ``at``, or at every call if ``at`` is True."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, calls: list[int], at: Any) -> Tensor:
        calls.append(1)
        ctx.broken = at is True or len(calls) in at
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * math.inf if ctx.broken else grad, None, None
