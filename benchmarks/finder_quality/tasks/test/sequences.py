"""Text and series."""

from __future__ import annotations

from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task

SEQUENCES = Split()


@SEQUENCES.task(low=-4, high=1.5)
def reviews_transformer(seed: int) -> BenchmarkTask:
    """A transformer of two layers with dropout tells praise from blame in eight words, in batches of 32."""
    n_words, arrays = data.reviews(8)

    def model() -> nn.Module:
        return models.TokenTransformer(n_words, 8, 32, 2, 0.1, 2)

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=32, steps=250)


@SEQUENCES.task(low=-2.5, high=2.5)
def characters_lstm(seed: int) -> BenchmarkTask:
    """An LSTM of two layers with dropout predicts the next character, in batches of 16."""
    loss_fn, text = nn.CrossEntropyLoss(), data.characters(length=20)
    return build_task(
        seed, lambda: models.CharLSTM(data.n_characters(), 40, 0.1), loss_fn, text, batch_size=16, steps=150
    )


@SEQUENCES.task(low=-4.5, high=1.5)
def heartbeats_convolutions(seed: int) -> BenchmarkTask:
    """Dilated residual convolutions with batch norm classify heartbeats, in batches of 48."""

    def block(dilation: int) -> list[nn.Module]:
        convolution = nn.Conv1d(16, 16, 3, padding=dilation, dilation=dilation, bias=False)
        return [models.Residual(convolution, nn.BatchNorm1d(16), nn.ReLU())]

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv1d(1, 16, 5, stride=2), nn.ReLU(), *block(1), *block(2), *block(4)),
            *(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(64, 4)),
        )

    arrays = data.heartbeats(64, patient=0, n=2400)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=48, steps=120)


@SEQUENCES.task(low=-4, high=1.5)
def load_gru(seed: int) -> BenchmarkTask:
    """A GRU predicts the load of the next hour from a day, in batches of 64."""
    past, following, val_past, val_following = data.hourly_load(24)
    arrays = (past.transpose(1, 2), following, val_past.transpose(1, 2), val_following)
    return build_task(seed, lambda: models.GRURegressor(1, 24), nn.MSELoss(), arrays, batch_size=64, steps=120)
