"""Text and series."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.losses import PinballLoss

SEQUENCES = Split()


@SEQUENCES.task(low=-3.5, high=2)
def char_gru(seed: int) -> BenchmarkTask:
    """A GRU predicts the next character."""
    text = data.characters(length=16)
    return build_task(
        seed, lambda: models.CharGRU(data.n_characters(), 32), nn.CrossEntropyLoss(), text, batch_size=32, steps=150
    )


@SEQUENCES.task(low=-4.5, high=1.5)
def char_transformer(seed: int) -> BenchmarkTask:
    """A transformer predicts the next character."""
    text = data.characters(length=16)
    return build_task(
        seed,
        lambda: models.CharTransformer(data.n_characters(), 16, 32),
        nn.CrossEntropyLoss(),
        text,
        batch_size=32,
        steps=200,
    )


@SEQUENCES.task(low=-5, high=1.5)
def bag_of_characters(seed: int) -> BenchmarkTask:
    """An MLP classifies snippets of text by their character counts."""
    arrays = data.snippets(length=96)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(arrays[0].shape[1], 48), nn.ReLU(), nn.Linear(48, len(data.texts())))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=64, steps=250)


@SEQUENCES.task(low=-4, high=2.5)
def trigram_bag(seed: int) -> BenchmarkTask:
    """An embedding bag classifies snippets of text by their trigrams, with a margin loss."""

    def model() -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(1009, 24, mode="mean"), nn.ReLU(), nn.Linear(24, len(data.texts())))

    return build_task(seed, model, nn.MultiMarginLoss(), data.trigrams(128, 1009), batch_size=8, steps=400)


@SEQUENCES.task(low=-3, high=2)
def word_skipgram(seed: int) -> BenchmarkTask:
    """Skip-grams: the embedding of a word predicts its neighbours."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(400, 24), nn.Linear(24, 400))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.neighbours(400, reach=2), batch_size=256, steps=200)


@SEQUENCES.task(low=-4, high=2)
def lorenz_lstm(seed: int) -> BenchmarkTask:
    """An LSTM predicts a chaotic series, with Huber's loss."""
    arrays = data.lorenz(2500, length=20, ahead=4)
    return build_task(seed, lambda: models.LSTMRegressor(24), nn.HuberLoss(), arrays, batch_size=32, steps=200)


@SEQUENCES.task(low=-6, high=0)
def waveforms_sum(seed: int) -> BenchmarkTask:
    """Convolutions along a series, with a cross entropy summed over the batch."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv1d(1, 12, 5, padding=2), nn.GELU(), nn.MaxPool1d(3)),
            *(nn.Conv1d(12, 12, 3), nn.GELU(), nn.Flatten(), nn.Linear(60, 3)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(reduction="sum"), data.waveforms(), batch_size=16, steps=150)


@SEQUENCES.task(low=-4, high=1.5)
def load_quantiles(seed: int) -> BenchmarkTask:
    """Dilated convolutions with weight norm predict three quantiles of the next hour's load."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for n_in, dilation in ((1, 1), (12, 2), (12, 4), (12, 8)):  # 31 hours become one
            layers += [weight_norm(nn.Conv1d(n_in, 12, 3, dilation=dilation)), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3))

    return build_task(seed, model, PinballLoss(0.1, 0.5, 0.9), data.hourly_load(31), batch_size=32, steps=150)


@SEQUENCES.task(low=-4, high=2)
def motion_conv_gru(seed: int) -> BenchmarkTask:
    """A convolution and a bidirectional GRU classify motions of a wrist; rare motions weigh more."""
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([0.6, 0.7, 1.3, 2.0, 2.0]))
    return build_task(seed, lambda: models.ConvGRU(3, 16, 5), loss_fn, data.motions(24), batch_size=24, steps=150)


@SEQUENCES.task(low=-4.5, high=0.5)
def pendulum_rollout(seed: int) -> BenchmarkTask:
    """A learned derivative of a pendulum's state, through eight steps of Heun's method."""
    n_steps, interval = 8, 0.15
    arrays = data.pendulums(n_steps, interval)
    return build_task(
        seed, lambda: models.DerivativeRollout(2, 24, n_steps, interval), nn.MSELoss(), arrays, batch_size=40, steps=120
    )
