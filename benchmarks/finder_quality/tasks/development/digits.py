"""Classes of the digits that scikit-learn bundles, by small models."""

from __future__ import annotations

from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.losses import ScaledLoss

DIGITS = Split()


def _cnn(batch_norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 8), (8, 16)):
        norm = [nn.BatchNorm2d(n_out)] if batch_norm else []
        layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), *norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))


@DIGITS.task(low=-4, high=1.5)
def digits_linear(seed: int) -> BenchmarkTask:
    """Convex, hence no divergence: the loss only gets noisier, up to very high rates."""
    return build_task(seed, lambda: models.mlp(64, 10), nn.CrossEntropyLoss(), data.digits(), batch_size=16, steps=100)


@DIGITS.task(low=-4, high=1.5)
def digits_bs4(seed: int) -> BenchmarkTask:
    """Batches of 4: noise hides the descent."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()
    return build_task(seed, lambda: models.mlp(64, 32, 10), loss_fn, arrays, batch_size=4, steps=300)


@DIGITS.task(low=-4, high=1.5)
def digits_bs256(seed: int) -> BenchmarkTask:
    """Large batches and 60 steps: rates below 0.03 are not done in time."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()
    return build_task(seed, lambda: models.mlp(64, 64, 10), loss_fn, arrays, batch_size=256, steps=60)


@DIGITS.task(low=-4, high=1.5)
def digits_long(seed: int) -> BenchmarkTask:
    """400 steps: a wide valley that ends in a cliff between 0.25 and 0.5."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()
    return build_task(seed, lambda: models.mlp(64, 128, 128, 10), loss_fn, arrays, batch_size=32, steps=400)


@DIGITS.task(low=-4, high=1.5)
def digits_cnn16(seed: int) -> BenchmarkTask:
    """Convolutions without normalisation: dies two octaves above the best rate."""
    return build_task(seed, _cnn, nn.CrossEntropyLoss(), data.digits(), batch_size=16, steps=250)


@DIGITS.task(low=-4, high=1.5)
def digits_bn16(seed: int) -> BenchmarkTask:
    """Batch norm over 16 images: noisy statistics, and a gradual end instead of a cliff."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()
    return build_task(seed, lambda: _cnn(batch_norm=True), loss_fn, arrays, batch_size=16, steps=80)


@DIGITS.task(low=-4, high=1.5)
def digits_bn128(seed: int) -> BenchmarkTask:
    """Batch norm: a valley six octaves wide, then a cliff."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()
    return build_task(seed, lambda: _cnn(batch_norm=True), loss_fn, arrays, batch_size=128, steps=100)


@DIGITS.task(low=-4, high=1.5)
def digits_tanh6(seed: int) -> BenchmarkTask:
    """Six layers of tanh: a plateau at the start, saturation without divergence above."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()

    def model() -> nn.Module:
        return models.mlp(64, 48, 48, 48, 48, 48, 10, activation=nn.Tanh)

    return build_task(seed, model, loss_fn, arrays, batch_size=64, steps=200)


@DIGITS.task(low=-4, high=1.5)
def digits_relu6_default(seed: int) -> BenchmarkTask:
    """Six layers that barely pass gradients on: a long plateau, and only 0.03 to 0.1 end well."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()
    return build_task(seed, lambda: models.mlp(64, 48, 48, 48, 48, 48, 10), loss_fn, arrays, batch_size=32, steps=300)


@DIGITS.task(low=-4, high=1.5)
def digits_dropout(seed: int) -> BenchmarkTask:
    """Dropout: the training loss is noisy and above the validation loss."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()
    return build_task(seed, lambda: models.mlp(64, 128, 64, 10, dropout=0.4), loss_fn, arrays, batch_size=32, steps=200)


@DIGITS.task(low=-4, high=1.5)
def digits_ln(seed: int) -> BenchmarkTask:
    """Layer norm: the best rate is low, and 30 times that still trains, to a worse end."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.digits()

    def model() -> nn.Module:
        return models.mlp(64, 48, 48, 48, 10, layer_norm=True)

    return build_task(seed, model, loss_fn, arrays, batch_size=16, steps=150)


@DIGITS.task(low=-4, high=1.5)
def digits_noisy(seed: int) -> BenchmarkTask:
    """Half of the training labels are wrong: fitting them costs validation loss, the training loss tells little."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.mislabelled_digits(0.5)
    return build_task(seed, lambda: models.mlp(64, 48, 10), loss_fn, arrays, batch_size=16, steps=200)


@DIGITS.task(low=-5.5, high=0)
def digits_sum(seed: int) -> BenchmarkTask:
    """The loss is 32 times the mean, as if summed over the batch: the best rate is 32 times lower."""
    loss_fn, arrays = ScaledLoss(nn.CrossEntropyLoss(), 32), data.digits()
    return build_task(seed, lambda: models.mlp(64, 64, 10), loss_fn, arrays, batch_size=32, steps=120)
