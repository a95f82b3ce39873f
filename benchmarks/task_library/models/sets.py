"""Models of sets."""

from __future__ import annotations

from torch import Tensor, nn


class DeepSets(nn.Module):
    """Every element passes through one MLP; the maximum over the elements is classified (Zaheer et al. 2017)."""

    def __init__(self, n_inputs: int, width: int, n_classes: int):
        super().__init__()
        self.element = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_classes))

    def forward(self, elements: Tensor) -> Tensor:  # [B, n, n_inputs] -> [B, classes]
        return self.head(self.element(elements).amax(1))
