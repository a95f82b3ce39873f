"""Handwritten digits: a small CNN on the 1,797 images of 8 x 8 pixels that scikit-learn bundles."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from . import Task

N_VALIDATION = 360


def make_task(seed: int = 0, batch_size: int = 64) -> Task:
    """The task; ``seed`` decides the split, the initial weights and the order of the batches.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    validation, train = order[:N_VALIDATION], order[N_VALIDATION:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = digits_cnn()
    return Task(
        model=model,
        loss_fn=nn.CrossEntropyLoss(),
        train_loader=DataLoader(
            TensorDataset(images[train], labels[train]),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        ),
        val_loader=DataLoader(TensorDataset(images[validation], labels[validation]), batch_size=N_VALIDATION),
    )


def digits_cnn() -> nn.Sequential:
    """Two convolutions with batch norm, pooling, one linear layer; 14,458 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
