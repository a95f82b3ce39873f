"""The definition of a task of the quality benchmarks, and the splits that collect tasks."""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from clrfast.training._batches import cycle_loader

from .data import Arrays

ParameterGroup = dict[str, Any]
"""A dict with "params" and "lr", as torch's optimizers take them."""


Step = Callable[[Tensor], object]
"""``step(loss)`` makes one update from the gradients of ``loss``."""


@dataclass
class BenchmarkTask:
    """A fresh model, its loss and data, and the length of its training.

    Attributes:
        model: with its initial weights.
        loss_fn: ``loss_fn(model(inputs), targets) -> loss``.
        train, val: ``(inputs, targets)``.
        batch_size: samples per training batch; the last, incomplete batch of an epoch is dropped.
        steps: updates of a training.
        seed: decides the initial weights and the order of the data.
        groups: ``groups(model, lr)`` returns parameter groups with the key "lr"; the highest of their rates is ``lr``.
            None: one group of all trainable parameters.
    """

    model: nn.Module
    loss_fn: nn.Module
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    batch_size: int
    steps: int
    seed: int
    groups: Callable[[nn.Module, float], list[ParameterGroup]] | None = None

    def parameter_groups(self, lr: float) -> list[ParameterGroup]:
        """Return new groups of the trainable parameters for any optimizer."""
        if self.groups is not None:
            return self.groups(self.model, lr)
        return [{"params": [p for p in self.model.parameters() if p.requires_grad], "lr": lr}]

    def loader(self) -> DataLoader:
        """Return a new loader. All loaders give the same batches in the same order, a new order in each epoch."""
        return DataLoader(
            _Pairs(*self.train),
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=_unchanged,
        )

    def fit(self, step: Step, steps: int) -> bool:
        """Train for ``steps`` updates; return False at the first loss that is not finite, else True."""
        torch.manual_seed(self.seed)  # for dropout
        self.model.train()
        for _, (inputs, targets) in zip(range(steps), cycle_loader(self.loader()), strict=False):
            self.model.zero_grad()
            loss = self.loss_fn(self.model(inputs), targets)
            if not math.isfinite(loss.item()):
                return False
            loss.backward()
            step(loss)
        return True

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, targets: Tensor) -> float:
        """Return the loss in eval mode, inf if it is not finite; the training mode is restored."""
        training = self.model.training
        self.model.eval()
        loss = float(self.loss_fn(self.model(inputs), targets))
        self.model.train(training)
        return loss if math.isfinite(loss) else math.inf


def make_step(optimizer: Optimizer, scheduler: LRScheduler | None = None) -> Step:
    """Return a ``Step`` that steps a torch optimizer and then its scheduler."""

    def step(_: Tensor) -> None:
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    return step


class _Pairs(Dataset):
    """Inputs and targets that a loader indexes once per batch; collating single samples would cost more than a step."""

    def __init__(self, inputs: Tensor, targets: Tensor):
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(indices)
        return self.inputs[index], self.targets[index]


def _unchanged(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class TaskDefinition:
    """A task by name, and the range of learning rates that its oracle trains.

    Attributes:
        make: ``seed -> BenchmarkTask``; must not depend on anything else.
        low, high: log10 of the lowest and the highest rate, both included: from far too low to divergence.
        packed: needs the data sets in ``../shared/data``.
        pretraining: functions that ``make`` calls; their code counts in the digest, too.
        packages: that ``make`` imports.
    """

    name: str
    make: Callable[[int], BenchmarkTask]
    low: float
    high: float
    packed: bool
    pretraining: tuple[Callable[..., Any], ...] = ()
    packages: tuple[str, ...] = ()

    def digest(self, rate_range: tuple[float, float] | None = None) -> str:
        """Return a hash of code, model, loss, data and rates. Docstring and split do not count.

        Args:
            rate_range: replaces ``(low, high)``.
        """
        task = self.make(0)
        parts = [
            *map(_code, (self.make, *self.pretraining)),
            repr(task.model),
            repr(task.loss_fn),
            repr(rate_range or (self.low, self.high)),
        ]
        for tensor in (*task.train, *task.val):
            # Few digits of a sum that cannot cancel: image decoders of other versions change the last digits.
            parts.append(f"{tuple(tensor.shape)} {float(tensor.double().abs().sum()):.3e}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _code(function: Callable[..., Any]) -> str:
    """Return the body of ``function`` without its docstring and comments."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    first_statement = 0 if ast.get_docstring(definition) is None else 1
    return "\n".join(map(ast.unparse, definition.body[first_statement:]))


class Split(dict[str, TaskDefinition]):
    """Task definitions by name, in the order of their registration."""

    def task(
        self,
        *,
        low: float,
        high: float,
        packed: bool = False,
        pretraining: tuple[Callable[..., Any], ...] = (),
        packages: tuple[str, ...] = (),
    ) -> Callable[[Callable[[int], BenchmarkTask]], Callable[[int], BenchmarkTask]]:
        """Return a decorator that registers a function ``seed -> BenchmarkTask`` under its name."""

        def register(make: Callable[[int], BenchmarkTask]) -> Callable[[int], BenchmarkTask]:
            self[make.__name__] = TaskDefinition(make.__name__, make, low, high, packed, pretraining, packages)
            return make

        return register


def build_task(
    seed: int, model: Callable[[], nn.Module], loss_fn: nn.Module, arrays: Arrays, *, batch_size: int, steps: int
) -> BenchmarkTask:
    """Return a task whose initial weights depend on ``seed`` alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = model()
    return BenchmarkTask(fresh, loss_fn, arrays[:2], arrays[2:], batch_size, steps, seed)
