"""Models of graphs."""

from __future__ import annotations

from torch import Tensor, nn


class GraphConvolutions(nn.Module):
    """Two graph convolutions with layer norm over a whole graph (Kipf and Welling 2017); classifies some nodes.

    Args:
        adjacency: normalized, with self loops, ``[n, n]``.
        features: of the nodes, ``[n, n_features]``.
    """

    def __init__(self, adjacency: Tensor, features: Tensor, width: int, n_classes: int):
        super().__init__()
        self.first, self.second = nn.Linear(features.shape[1], width), nn.Linear(width, n_classes)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("adjacency", adjacency)
        self.register_buffer("features", features)

    def forward(self, nodes: Tensor) -> Tensor:  # [B] -> [B, classes]
        hidden = self.norm(self.adjacency @ self.first(self.features)).relu()
        return self.adjacency[nodes] @ self.second(hidden)
