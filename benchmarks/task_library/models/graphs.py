"""Models of graphs."""

from __future__ import annotations

import torch
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


class MessagePassing(nn.Module):
    """A number for every graph of a batch: atoms send messages along their bonds, and the sum over the atoms is read.

    Args:
        n_kinds: leading columns of the inputs; the others are the adjacency.
    """

    def __init__(self, n_kinds: int, width: int, n_rounds: int):
        super().__init__()
        self.n_kinds = n_kinds
        self.kinds = nn.Linear(n_kinds, width, bias=False)
        self.own, self.received = (
            nn.ModuleList(nn.Linear(width, width, bias=bias) for _ in range(n_rounds)) for bias in (True, False)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, graphs: Tensor) -> Tensor:  # [B, atoms, n_kinds + atoms] -> [B]
        kinds, adjacency = graphs[..., : self.n_kinds], graphs[..., self.n_kinds :]
        there = kinds.sum(2, keepdim=True)
        hidden = self.kinds(kinds)
        for own, received in zip(self.own, self.received, strict=True):
            hidden = hidden + there * (own(hidden) + adjacency @ received(hidden)).relu()
        return self.head(hidden.sum(1) / graphs.shape[1])[:, 0]


class FactCompletion(nn.Module):
    """Scores of all entities as the end of a fact, by the embeddings of its first entity and of its relation."""

    def __init__(self, n_entities: int, n_relations: int, width: int):
        super().__init__()
        self.entities, self.relations = nn.Embedding(n_entities, width), nn.Embedding(n_relations, width)
        for embedding in (self.entities, self.relations):
            nn.init.normal_(embedding.weight, std=0.3)
        self.mix = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, pairs: Tensor) -> Tensor:  # [B, 2] -> [B, entities]
        both = torch.cat([self.entities(pairs[:, 0]), self.relations(pairs[:, 1])], 1)
        return self.mix(both) @ self.entities.weight.T
