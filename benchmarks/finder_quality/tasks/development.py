"""The tasks on which a finder's constants may be chosen."""

from __future__ import annotations

import itertools

from torch import nn

from ...task_library import data, models
from ...task_library.definition import BenchmarkTask, Split, build_task

DEVELOPMENT = Split()

# --- vision --------------------------------------------------------------------------------------------------------


@DEVELOPMENT.task(low=-4.5, high=1.5)
def digits_cnn(seed: int) -> BenchmarkTask:
    """A CNN without normalisation."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(96, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.digits(), batch_size=64, steps=200)


@DEVELOPMENT.task(low=-4, high=2)
def digits_cnn_bn(seed: int) -> BenchmarkTask:
    """A CNN with batch norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.digits(), batch_size=32, steps=200)


@DEVELOPMENT.task(low=-5.5, high=1)
def digits_mlp_tiny_batch(seed: int) -> BenchmarkTask:
    """An MLP in batches of 8."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.digits(), batch_size=8, steps=400)


@DEVELOPMENT.task(low=-5.5, high=1.5, packed=True)
def fashion_cnn_bn(seed: int) -> BenchmarkTask:
    """A CNN with strides and batch norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(8000, 500), batch_size=64, steps=150)


@DEVELOPMENT.task(low=-5.5, high=1.5, packed=True)
def fashion_mlp_large_batch(seed: int) -> BenchmarkTask:
    """An MLP in batches of 512."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(8000, 1000), batch_size=512, steps=150)


@DEVELOPMENT.task(low=-4, high=1, packed=True)
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


@DEVELOPMENT.task(low=-4.5, high=1.5)
def digits_autoencoder(seed: int) -> BenchmarkTask:
    """An autoencoder with tanh: mean squared error over 64 pixels."""

    def model() -> nn.Module:
        widths = (64, 48, 16, 48)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers, nn.Linear(48, 64))

    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.digits())
    return build_task(seed, model, nn.MSELoss(), (train, train, val, val), batch_size=128, steps=300)


# --- tabular classification -------------------------------------------------------------------------------------------


@DEVELOPMENT.task(low=-4.5, high=1.5)
def wine_mlp(seed: int) -> BenchmarkTask:
    """An MLP on 130 samples in batches of 16."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.bundled("wine", 48), batch_size=16, steps=150)


@DEVELOPMENT.task(low=-5, high=1)
def iris_mlp(seed: int) -> BenchmarkTask:
    """An MLP on 100 samples in batches of 8."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.bundled("iris", 50), batch_size=8, steps=200)


@DEVELOPMENT.task(low=-4.5, high=1.5)
def breast_cancer_mlp(seed: int) -> BenchmarkTask:
    """An MLP without normalisation; two classes."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.bundled("breast_cancer", 169), batch_size=64, steps=150)


@DEVELOPMENT.task(low=-5, high=2)
def covertype_like(seed: int) -> BenchmarkTask:
    """An MLP on generated data: seven uneven classes, batches of 512."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(54, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 7))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.covertype_like(), batch_size=512, steps=200)


# --- regression -------------------------------------------------------------------------------------------------------


@DEVELOPMENT.task(low=-6, high=0.5)
def diabetes_mlp(seed: int) -> BenchmarkTask:
    """Regression with standardized targets."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(), data.diabetes(standardized=True), batch_size=32, steps=150)


@DEVELOPMENT.task(low=-7, high=-1)
def diabetes_raw_targets(seed: int) -> BenchmarkTask:
    """Regression with targets around 150: the loss starts at 29,000, and only tiny rates work."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(), data.diabetes(standardized=False), batch_size=32, steps=200)


@DEVELOPMENT.task(low=-8.5, high=-1)
def friedman_sum(seed: int) -> BenchmarkTask:
    """Regression with a loss summed over the batch: the best rate is lower by the batch size."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(reduction="sum"), data.friedman(), batch_size=128, steps=250)


@DEVELOPMENT.task(low=-5.5, high=1)
def teacher_student(seed: int) -> BenchmarkTask:
    """A ReLU network learns another one."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(), data.teacher(), batch_size=64, steps=300)


# --- text -------------------------------------------------------------------------------------------------------------


@DEVELOPMENT.task(low=-3.5, high=2)
def char_gru(seed: int) -> BenchmarkTask:
    """A GRU predicts the next character."""
    text = data.characters(length=16)
    return build_task(
        seed, lambda: models.CharGRU(data.n_characters(), 32), nn.CrossEntropyLoss(), text, batch_size=32, steps=150
    )


@DEVELOPMENT.task(low=-4.5, high=1.5)
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


@DEVELOPMENT.task(low=-5, high=1.5)
def bag_of_characters(seed: int) -> BenchmarkTask:
    """An MLP classifies snippets of text by their character counts."""
    arrays = data.snippets(length=96)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(arrays[0].shape[1], 48), nn.ReLU(), nn.Linear(48, len(data.texts())))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=64, steps=250)


# --- deep, and starting near a saddle ---------------------------------------------------------------------------------


@DEVELOPMENT.task(low=-6, high=0.5)
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


@DEVELOPMENT.task(low=-6.5, high=1)
def deep_mlp_layer_norm(seed: int) -> BenchmarkTask:
    """Eight linear layers with layer norm."""

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(54, 48)]
        for _ in range(6):
            layers += [nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 48)]
        return nn.Sequential(*layers, nn.LayerNorm(48), nn.Linear(48, 7))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.covertype_like(), batch_size=64, steps=250)


@DEVELOPMENT.task(low=-3, high=1.5)
def matrix_factorisation(seed: int) -> BenchmarkTask:
    """A start near a saddle: both factors are small, and the loss stays flat until they have grown together."""
    return build_task(
        seed,
        lambda: models.MatrixFactorization(60, 50, rank=4, std=0.03),
        nn.MSELoss(),
        data.ratings(60, 50),
        batch_size=256,
        steps=200,
    )


@DEVELOPMENT.task(low=-4, high=1)
def deep_linear(seed: int) -> BenchmarkTask:
    """Four linear layers with small weights: a start near a saddle."""

    def model() -> nn.Module:
        layers = [nn.Linear(16, 16, bias=False) for _ in range(4)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.1)
        return nn.Sequential(*layers)

    return build_task(seed, model, nn.MSELoss(), data.linear_map(), batch_size=64, steps=300)
