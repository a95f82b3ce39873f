"""Models that the whole-loop benchmarks train, each with one batch of generated data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clrfast.tasks.digits import digits_cnn

from ..task_library.models import resnet56


@dataclass(frozen=True)
class Workload:
    """A model and its data.

    Attributes:
        make: the model, at weights that depend on torch's seed alone.
        inputs: ``batch_size -> inputs``.
        n_classes: of the targets.
        batch_size: of a step.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    n_classes: int
    batch_size: int

    def data(self, n_batches: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of so many batches."""
        n = n_batches * self.batch_size
        generator = torch.Generator().manual_seed(0)
        return self.inputs(n), torch.randint(self.n_classes, (n,), generator=generator)


def mlp() -> nn.Module:
    """784-256-256-10."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


class Transformer(nn.Module):
    """Two pre-norm layers of width 64 with 4 heads over 32 tokens; classifies their mean."""

    def __init__(self, n_tokens: int = 64, length: int = 32, width: int = 64):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens) + self.position).mean(1))


def _normal(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def _tokens(n: int) -> Tensor:
    return torch.randint(64, (n, 32), generator=torch.Generator().manual_seed(0))


WORKLOADS = {
    "digits CNN, batch 64": Workload(digits_cnn, _normal(1, 8, 8), 10, 64),
    "MLP, batch 128": Workload(mlp, _normal(784), 10, 128),
    "transformer, batch 64": Workload(Transformer, _tokens, 10, 64),
    "ResNet-56, batch 128": Workload(resnet56, _normal(3, 32, 32), 10, 128),
    "ResNet-56, batch 512": Workload(resnet56, _normal(3, 32, 32), 10, 512),
}

USUAL = 100, 15
"""Steps and rounds that a workload is measured with."""

ON_CPU: dict[str, tuple[int, int] | None] = {"ResNet-56, batch 128": (5, 4), "ResNet-56, batch 512": None}
"""Those that these would take too long there; None leaves a workload to GPUs."""

GPU_LIMIT_S = 3.0
"""Seconds that a workload is measured for on a GPU; fewer rounds where they are over."""

ON_GPU_LIMIT_S = {"ResNet-56, batch 128": 10.0, "ResNet-56, batch 512": 10.0}
"""Those of which a round takes several seconds."""
