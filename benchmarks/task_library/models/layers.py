"""Layers that several models are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize


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


class GaussianNoise(nn.Module):
    """Adds normal noise to the inputs in training; outside of it the inputs pass unchanged."""

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.std * torch.randn_like(inputs) if self.training else inputs


class OrdinalThresholds(nn.Module):
    """Logits that a score is above each of ``n`` learned thresholds."""

    def __init__(self, n: int):
        super().__init__()
        self.thresholds = nn.Parameter(torch.linspace(-1, 1, n))

    def forward(self, scores: Tensor) -> Tensor:  # [B, 1] -> [B, n]
        return scores - self.thresholds


class CosineLinear(nn.Module):
    """Cosines of the angles between the inputs and a learned direction of each output."""

    def __init__(self, n_inputs: int, n_outputs: int):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(n_outputs, n_inputs))

    def forward(self, inputs: Tensor) -> Tensor:  # [B, n_inputs] -> [B, n_outputs]
        return functional.normalize(inputs, dim=1) @ functional.normalize(self.directions, dim=1).T


class LowRankUpdate(nn.Module):
    """A frozen matrix plus a trained matrix of low rank, which is 0 at first (Hu et al. 2021, "LoRA").

    weight = frozen + up @ down
    """

    def __init__(self, n_out: int, n_in: int, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, n_in) / n_in**0.5)
        self.up = nn.Parameter(torch.zeros(n_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def adapt_low_rank(model: nn.Module, rank: int) -> nn.Module:
    """Freeze ``model`` and return it with a low-rank update of the weights of its linear and attention layers."""
    model.requires_grad_(False)
    for module in [*model.modules()]:
        names = {nn.Linear: "weight", nn.MultiheadAttention: "in_proj_weight"}
        for name in (name for kind, name in names.items() if isinstance(module, kind)):
            update = LowRankUpdate(*getattr(module, name).shape, rank)
            parametrize.register_parametrization(module, name, update)
    return model


def mlp(
    *widths: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    layer_norm: bool = False,
    dropout: float = 0.0,
    scalar: bool = False,
) -> nn.Sequential:
    """Return linear layers between ``widths``, with an activation after all but the last one.

    Args:
        layer_norm: before every activation.
        dropout: probability, after every activation.
        scalar: the last width is one, and the outputs are ``[B]``.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in itertools.pairwise(widths[:-1]):
        norm = [nn.LayerNorm(n_out)] if layer_norm else []
        layers += [nn.Linear(n_in, n_out), *norm, activation(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]), *([nn.Flatten(0)] if scalar else []))
