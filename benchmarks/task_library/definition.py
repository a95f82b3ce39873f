"""What a task is, and how a half keeps its tasks."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .data import Arrays


@dataclass
class RegretTask:
    """A fresh model, its loss and data, and the length of its 1cycle.

    Attributes:
        model: at its initial weights.
        loss_fn: ``loss_fn(model(inputs), targets) -> loss``.
        train, val: ``(inputs, targets)``.
        batch_size: of the training batches; the last incomplete one is dropped.
        steps: length of the 1cycle.
        seed: of the initial weights and of the order of the data.
    """

    model: nn.Module
    loss_fn: nn.Module
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    batch_size: int
    steps: int
    seed: int

    def loader(self) -> DataLoader:
        """A new loader; every one gives the same batches in the same order, other ones in each epoch."""
        return DataLoader(
            _Pairs(*self.train),
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=_as_it_is,
        )

    @torch.no_grad()
    def val_loss(self) -> float:
        """The loss over the validation data, in eval mode; the flags are left as they were."""
        training = self.model.training
        self.model.eval()
        loss = float(self.loss_fn(self.model(self.val[0]), self.val[1]))
        self.model.train(training)
        return loss


class _Pairs(Dataset):
    """Inputs and targets that a loader indexes once a batch: collating sample by sample would cost more than a step."""

    def __init__(self, inputs: Tensor, targets: Tensor):
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(indices)
        return self.inputs[index], self.targets[index]


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class TaskMaker:
    """A task by name, and the rates between which its oracle looks.

    Attributes:
        make: ``seed -> RegretTask``.
        low, high: decades, base 10: from far too low to divergence.
        packed: needs ``../shared/data``.
    """

    name: str
    make: Callable[[int], RegretTask]
    low: float
    high: float
    packed: bool

    def digest(self) -> str:
        """Changes with the task's definition, model and data, not with its half; the oracle is kept under it."""
        task = self.make(0)
        definition = inspect.getsource(self.make).partition("\ndef ")[2]  # without the decorator, which names the half
        parts = [definition, repr(task.model), repr(task.loss_fn), repr((self.low, self.high))]
        for tensor in (*task.train, *task.val):
            # Of sizes, which do not cancel: another version of a decoder changes last digits only.
            parts.append(f"{tuple(tensor.shape)} {float(tensor.double().abs().sum()):.3e}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class Half(dict[str, TaskMaker]):
    """Tasks by name, in the order of their definitions."""

    def task(
        self, *, low: float, high: float, packed: bool = False
    ) -> Callable[[Callable[[int], RegretTask]], Callable[[int], RegretTask]]:
        """A decorator of functions ``seed -> RegretTask``."""

        def register(make: Callable[[int], RegretTask]) -> Callable[[int], RegretTask]:
            self[make.__name__] = TaskMaker(make.__name__, make, low, high, packed)
            return make

        return register


def made(
    seed: int, model: Callable[[], nn.Module], loss_fn: nn.Module, arrays: Arrays, *, batch_size: int, steps: int
) -> RegretTask:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = model()
    return RegretTask(fresh, loss_fn, arrays[:2], arrays[2:], batch_size, steps, seed)
