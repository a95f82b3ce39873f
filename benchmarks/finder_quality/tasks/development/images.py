"""Classes of images."""

from __future__ import annotations

from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task

IMAGES = Split()


@IMAGES.task(low=-4.5, high=1.5)
def digits_cnn(seed: int) -> BenchmarkTask:
    """A CNN without normalisation."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(96, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.digits(), batch_size=64, steps=200)


@IMAGES.task(low=-4, high=2)
def digits_cnn_bn(seed: int) -> BenchmarkTask:
    """A CNN with batch norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.digits(), batch_size=32, steps=200)


@IMAGES.task(low=-5.5, high=1)
def digits_mlp_tiny_batch(seed: int) -> BenchmarkTask:
    """An MLP in batches of 8."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.digits(), batch_size=8, steps=400)


@IMAGES.task(low=-4, high=2)
def digits_depthwise(seed: int) -> BenchmarkTask:
    """A CNN of depthwise separable convolutions with batch norm."""

    def separable(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(n_in, n_in, 3, stride=stride, padding=1, groups=n_in, bias=False)
        return [depthwise, nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out), nn.SiLU()]

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), *separable(12, 24, stride=2), *separable(24, 32, stride=1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.digits(), batch_size=48, steps=120)


@IMAGES.task(low=-6, high=0.5)
def deep_mlp(seed: int) -> BenchmarkTask:
    """Ten layers without normalisation."""

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(9):
            layers += [nn.Linear(64, 64), nn.ReLU()]
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return nn.Sequential(*layers, nn.Linear(64, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.digits(), batch_size=32, steps=200)


@IMAGES.task(low=-8.5, high=-2, packed=True)
def mnist_linear_raw_pixels(seed: int) -> BenchmarkTask:
    """A linear model of pixels from 0 to 255: only tiny rates work."""
    train, train_labels, val, val_labels = data.mnist(8000, 1000)
    arrays = (255 * train, train_labels, 255 * val, val_labels)

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=256, steps=150)


@IMAGES.task(low=-5.5, high=1.5, packed=True)
def fashion_cnn_bn(seed: int) -> BenchmarkTask:
    """A CNN with strides and batch norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(8000, 500), batch_size=64, steps=150)


@IMAGES.task(low=-5.5, high=1.5, packed=True)
def fashion_mlp_large_batch(seed: int) -> BenchmarkTask:
    """An MLP in batches of 512."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(8000, 1000), batch_size=512, steps=150)


@IMAGES.task(low=-4, high=2, packed=True)
def fashion_residual_group_norm(seed: int) -> BenchmarkTask:
    """A residual network with group norm before every convolution."""

    def block() -> nn.Module:
        layers = [
            layer
            for _ in range(2)
            for layer in (nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False))
        ]
        return models.Residual(*layers)

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 4, stride=4), block(), block()),
            *(nn.GroupNorm(4, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(6000, 500), batch_size=32, steps=150)


@IMAGES.task(low=-4.5, high=1.5, packed=True)
def fashion_patch_attention(seed: int) -> BenchmarkTask:
    """A vision transformer on 16 patches, with dropout."""
    return build_task(
        *(seed, lambda: models.PatchAttention(28, 7, 24, 0.1, 10), nn.CrossEntropyLoss(), data.fashion(6000, 500)),
        batch_size=40,
        steps=150,
    )


@IMAGES.task(low=-4, high=1, packed=True)
def cifar_conv(seed: int) -> BenchmarkTask:
    """A CNN with strides, without normalisation, on colour images."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.cifar(8000, 500), batch_size=32, steps=200)


@IMAGES.task(low=-4, high=2, packed=True)
def cifar_residual_batch_norm(seed: int) -> BenchmarkTask:
    """A residual network with batch norm after every convolution, and label smoothing."""

    def convolution(*arguments: int, **options: int) -> list[nn.Module]:
        layer = nn.Conv2d(*arguments, **options, bias=False)
        return [layer, nn.BatchNorm2d(layer.out_channels)]

    def block() -> list[nn.Module]:
        inner = models.Residual(*convolution(12, 12, 3, padding=1), nn.ReLU(), *convolution(12, 12, 3, padding=1))
        return [inner, nn.ReLU()]

    def model() -> nn.Module:
        return nn.Sequential(
            *(*convolution(3, 12, 4, stride=4), nn.ReLU(), *block(), nn.AvgPool2d(2)),
            *(*block(), nn.Flatten(), nn.Linear(192, 10)),
        )

    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    return build_task(seed, model, loss_fn, data.cifar(8000, 500), batch_size=64, steps=150)
