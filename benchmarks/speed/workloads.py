"""Models that the benchmarks of whole loops train, with generated data."""

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
        make: returns the model; its weights depend on torch's seed alone.
        inputs: ``n -> inputs`` of n samples.
        n_classes: number of classes of the targets.
        batch_size: samples per step.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    n_classes: int
    batch_size: int

    def data(self, n_batches: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of ``n_batches`` batches."""
        n = n_batches * self.batch_size
        generator = torch.Generator().manual_seed(0)
        return self.inputs(n), torch.randint(self.n_classes, (n,), generator=generator)


def mlp() -> nn.Module:
    """Return an MLP of widths 784, 256, 256 and 10."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


class Transformer(nn.Module):
    """A transformer of two pre-norm layers with 4 heads over 32 tokens of width 64; classifies their mean."""

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

DEFAULT = 100, 15
"""Default steps and rounds of a measurement."""

ON_CPU: dict[str, tuple[int, int] | None] = {"ResNet-56, batch 128": (5, 4), "ResNet-56, batch 512": None}
"""Steps and rounds on a CPU, for workloads that would take too long; None: measured on GPUs only."""

GPU_LIMIT_S = 3.0
"""Time limit of a measurement on a GPU, in seconds; no round begins after it."""

ON_GPU_LIMIT_S = {"ResNet-56, batch 128": 10.0, "ResNet-56, batch 512": 10.0}
"""Time limits on a GPU for workloads whose rounds take several seconds."""
