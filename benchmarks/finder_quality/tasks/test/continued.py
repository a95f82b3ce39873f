"""Trainings that start from models that are pre-trained here, always in the same way."""

from __future__ import annotations

import copy
import functools

from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.pretrained import pretrain

CONTINUED = Split()


@functools.cache
def pretrained_clothes_cnn() -> nn.Module:
    """Return a CNN with batch norm that tells ten kinds of clothes apart."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 4, stride=4, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(288, 10)),
        )

    return pretrain(model, nn.CrossEntropyLoss(), data.fashion(8000, 1000), batch_size=64, steps=300, lr=0.005)


@CONTINUED.task(low=-5, high=2, packed=True, pretraining=(pretrained_clothes_cnn,))
def fashion_upside_down(seed: int) -> BenchmarkTask:
    """A CNN with batch norm that knows clothes continues on 1,000 images that are upside down."""
    train, labels, val, val_labels = data.fashion(8000, 1000)
    arrays = (train[:1000].flip(2), labels[:1000], val.flip(2), val_labels)
    return build_task(
        *(seed, lambda: copy.deepcopy(pretrained_clothes_cnn()), nn.CrossEntropyLoss(), arrays),
        batch_size=32,
        steps=120,
    )


@functools.cache
def pretrained_heartbeats_cnn() -> nn.Module:
    """Return convolutions that classify the heartbeats of one patient, without their head."""

    def model() -> nn.Module:
        body = nn.Sequential(
            *(nn.Conv1d(1, 12, 5, stride=2), nn.GELU(), nn.Conv1d(12, 24, 5, stride=2), nn.GELU()),
            *(nn.Conv1d(24, 24, 3, stride=2), nn.GELU(), nn.Flatten()),
        )
        return nn.Sequential(body, nn.Linear(144, 4))

    arrays = data.heartbeats(64, patient=1, n=2400)
    return pretrain(model, nn.CrossEntropyLoss(), arrays, batch_size=64, steps=300, lr=0.005)[0]


@CONTINUED.task(low=-5, high=1, pretraining=(pretrained_heartbeats_cnn,))
def heartbeats_other_patient(seed: int) -> BenchmarkTask:
    """Convolutions that know one patient's heartbeats get a new head for another's: 200 samples, in batches of 8."""
    arrays = data.heartbeats(64, patient=2, n=600)

    def model() -> nn.Module:
        return nn.Sequential(copy.deepcopy(pretrained_heartbeats_cnn()), nn.Linear(144, 4))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=8, steps=100)


@functools.cache
def pretrained_prices_mlp() -> nn.Module:
    """Return an MLP that knows the house prices of one town, in thousands."""
    return pretrain(
        *(lambda: models.mlp(12, 96, 96, 1, scalar=True), nn.MSELoss(), data.house_prices(4000, 700)[0]),
        batch_size=64,
        steps=600,
        lr=0.01,
    )


@CONTINUED.task(low=-8.5, high=-2, pretraining=(pretrained_prices_mlp,))
def house_prices_other_town(seed: int) -> BenchmarkTask:
    """An MLP that knows the prices of one town, in thousands, learns those of another from 300 houses."""
    return build_task(
        *(seed, lambda: copy.deepcopy(pretrained_prices_mlp()), nn.MSELoss(), data.house_prices(4000, 700)[1]),
        batch_size=16,
        steps=120,
    )
