"""Models of the tasks that ``nn.Sequential`` alone does not make."""

from __future__ import annotations

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
