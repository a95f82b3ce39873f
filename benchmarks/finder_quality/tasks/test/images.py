"""Classes, codes and embeddings of images."""

from __future__ import annotations

from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.losses import SupervisedContrastiveLoss

IMAGES = Split()


@IMAGES.task(low=-4, high=1.5, packed=True)
def fashion_residual_batch_norm(seed: int) -> BenchmarkTask:
    """A residual network with batch norm classifies clothes at a quarter of the resolution, in batches of 64."""

    def block() -> list[nn.Module]:
        inner = models.Residual(
            *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)),
        )
        return [inner, nn.ReLU()]

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 4, stride=4, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(*block(), *block(), *block()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(8000, 1000), batch_size=64, steps=120)


@IMAGES.task(low=-4.5, high=1)
def digits_noise_augmented(seed: int) -> BenchmarkTask:
    """A CNN without normalisation on 200 digits, with fresh noise on the images at every step, in batches of 20."""
    train, labels, val, val_labels = data.digits()

    def model() -> nn.Module:
        return nn.Sequential(
            *(models.GaussianNoise(0.5), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    arrays = (train[:200], labels[:200], val, val_labels)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=20, steps=250)


@IMAGES.task(low=-4.5, high=1.5, packed=True)
def cifar_group_norm(seed: int) -> BenchmarkTask:
    """A CNN with group norm on colour images, with label smoothing and dropout before the last layer."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 16, 4, stride=4), nn.GroupNorm(4, 16), nn.SiLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU()),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 10)),
        )

    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    return build_task(seed, model, loss_fn, data.cifar(8000, 500), batch_size=32, steps=200)


@IMAGES.task(low=-4.5, high=1.5)
def digits_supervised_contrastive(seed: int) -> BenchmarkTask:
    """An MLP embeds digits so that those of a class are close to each other within a batch of 128."""

    def model() -> nn.Module:
        return models.mlp(64, 128, 128, 32)

    return build_task(seed, model, SupervisedContrastiveLoss(0.1), data.digits(), batch_size=128, steps=120)


@IMAGES.task(low=-3.5, high=2.5, packed=True)
def mnist_masked_autoencoder(seed: int) -> BenchmarkTask:
    """An autoencoder restores digits from a random half of their pixels: cross entropy of every pixel."""
    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.mnist(5000, 500))

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Dropout(0.5), nn.Linear(784, 128), nn.GELU(), nn.Linear(128, 32), nn.GELU()),
            *(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 784)),
        )

    return build_task(seed, model, nn.BCEWithLogitsLoss(), (train, train, val, val), batch_size=64, steps=150)
