"""Small training problems: a model, its loss and the data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from clrfast import Task

LossFn = Callable[[Tensor, Tensor], Tensor]


def quadratic(curvature: float = 1.0, n: int = 64) -> tuple[nn.Module, LossFn, DataLoader]:
    """A loss of ``curvature / 2 * w**2`` on every batch: SGD without momentum diverges above ``lr = 2 / curvature``."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    inputs = torch.full((n, 1), math.sqrt(curvature))
    loader = DataLoader(TensorDataset(inputs, torch.zeros(n, 1)), batch_size=8)
    return model, lambda outputs, targets: 0.5 * ((outputs - targets) ** 2).mean(), loader


def blobs(seed: int = 0, n: int = 256) -> tuple[nn.Module, LossFn, DataLoader]:
    """Two classes that a plane separates, and a network with batch normalization and dropout.

    The data are on the default device, because a DataLoader draws its order there.
    """
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    x = torch.randn(n, 5, generator=generator)
    y = (x[:, 0] + 0.3 * x[:, 1] > 0).long()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, generator=generator)
    return model, nn.CrossEntropyLoss(), loader


def blobs_without_dropout() -> tuple[nn.Module, LossFn, DataLoader]:
    """The data of `blobs`, and a network that draws no random numbers."""
    _, loss_fn, loader = blobs()
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)), loss_fn, loader


def clouds(n: int = 400, n_val: int = 100, batch_size: int = 20, seed: int = 0) -> Task:
    """Two overlapping clouds of points that a parabola separates, and a small network."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n + n_val, 6, generator=generator)
    y = (x[:, 0] + x[:, 1] ** 2 + 0.3 * torch.randn(n + n_val, generator=generator) > 1).long()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    loader = DataLoader(TensorDataset(x[:n], y[:n]), batch_size, shuffle=True, generator=generator)
    return Task(model, nn.CrossEntropyLoss(), loader, DataLoader(TensorDataset(x[n:], y[n:]), n_val))


def regression(
    n: int, noise: float, features: int = 50, n_val: int = 400, seed: int = 0
) -> tuple[nn.Module, LossFn, DataLoader, DataLoader]:
    """Linear data, and a linear model that starts at zero: the data alone decide which weight decay is best."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(features, 1, generator=generator) / features**0.5
    x = torch.randn(n + n_val, features, generator=generator)
    y = x @ weights + noise * torch.randn(n + n_val, 1, generator=generator)
    model = nn.Linear(features, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    train, val = TensorDataset(x[:n], y[:n]), TensorDataset(x[n:], y[n:])
    loader = DataLoader(train, batch_size=20, shuffle=True, generator=generator)
    return model, nn.MSELoss(), loader, DataLoader(val, batch_size=n_val)
