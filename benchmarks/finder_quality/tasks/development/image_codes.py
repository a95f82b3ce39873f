"""Images as outputs, and embeddings of images."""

from __future__ import annotations

import itertools
import math

from torch import nn

from ....task_library import data, models
from ....task_library.data import Arrays
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.losses import ContrastiveLoss, DiceAndCrossEntropy, NegativeELBO, TripletLoss

IMAGE_CODES = Split()


def _digits_to_themselves() -> Arrays:
    train, _, val, _ = data.digits()
    return train.flatten(1), train.flatten(1), val.flatten(1), val.flatten(1)


@IMAGE_CODES.task(low=-4.5, high=1.5)
def digits_autoencoder(seed: int) -> BenchmarkTask:
    """An autoencoder with tanh: mean squared error over 64 pixels."""

    def model() -> nn.Module:
        widths = (64, 48, 16, 48)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers, nn.Linear(48, 64))

    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.digits())
    return build_task(seed, model, nn.MSELoss(), (train, train, val, val), batch_size=128, steps=300)


@IMAGE_CODES.task(low=-5, high=1)
def digits_variational(seed: int) -> BenchmarkTask:
    """A variational autoencoder: random codes in training, and a loss summed over the pixels."""
    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.digits(standardized=False))
    return build_task(
        *(seed, lambda: models.VariationalAutoencoder(64, 128, 8), NegativeELBO(8, 0.5), (train, train, val, val)),
        batch_size=64,
        steps=300,
    )


@IMAGE_CODES.task(low=-3, high=3.5, packed=True)
def mnist_tied_autoencoder(seed: int) -> BenchmarkTask:
    """An autoencoder with tied weights: cross entropy of every pixel."""
    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.mnist(5000, 500))
    loss_fn = nn.BCEWithLogitsLoss()
    return build_task(
        seed, lambda: models.TiedAutoencoder(784, 64), loss_fn, (train, train, val, val), batch_size=128, steps=250
    )


@IMAGE_CODES.task(low=-6, high=0)
def photograph_denoiser(seed: int) -> BenchmarkTask:
    """A residual CNN without normalisation removes noise: absolute error of every pixel."""

    def block() -> nn.Module:
        return models.Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def model() -> nn.Module:
        return nn.Sequential(*(nn.Conv2d(1, 8, 3, padding=1), block(), block()), nn.Conv2d(8, 1, 3, padding=1))

    return build_task(seed, model, nn.L1Loss(), data.noisy_patches(10), batch_size=16, steps=200)


@IMAGE_CODES.task(low=-5.5, high=1)
def photograph_sines(seed: int) -> BenchmarkTask:
    """A network of sines maps positions in a photograph to colours, in batches of 512."""

    def model() -> nn.Module:
        widths, frequency = (2, 48, 48), 15.0
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            linear = nn.Linear(n_in, n_out)
            bound = math.sqrt(6 / n_in) / frequency if layers else 1 / n_in
            nn.init.uniform_(linear.weight, -bound, bound)
            layers += [linear, models.Sine(frequency)]
        return nn.Sequential(*layers, nn.Linear(48, 3))

    return build_task(seed, model, nn.MSELoss(), data.pixels(every=6), batch_size=512, steps=250)


@IMAGE_CODES.task(low=-4, high=2)
def ellipse_segmentation(seed: int) -> BenchmarkTask:
    """A U-Net with instance norm segments ellipses: Dice loss and cross entropy."""
    loss_fn = DiceAndCrossEntropy()
    return build_task(seed, lambda: models.SmallUNet(6), loss_fn, data.ellipses(16), batch_size=8, steps=100)


@IMAGE_CODES.task(low=-4, high=2, packed=True)
def mnist_triplet(seed: int) -> BenchmarkTask:
    """Embeddings of digits with a triplet loss."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(196, 64), nn.GELU(), nn.Linear(64, 16))

    return build_task(seed, model, TripletLoss(), data.mnist_triplets(5000, 1000), batch_size=32, steps=250)


@IMAGE_CODES.task(low=-5, high=1)
def digit_halves_contrastive(seed: int) -> BenchmarkTask:
    """A dual encoder matches the halves of digits within the batch; the temperature is learned."""
    return build_task(
        seed, lambda: models.DualEncoder(32, 64, 16), ContrastiveLoss(), data.digits(), batch_size=128, steps=200
    )


@IMAGE_CODES.task(low=-3.5, high=2)
def digits_autoencoder_relu(seed: int) -> BenchmarkTask:
    """A bottleneck of 8: a plateau at the mean image, which also is where too high rates end."""
    loss_fn, arrays = nn.MSELoss(), _digits_to_themselves()
    return build_task(seed, lambda: models.mlp(64, 32, 8, 32, 64), loss_fn, arrays, batch_size=32, steps=200)


@IMAGE_CODES.task(low=-3.5, high=2)
def digits_autoencoder_wide(seed: int) -> BenchmarkTask:
    """Small gradients, as the loss is a mean over 64 pixels: the best rate is around 0.5."""
    loss_fn, arrays = nn.MSELoss(), _digits_to_themselves()
    return build_task(
        seed, lambda: models.mlp(64, 128, 64, activation=nn.GELU), loss_fn, arrays, batch_size=16, steps=120
    )
