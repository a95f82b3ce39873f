"""A small task for the searches of ``benchmarks.recipe_quality``."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.oracle import Oracle
from benchmarks.recipe_quality.reference import Reference
from benchmarks.recipe_quality.searched_task import SearchedTask
from benchmarks.task_library.definition import TaskDefinition, build_task

STEPS = 18


def make(seed):
    """Noisy values of a linear function."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 3, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [2.0], [-1.0]]) + 0.1 * torch.randn(80, 1, generator=generator)
    arrays = inputs[:40], targets[:40], inputs[40:], targets[40:]
    return build_task(seed, lambda: nn.Linear(3, 1), nn.MSELoss(), arrays, batch_size=8, steps=STEPS)


LINEAR = TaskDefinition("linear", make, low=-2.5, high=1.0, packed=False)
REFERENCE = Reference(Oracle(STEPS, [0.1, 1.0], [0.0, 0.01], [[[3.0, 2.0], [2.5, 1.0]]], [10.0]))


def searched(max_steps=8 * STEPS, optimizer="sgd", seed=100, definition=LINEAR):
    return SearchedTask(definition, REFERENCE, optimizer, seed, max_steps)
