"""Tables and sets."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.losses import PlanarGaussianNLL

TABLES = Split()


@TABLES.task(low=-5, high=1.5)
def rare_faults_weighted(seed: int) -> BenchmarkTask:
    """An MLP with batch norm finds rare faults, which weigh 20 times more, in batches of 256."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(24, 64), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0)),
        )

    loss_fn = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(20.0))
    return build_task(seed, model, loss_fn, data.rare_faults(), batch_size=256, steps=100)


@TABLES.task(low=-5.5, high=0.5)
def genes_few_samples(seed: int) -> BenchmarkTask:
    """An MLP with dropout tells tissues apart by 400 genes of 60 samples, in batches of 4."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.genes(60)
    return build_task(seed, lambda: models.mlp(400, 64, 3, dropout=0.3), loss_fn, arrays, batch_size=4, steps=120)


@TABLES.task(low=-4, high=1.5)
def oscillator_displacement(seed: int) -> BenchmarkTask:
    """An MLP with tanh learns the displacement of a damped oscillator, in batches of 64."""

    def model() -> nn.Module:
        return models.mlp(4, 64, 64, 64, 1, activation=nn.Tanh, scalar=True)

    return build_task(seed, model, nn.MSELoss(), data.oscillators(), batch_size=64, steps=400)


@TABLES.task(low=-5.5, high=0.5)
def tracks_correlated(seed: int) -> BenchmarkTask:
    """A position with its full covariance: the negative log likelihood falls below zero; batches of 100."""
    loss_fn, arrays = PlanarGaussianNLL(), data.tracks()
    return build_task(
        seed, lambda: models.mlp(6, 64, 64, 5, activation=nn.SiLU), loss_fn, arrays, batch_size=100, steps=300
    )


@TABLES.task(low=-2.5, high=3)
def purchases_factors(seed: int) -> BenchmarkTask:
    """Logistic factorisation of who bought what, with a bias of every product, in batches of 256."""

    def model() -> nn.Module:
        return models.MatrixFactorization(150, 100, rank=8, std=0.2, column_bias=True)

    return build_task(seed, model, nn.BCEWithLogitsLoss(), data.purchases(150, 100), batch_size=256, steps=300)


@TABLES.task(low=-4.5, high=1)
def surfaces_deep_sets(seed: int) -> BenchmarkTask:
    """Deep Sets tell surfaces apart by 24 of their points, in batches of 32."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.surfaces(24)
    return build_task(seed, lambda: models.DeepSets(3, 48, 4), loss_fn, arrays, batch_size=32, steps=250)


@TABLES.task(low=-5, high=1)
def smooth_functions_wide(seed: int) -> BenchmarkTask:
    """One layer of width 1,024 learns four smooth functions: 60 updates in batches of 512."""
    loss_fn, arrays = nn.MSELoss(), data.smooth_functions(4)
    return build_task(
        seed, lambda: models.mlp(8, 1024, 4, activation=nn.SiLU), loss_fn, arrays, batch_size=512, steps=60
    )


@TABLES.task(low=-5, high=0.5)
def chemical_sensors_deep(seed: int) -> BenchmarkTask:
    """Twelve layers with self-normalising activations classify gases, in batches of 64."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise([32] + [48] * 11):
            linear = nn.Linear(n_in, n_out)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
            layers += [linear, nn.SELU()]
        return nn.Sequential(*layers, nn.Linear(48, 5))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.chemical_sensors(), batch_size=64, steps=200)
