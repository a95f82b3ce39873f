"""Models of sets."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DeepSets(nn.Module):
    """Every element passes through one MLP; the maximum over the elements is classified (Zaheer et al. 2017)."""

    def __init__(self, n_inputs: int, width: int, n_classes: int):
        super().__init__()
        self.element = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_classes))

    def forward(self, elements: Tensor) -> Tensor:  # [B, n, n_inputs] -> [B, classes]
        return self.head(self.element(elements).amax(1))


class SetAttention(nn.Module):
    """Elements attend to each other, and a learned query to all of them; its answer is classified (Lee et al. 2019)."""

    def __init__(self, n_inputs: int, width: int, n_classes: int):
        super().__init__()
        self.element = nn.Linear(n_inputs, width)
        self.block = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, batch_first=True
        )
        self.query = nn.Parameter(torch.randn(1, 1, width))
        self.pooling = nn.MultiheadAttention(width, 4, batch_first=True)
        self.head = nn.Linear(width, n_classes)

    def forward(self, elements: Tensor) -> Tensor:  # [B, n, n_inputs] -> [B, classes]
        hidden = self.block(self.element(elements))
        answer, _ = self.pooling(self.query.expand(len(hidden), -1, -1), hidden, hidden, need_weights=False)
        return self.head(answer[:, 0])
