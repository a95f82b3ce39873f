"""What recipe.py searches and trains: real data only, few samples, so that a training can overfit.

The recipe may be changed after a look at TUNING only. All were written without a look at any recipe, and their sizes
and steps are chosen without it: a training takes about a second on one core. The held-out samples of a task are for
the recipe's validation and for the judgement, every other one each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..task_library import data, models
from ..task_library.data import Arrays
from ..task_library.definition import Half, RegretTask, made

TUNING, HELD_OUT = Half(), Half()

HALVES = {"TUNING": TUNING, "HELD_OUT": HELD_OUT}

RANGE = {"low": -2.5, "high": 1.0}
"""Decades of the oracle's rates, for every task the same."""


def _few(arrays: Arrays, n_train: int) -> Arrays:
    """The first ``n_train`` training samples; all others are held out."""
    inputs, targets, val_inputs, val_targets = arrays
    held_out: tuple[Tensor, Tensor] = (
        torch.cat([inputs[n_train:], val_inputs]),
        torch.cat([targets[n_train:], val_targets]),
    )
    return inputs[:n_train], targets[:n_train], *held_out


# --- on which the recipe may be changed -------------------------------------------------------------------------------


@TUNING.task(**RANGE)
def digits_cnn_batch_norm(seed: int) -> RegretTask:
    """300 digits, convolutions with batch norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(384, 10)),
        )

    return made(seed, model, nn.CrossEntropyLoss(), _few(data.digits(), 300), batch_size=32, steps=500)


@TUNING.task(**RANGE)
def digits_lower_half(seed: int) -> RegretTask:
    """The lower half of a digit by its upper half: regression, squared error, 400 samples."""
    arrays = _few(data.digits(), 400)
    upper, lower = ([part[:, 0, rows].flatten(1) for part in arrays[::2]] for rows in (slice(4), slice(4, None)))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 32))

    return made(seed, model, nn.MSELoss(), (upper[0], lower[0], upper[1], lower[1]), batch_size=40, steps=1000)


@TUNING.task(**RANGE)
def diabetes_mlp(seed: int) -> RegretTask:
    """242 patients, regression of a noisy target, squared error."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0)
        )

    arrays = _few(data.diabetes(standardised=True), 242)
    return made(seed, model, nn.MSELoss(), arrays, batch_size=24, steps=600)


@TUNING.task(**RANGE, packed=True)
def mnist_mlp_large_batch(seed: int) -> RegretTask:
    """2,000 digits in batches of 500."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    return made(seed, model, nn.CrossEntropyLoss(), data.mnist(2000, 2000), batch_size=500, steps=400)


@TUNING.task(**RANGE)
def char_gru(seed: int) -> RegretTask:
    """The next character of prose, recurrent."""
    text = data.characters(length=8)
    loss_fn = nn.CrossEntropyLoss()
    return made(seed, lambda: models.CharGRU(data.n_characters(), 32), loss_fn, text, batch_size=24, steps=300)


# --- kept aside at first, until the recipe was changed after a look at them -------------------------------------------


@TUNING.task(**RANGE)
def digits_mlp_tiny_batch(seed: int) -> RegretTask:
    """400 digits in batches of 8."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    return made(seed, model, nn.CrossEntropyLoss(), _few(data.digits(), 400), batch_size=8, steps=1500)


@TUNING.task(**RANGE)
def breast_cancer_mlp(seed: int) -> RegretTask:
    """169 samples of two classes."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    arrays = _few(data.bundled("breast_cancer", 169), 169)
    return made(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=16, steps=600)


@TUNING.task(**RANGE, packed=True)
def fashion_cnn(seed: int) -> RegretTask:
    """2,000 pictures, strided convolutions without normalisation."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    return made(seed, model, nn.CrossEntropyLoss(), data.fashion(2000, 2000), batch_size=32, steps=300)


@TUNING.task(**RANGE, packed=True)
def cifar_cnn_batch_norm(seed: int) -> RegretTask:
    """2,000 colour pictures, strided convolutions with batch norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(1024, 10)),
        )

    return made(seed, model, nn.CrossEntropyLoss(), data.cifar(2000, 2000), batch_size=32, steps=300)


@TUNING.task(**RANGE)
def photograph_denoiser(seed: int) -> RegretTask:
    """Noise to be taken off 8 by 8 pixels of photographs: regression, squared error, residual convolutions."""

    def model() -> nn.Module:
        inner = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), models.Residual(*inner), nn.Conv2d(8, 1, 3, padding=1))

    return made(seed, model, nn.MSELoss(), _few(data.noisy_patches(8), 1000), batch_size=16, steps=400)


# --- kept aside until the search was made anew ------------------------------------------------------------------------


@TUNING.task(**RANGE)
def digits_attention(seed: int) -> RegretTask:
    """500 digits, attention between 16 patches, layer norm, dropout."""
    digits = _few(data.digits(), 500)
    loss_fn = nn.CrossEntropyLoss()
    return made(seed, lambda: models.PatchAttention(8, 2, 24, 0.1, 10), loss_fn, digits, batch_size=32, steps=300)


@TUNING.task(**RANGE)
def text_by_characters(seed: int) -> RegretTask:
    """Which text a snippet is from, by how often each character is in it: every eighth snippet."""
    inputs, targets, val_inputs, val_targets = data.snippets(length=96)
    arrays = inputs[::8], targets[::8], val_inputs, val_targets

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(inputs.shape[1], 48), nn.LayerNorm(48), nn.GELU(), nn.Linear(48, len(data.texts()))
        )

    return made(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=32, steps=600)


@TUNING.task(**RANGE, packed=True)
def mnist_autoencoder(seed: int) -> RegretTask:
    """500 digits by a code of 16 numbers: squared error of every pixel."""
    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.mnist(500, 2000))

    def model() -> nn.Module:
        inner = nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 16), nn.Linear(16, 64), nn.Tanh()
        return nn.Sequential(*inner, nn.Linear(64, 784))

    return made(seed, model, nn.MSELoss(), (train, train, val, val), batch_size=25, steps=500)


@TUNING.task(**RANGE, packed=True)
def fashion_mlp_dropout(seed: int) -> RegretTask:
    """1,000 pictures, half of the hidden units left out."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 96), nn.ReLU(), nn.Dropout(0.5), nn.Linear(96, 10))

    return made(seed, model, nn.CrossEntropyLoss(), data.fashion(1000, 2000), batch_size=50, steps=500)


@TUNING.task(**RANGE)
def photograph_colours(seed: int) -> RegretTask:
    """The colour of a pixel by its place: regression, squared error, sines, 1,000 pixels."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 64), models.Sine(8.0), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    return made(seed, model, nn.MSELoss(), _few(data.pixels(every=8), 1000), batch_size=50, steps=800)


# --- kept aside -------------------------------------------------------------------------------------------------------


class _RowsGRU(nn.Module):
    """An image row by row, and the class by the last state."""

    def __init__(self, width: int):
        super().__init__()
        self.rows, self.out = nn.GRU(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:  # [B, 1, 8, 8] -> [B, 10]
        states, _ = self.rows(images.squeeze(1))
        return self.out(states[:, -1])


@HELD_OUT.task(**RANGE)
def digits_rows_gru(seed: int) -> RegretTask:
    """400 digits, recurrent over the rows."""
    arrays = _few(data.digits(), 400)
    return made(seed, lambda: _RowsGRU(32), nn.CrossEntropyLoss(), arrays, batch_size=25, steps=400)


@HELD_OUT.task(**RANGE)
def text_by_trigrams(seed: int) -> RegretTask:
    """Which text a snippet is from, by its runs of three characters: every fourth snippet."""
    inputs, targets, val_inputs, val_targets = data.trigrams(length=64, n_buckets=1000)
    arrays = inputs[::4], targets[::4], val_inputs, val_targets

    def model() -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(1000, 32), nn.ReLU(), nn.Linear(32, len(data.texts())))

    return made(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=32, steps=500)


@HELD_OUT.task(**RANGE)
def char_transformer(seed: int) -> RegretTask:
    """The next character of prose, attention."""
    text = data.characters(length=8)
    loss_fn = nn.CrossEntropyLoss()
    return made(
        seed, lambda: models.CharTransformer(data.n_characters(), 8, 32), loss_fn, text, batch_size=32, steps=300
    )


@HELD_OUT.task(**RANGE, packed=True)
def mnist_cnn_group_norm(seed: int) -> RegretTask:
    """500 digits, strided convolutions with group norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    return made(seed, model, nn.CrossEntropyLoss(), data.mnist(500, 2000), batch_size=20, steps=300)


@HELD_OUT.task(**RANGE, packed=True)
def fashion_residual_mlp(seed: int) -> RegretTask:
    """1,500 pictures, two residual blocks with layer norm."""

    def model() -> nn.Module:
        blocks = [models.Residual(nn.LayerNorm(64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)) for _ in "12"]
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), *blocks, nn.LayerNorm(64), nn.Linear(64, 10))

    return made(seed, model, nn.CrossEntropyLoss(), data.fashion(1500, 2000), batch_size=64, steps=400)


@HELD_OUT.task(**RANGE, packed=True)
def cifar_mlp_batch_norm(seed: int) -> RegretTask:
    """1,000 colour pictures, a layer with batch norm."""

    def model() -> nn.Module:
        hidden = nn.Linear(3072, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))

    return made(seed, model, nn.CrossEntropyLoss(), data.cifar(1000, 2000), batch_size=50, steps=300)
