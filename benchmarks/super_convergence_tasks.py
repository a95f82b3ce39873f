"""What super_convergence.py trains: digits and Fashion-MNIST on the CPU, CIFAR-10 on a GPU if there is one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from clrfast.tasks import Task, cifar10

from .models import resnet56
from .regret_tasks import data
from .regret_tasks.registry import made

MARGIN = 4
"""Pixels by which a picture of CIFAR-10 is moved at most."""


def fashion(seed: int) -> Task:
    """A CNN of three layers on the first 12,000 training and 4,000 test pictures of Fashion-MNIST."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    task = made(seed, model, nn.CrossEntropyLoss(), data.fashion(12000, 4000), batch_size=64, steps=0)
    return Task(task.model, task.loss_fn, task.loader(), [task.val])


def cifar10_resnet56(seed: int, folder: Path, batch_size: int) -> Task:
    """ResNet-56 on CIFAR-10, with the usual augmentation; judged on the test pictures."""
    (images, labels), (test_images, test_labels) = _cifar10(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resnet56().to(images.device)
    test = zip(test_images.split(1000), test_labels.split(1000), strict=True)
    return Task(
        model=model,
        loss_fn=nn.CrossEntropyLoss(),
        train_loader=MovedAndMirrored(images, labels, batch_size, seed),
        val_loader=[(_standardised(some), targets) for some, targets in test],
    )


class MovedAndMirrored:
    """Shuffled batches, anew at every pass: pictures moved by up to 4 pixels each way, every other one mirrored.

    All of it where ``images``, uint8 ``[n, 3, 32, 32]``, lie; what is drawn depends on ``seed`` alone.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, seed: int):
        self.padded, self.labels = functional.pad(images, (MARGIN,) * 4), labels
        self.size, self.batch_size = images.shape[-1], batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.labels)
        order = torch.randperm(n, generator=self.generator)
        moves = torch.randint(2 * MARGIN + 1, (2, n), generator=self.generator)
        mirrored = torch.randint(2, (1, n), generator=self.generator)
        for draw in torch.cat([order[None], moves, mirrored]).to(self.labels.device).split(self.batch_size, dim=1):
            yield _standardised(self._pictures(*draw)), self.labels[draw[0]]

    def _pictures(self, index: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
        pixel = torch.arange(self.size, device=index.device)
        rows = down[:, None] + pixel
        columns = right[:, None] + torch.where(mirrored[:, None] == 1, pixel.flip(0), pixel)
        channel = torch.arange(3, device=index.device)[:, None, None]
        return self.padded[index[:, None, None, None], channel, rows[:, None, :, None], columns[:, None, None, :]]


@functools.cache
def _cifar10(folder: Path) -> tuple[cifar10.Split, cifar10.Split]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, test = (tuple(tensor.to(device) for tensor in split) for split in cifar10.load(folder))
    return train, test  # type: ignore[return-value]


def _standardised(images: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None]
        for values in ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
    )
    return (images.float() / 255 - mean) / std
