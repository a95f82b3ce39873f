"""Models of tables and densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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
