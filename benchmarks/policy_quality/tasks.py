"""Tasks besides clrfast's digits: Fashion-MNIST, and CIFAR-10 with ResNet-56."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from clrfast.tasks import Task, cifar10
from clrfast.training import DeviceDataset, crop_and_flip, evaluate

from ..task_library import data
from ..task_library.definition import build_task
from ..task_library.models import resnet56


def fashion(seed: int) -> Task:
    """Return a CNN of three layers on the first 12,000 training and 4,000 test images of Fashion-MNIST."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    task = build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(12000, 4000), batch_size=64, steps=0)
    return Task(task.model, task.loss_fn, task.loader(), [task.val])


Data = tuple[cifar10.Split, cifar10.Split]
"""Training and test images with their labels, on one device."""


def cifar10_resnet56(seed: int, folder: Path, batch_size: int) -> Task:
    """Return ResNet-56 on the CIFAR-10 in ``folder``, on a GPU if there is one."""
    return resnet56_task(seed, _cifar10(folder, "cuda" if torch.cuda.is_available() else "cpu"), batch_size)


def resnet56_task(seed: int, data: Data, batch_size: int) -> Task:
    """Return ResNet-56 on images of 32x32 with the usual augmentation; the test images validate it."""
    (images, labels), (test_images, test_labels) = data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resnet56().to(images.device)
    test = zip(test_images.split(1000), test_labels.split(1000), strict=True)
    return Task(
        model=model,
        loss_fn=nn.CrossEntropyLoss(),
        train_loader=DeviceDataset((images, labels), batch_size, shuffle=True, augment=_augment, seed=seed),
        val_loader=[(_standardize(some), targets) for some, targets in test],
    )


def val_accuracy(task: Task) -> float:
    """Return the accuracy on the validation data, in [0, 1]; the model is left in eval mode."""
    score = evaluate(task)
    assert score is not None
    assert score.accuracy is not None
    return score.accuracy


def on_device(data: Data, device: torch.device | str) -> Data:
    train, test = (tuple(tensor.to(device) for tensor in split) for split in data)
    return train, test  # type: ignore[return-value]


@functools.cache
def _cifar10(folder: Path, device: str) -> Data:
    return on_device(cifar10.load(folder), device)


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    return _standardize(crop_and_flip(4)(images, generator))


def _standardize(images: Tensor) -> Tensor:
    mean, std = _mean_and_std(images.device)
    return (images.float() / 255 - mean) / std


@functools.cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the published mean and standard deviation by channel; kept, because a copy to the device blocks."""
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
    )
    return mean, std
