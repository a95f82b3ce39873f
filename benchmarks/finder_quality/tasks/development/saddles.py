"""Starts near a saddle."""

from __future__ import annotations

from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task

SADDLES = Split()


@SADDLES.task(low=-3, high=1.5)
def matrix_factorisation(seed: int) -> BenchmarkTask:
    """A start near a saddle: both factors are small, and the loss stays flat until they have grown together."""
    return build_task(
        seed,
        lambda: models.MatrixFactorization(60, 50, rank=4, std=0.03),
        nn.MSELoss(),
        data.ratings(60, 50),
        batch_size=256,
        steps=200,
    )


@SADDLES.task(low=-4, high=1)
def deep_linear(seed: int) -> BenchmarkTask:
    """Four linear layers with small weights: a start near a saddle."""

    def model() -> nn.Module:
        layers = [nn.Linear(16, 16, bias=False) for _ in range(4)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.1)
        return nn.Sequential(*layers)

    return build_task(seed, model, nn.MSELoss(), data.linear_map(), batch_size=64, steps=300)
