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


@SADDLES.task(low=-2.5, high=2.5)
def matrix_factorisation_bs64(seed: int) -> BenchmarkTask:
    """Factors start near zero, a saddle: flat in a sweep, and three octaves between too slow and divergent."""
    loss_fn, arrays = nn.MSELoss(), data.ratings(60, 80)

    def model() -> nn.Module:
        return models.MatrixFactorization(60, 80, rank=6, std=0.05)

    return build_task(seed, model, loss_fn, arrays, batch_size=64, steps=300)


@SADDLES.task(low=-2.5, high=2.5)
def matrix_factorisation_bs16(seed: int) -> BenchmarkTask:
    """Larger factors, batches of 16: only one octave of the rates gets anywhere, the next one diverges."""
    loss_fn, arrays = nn.MSELoss(), data.ratings(60, 80)

    def model() -> nn.Module:
        return models.MatrixFactorization(60, 80, rank=4, std=0.3)

    return build_task(seed, model, loss_fn, arrays, batch_size=16, steps=250)


@SADDLES.task(low=-2.5, high=2.5)
def matrix_factorisation_bias(seed: int) -> BenchmarkTask:
    """A bias that learns at once hides that the factors have not started; a cliff at 4."""
    loss_fn, arrays = nn.MSELoss(), data.ratings(60, 80)

    def model() -> nn.Module:
        return models.MatrixFactorization(60, 80, rank=8, std=0.1, column_bias=True)

    return build_task(seed, model, loss_fn, arrays, batch_size=256, steps=250)


@SADDLES.task(low=-3.5, high=2)
def deep_linear_small(seed: int) -> BenchmarkTask:
    """Three linear layers from tiny weights: a saddle, then a cliff one octave above the good rates."""

    def model() -> nn.Module:
        layers = [nn.Linear(n_in, n_out, bias=False) for n_in, n_out in ((16, 32), (32, 32), (32, 16))]
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.06)
        return nn.Sequential(*layers)

    return build_task(seed, model, nn.MSELoss(), data.linear_map(), batch_size=32, steps=250)
