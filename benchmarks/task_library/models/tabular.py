"""Models of tables and densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class MatrixFactorization(nn.Module):
    """Entries of a matrix as products of row and column factors, and with ``column_bias`` a bias of every column."""

    def __init__(self, n_rows: int, n_columns: int, rank: int, std: float, column_bias: bool = False):
        super().__init__()
        self.rows, self.columns = nn.Embedding(n_rows, rank), nn.Embedding(n_columns, rank)
        for factor in (self.rows, self.columns):
            nn.init.normal_(factor.weight, std=std)
        self.bias = nn.Parameter(torch.zeros(n_columns)) if column_bias else None

    def forward(self, index: Tensor) -> Tensor:  # [B, 2] -> [B]
        entries = (self.rows(index[:, 0]) * self.columns(index[:, 1])).sum(-1)
        return entries if self.bias is None else entries + self.bias[index[:, 1]]


class CouplingFlow(nn.Module):
    """A normalizing flow of affine coupling layers: one half decides how the other is shifted and scaled."""

    def __init__(self, n_inputs: int, width: int, n_layers: int):
        super().__init__()
        half = n_inputs // 2
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(half, width), nn.Tanh(), nn.Linear(width, n_inputs)) for _ in range(n_layers)
        )

    def forward(self, points: Tensor) -> Tensor:  # [B, n] -> [B] log densities
        fixed, moved = points.chunk(2, 1)
        log_volume = torch.zeros(len(points))
        for layer in self.layers:
            shift, log_scale = layer(fixed).chunk(2, 1)
            log_volume = log_volume + log_scale.sum(1)
            fixed, moved = (moved - shift) * log_scale.exp(), fixed
        normal = torch.cat([fixed, moved], 1)
        return log_volume - 0.5 * (normal.square() + math.log(2 * math.pi)).sum(1)


class CategoriesAndNumbers(nn.Module):
    """An MLP with dropout over the embeddings of the leading columns, which are indices, and over all other columns.

    Args:
        sizes: numbers of values of the leading columns.
    """

    def __init__(self, sizes: tuple[int, ...], n_numbers: int, n_code: int, width: int, dropout: float):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, n_code) for size in sizes)
        n_inputs = n_code * len(sizes) + n_numbers
        self.head = nn.Sequential(
            *(nn.Linear(n_inputs, width), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1), nn.Flatten(0)),
        )

    def forward(self, columns: Tensor) -> Tensor:  # [B, columns] -> [B]
        n = len(self.embeddings)
        indices = columns[:, :n].long().unbind(1)
        codes = [embedding(index) for embedding, index in zip(self.embeddings, indices, strict=True)]
        return self.head(torch.cat([*codes, columns[:, n:]], 1))


class TimeModulatedMLP(nn.Module):
    """An MLP over points whose hidden states are scaled and shifted by features of the time, the last column."""

    frequencies: Tensor

    def __init__(self, n_inputs: int, width: int, n_layers: int):
        super().__init__()
        self.register_buffer("frequencies", torch.pi * torch.arange(1.0, 9.0))
        self.first = nn.Linear(n_inputs, width)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU())
        self.modulations = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(n_layers))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers))
        self.head = nn.Linear(width, n_inputs)

    def forward(self, points: Tensor) -> Tensor:  # [B, n_inputs + 1] -> [B, n_inputs]
        phase = points[:, -1:] * self.frequencies
        time = self.time(torch.cat([phase.sin(), phase.cos()], 1))
        hidden = self.first(points[:, :-1])
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            scale, shift = modulation(time).chunk(2, 1)
            hidden = hidden + functional.silu(layer(hidden) * (1 + scale) + shift)
        return self.head(hidden)
