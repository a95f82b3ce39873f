"""Handwritten digits: a small CNN on the 1,797 images of 8 x 8 pixels that scikit-learn contains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ._task import Task

__all__ = ["digits_cnn", "make_task"]

N_VALIDATION = 360
"""Number of validation samples, a fifth of all."""


def make_task(seed: int = 0, batch_size: int = 64) -> Task:
    """Make the task; ``seed`` determines the split, the initial weights and the order of the batches.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32, device="cpu").unsqueeze(1) / 16
    labels = torch.tensor(data.target, dtype=torch.int64, device="cpu")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed), device="cpu")
    validation, train = order[:N_VALIDATION], order[N_VALIDATION:]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        model = digits_cnn()
    return Task(
        model=model,
        loss_fn=nn.CrossEntropyLoss(),
        train_loader=_LoaderOnCpu(
            TensorDataset(images[train], labels[train]),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        ),
        val_loader=_LoaderOnCpu(TensorDataset(images[validation], labels[validation]), batch_size=N_VALIDATION),
    )


class _LoaderOnCpu(DataLoader[Any]):
    """A DataLoader that draws its order on the CPU.

    torch's draws it on the default device, which may not be the device of its generator.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        on_cpu = torch.empty(0).device.type == "cpu"  # after set_default_device(None), torch 2.4 has no getter
        context = contextlib.nullcontext if on_cpu else partial(torch.device, "cpu")
        with context():
            batches = super().__iter__()
        while True:
            with context():  # not around the yield: the consumer keeps its own default device
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def digits_cnn() -> nn.Sequential:
    """Make the network: three convolutions with batch norm, pooling, one linear layer; 14,458 parameters."""
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
