"""The tasks that were test tasks until the results of a published recipe were seen on them."""

from __future__ import annotations

from torch import Tensor, nn

from ...task_library import data, models
from ...task_library.definition import BenchmarkTask, Split, build_task
from .sizes import RANGE, few

VALIDATION = Split()


class _RowsGRU(nn.Module):
    """Reads an image row by row, and classifies the last state."""

    def __init__(self, width: int):
        super().__init__()
        self.rows, self.out = nn.GRU(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, 8, 8] -> [B, 10]
        states, _ = self.rows(images.squeeze(1))
        return self.out(states[:, -1])


@VALIDATION.task(**RANGE)
def digits_rows_gru(seed: int) -> BenchmarkTask:
    """A GRU over the rows of 400 digits."""
    arrays = few(data.digits(), 400)
    return build_task(seed, lambda: _RowsGRU(32), nn.CrossEntropyLoss(), arrays, batch_size=25, steps=400)


@VALIDATION.task(**RANGE)
def text_by_trigrams(seed: int) -> BenchmarkTask:
    """An embedding bag classifies snippets of text by their trigrams, on every fourth snippet."""
    inputs, targets, val_inputs, val_targets = data.trigrams(length=64, n_buckets=1000)
    arrays = inputs[::4], targets[::4], val_inputs, val_targets

    def model() -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(1000, 32), nn.ReLU(), nn.Linear(32, len(data.texts())))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=32, steps=500)


@VALIDATION.task(**RANGE)
def char_transformer(seed: int) -> BenchmarkTask:
    """A transformer predicts the next character of prose."""
    text = data.characters(length=8)
    loss_fn = nn.CrossEntropyLoss()
    return build_task(
        seed, lambda: models.CharTransformer(data.n_characters(), 8, 32), loss_fn, text, batch_size=32, steps=300
    )


@VALIDATION.task(**RANGE, packed=True)
def mnist_cnn_group_norm(seed: int) -> BenchmarkTask:
    """A CNN with strides and group norm on 500 digits."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.mnist(500, 2000), batch_size=20, steps=300)


@VALIDATION.task(**RANGE, packed=True)
def fashion_residual_mlp(seed: int) -> BenchmarkTask:
    """An MLP of two residual blocks with layer norm on 1,500 images."""

    def model() -> nn.Module:
        blocks = [models.Residual(nn.LayerNorm(64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)) for _ in "12"]
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), *blocks, nn.LayerNorm(64), nn.Linear(64, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(1500, 2000), batch_size=64, steps=400)


@VALIDATION.task(**RANGE, packed=True)
def cifar_mlp_batch_norm(seed: int) -> BenchmarkTask:
    """An MLP with one hidden layer and batch norm on 1,000 colour images."""

    def model() -> nn.Module:
        hidden = nn.Linear(3072, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.cifar(1000, 2000), batch_size=50, steps=300)
