"""Models of the tasks that ``nn.Sequential`` alone does not make."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class CharGRU(nn.Module):
    def __init__(self, n_characters: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(n_characters, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, n_characters)

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, characters, T]
        return self.head(self.gru(self.embedding(text))[0]).transpose(1, 2)


class CharTransformer(nn.Module):
    def __init__(self, n_characters: int, length: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(n_characters, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        self.block = nn.TransformerEncoderLayer(
            width, nhead=2, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, characters, T]
        hidden = self.block(self.embedding(text) + self.position, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(hidden)).transpose(1, 2)


class Factors(nn.Module):
    def __init__(self, n_rows: int, n_columns: int, rank: int, std: float):
        super().__init__()
        self.rows, self.columns = nn.Embedding(n_rows, rank), nn.Embedding(n_columns, rank)
        for factor in (self.rows, self.columns):
            nn.init.normal_(factor.weight, std=std)

    def forward(self, index: Tensor) -> Tensor:  # [B, 2] -> [B]
        return (self.rows(index[:, 0]) * self.columns(index[:, 1])).sum(-1)


class Residual(nn.Module):
    """``inputs + inner(inputs)``."""

    def __init__(self, *inner: nn.Module):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.inner(inputs)


class PatchAttention(nn.Module):
    """Attention between the patches of an image, norms behind the sums, and the patches' mean."""

    def __init__(self, image: int, patch: int, width: int, dropout: float, n_classes: int):
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.position = nn.Parameter(torch.randn((image // patch) ** 2, width) * 0.1)
        self.block = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=dropout, activation="gelu", batch_first=True
        )
        self.head = nn.Linear(width, n_classes)

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, H, W] -> [B, classes]
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens + self.position).mean(1))


class LastOfLSTM(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, series: Tensor) -> Tensor:  # [B, T, 1] -> [B]
        return self.head(self.lstm(series)[0][:, -1])[:, 0]


class TiedAutoencoder(nn.Module):
    """The decoder's weights are the encoder's."""

    def __init__(self, n_inputs: int, width: int):
        super().__init__()
        self.encoder = nn.Linear(n_inputs, width)
        self.bias = nn.Parameter(torch.zeros(n_inputs))

    def forward(self, inputs: Tensor) -> Tensor:  # [B, n] -> [B, n] logits
        return torch.sigmoid(self.encoder(inputs)) @ self.encoder.weight + self.bias


class CouplingFlow(nn.Module):
    """An invertible map to a normal distribution; each layer moves and stretches one half as the other one tells."""

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
