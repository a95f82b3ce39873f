"""Models that are trained on one set of data, for tasks that train them further on another.

They are trained once per process. Tasks change copies of them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from . import data, models
from .definition import build_task, make_step

Model = TypeVar("Model", bound=nn.Module)


def _trained(
    build: Callable[[], Model], inputs: Tensor, targets: Tensor, *, lr: float, batch_size: int, steps: int
) -> Model:
    """Return a model after ``steps`` updates of SGD with momentum, the rate falling linearly from ``lr``.

    The model is the same at every call; the global random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, loss_fn = build(), nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            index = torch.randint(len(inputs), (batch_size,))
            optimizer.zero_grad()
            loss_fn(model(inputs[index]), targets[index]).backward()
            optimizer.step()
    return model


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def pretrain(
    build: Callable[[], Model], loss_fn: nn.Module, arrays: data.Arrays, *, lr: float, batch_size: int, steps: int
) -> Model:
    """Return a model after a cosine 1cycle of AdamW up to ``lr``.

    The model is the same at every call; the global random state stays as it was. The training runs on one thread,
    because sums on several threads end in other digits.
    """
    with torch.random.fork_rng(devices=[]), _one_thread():
        task = build_task(0, build, loss_fn, arrays, batch_size=batch_size, steps=steps)
        optimizer = torch.optim.AdamW(task.model.parameters())
        if not task.fit(make_step(optimizer, OneCycleLR(optimizer, lr, total_steps=steps)), steps):
            raise RuntimeError("the pre-training diverged")
    return task.model


@functools.cache
def low_digits_cnn() -> nn.Sequential:
    """Return a CNN without normalisation that knows the digits 0 to 4; its last layer classifies 96 features."""

    def build() -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(96, 5)),
        )

    images, labels, _, _ = data.digits()
    low = labels < 5
    return _trained(build, images[low], labels[low], lr=0.05, batch_size=32, steps=300)


@functools.cache
def digits_mlp() -> nn.Sequential:
    """Return an MLP of three linear layers that knows all digits."""

    def build() -> nn.Sequential:
        hidden = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))

    images, labels, _, _ = data.digits()
    return _trained(build, images, labels, lr=0.05, batch_size=32, steps=400)


@functools.cache
def mnist_cnn() -> nn.Sequential:
    """Return a CNN with group norm that knows the digits of MNIST; its last layer classifies 784 features."""

    def build() -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    images, labels, _, _ = data.mnist(8000, 1000)
    return _trained(build, (images - 0.1307) / 0.3081, labels, lr=0.05, batch_size=64, steps=300)


@functools.cache
def machines_cnn() -> nn.Sequential:
    """Return a CNN that knows the machines of CIFAR-10 from one another; its last layer classifies 1,024 features."""

    def build() -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(1024, 10)),
        )

    images, labels, _, _ = data.cifar(4000, 500)
    is_machine = torch.isin(labels, torch.tensor([0, 1, 8, 9]))
    return _trained(build, images[is_machine], labels[is_machine], lr=0.05, batch_size=64, steps=400)


@functools.cache
def prose_transformer(length: int) -> models.CharTransformer:
    """Return a transformer that has read prose."""
    text, following, _, _ = data.characters(length)
    return _trained(
        lambda: models.CharTransformer(data.n_characters(), length, 32),
        text,
        following,
        lr=0.2,
        batch_size=32,
        steps=500,
    )
