"""Layers that several models are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """``inputs + inner(inputs)``."""

    def __init__(self, *inner: nn.Module):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.inner(inputs)


class Sine(nn.Module):
    """``sin(frequency * inputs)``."""

    def __init__(self, frequency: float):
        super().__init__()
        self.frequency = frequency

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.frequency * inputs).sin()


class OrdinalThresholds(nn.Module):
    """Logits that a score is above each of ``n`` learned thresholds."""

    def __init__(self, n: int):
        super().__init__()
        self.thresholds = nn.Parameter(torch.linspace(-1, 1, n))

    def forward(self, scores: Tensor) -> Tensor:  # [B, 1] -> [B, n]
        return scores - self.thresholds


class LowRankAdapter(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices; the second one starts at zero."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs) + self.up(self.down(inputs))


class CosineLinear(nn.Module):
    """Cosines of the angles between the inputs and a learned direction of each output."""

    def __init__(self, n_inputs: int, n_outputs: int):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(n_outputs, n_inputs))

    def forward(self, inputs: Tensor) -> Tensor:  # [B, n_inputs] -> [B, n_outputs]
        return functional.normalize(inputs, dim=1) @ functional.normalize(self.directions, dim=1).T
