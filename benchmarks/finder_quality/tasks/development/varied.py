"""Tasks of many kinds: pre-trained models, vision, text, series, tables, points and graphs."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ....task_library import data, models, pretrained
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.losses import (
    AngularMarginLoss,
    ClassesAndValueLoss,
    ConnectionistTemporalLoss,
    PairwiseRankingLoss,
    SummedSquares,
    WeightedHuber,
)

VARIED = Split()

# --- pre-trained ------------------------------------------------------------------------------------------------------


@VARIED.task(low=-5, high=1)
def digits_other_classes(seed: int) -> BenchmarkTask:
    """A CNN that knows the digits 0 to 4 learns the others with a new last layer; all of it is trained."""
    high, val_high = ((labels >= 5) for labels in data.digits()[1::2])
    train, labels, val, val_labels = data.digits()
    arrays = (train[high], labels[high] - 5, val[val_high], val_labels[val_high] - 5)

    def model() -> nn.Module:
        return nn.Sequential(*copy.deepcopy(pretrained.low_digits_cnn())[:-1], nn.Linear(96, 5))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=16, steps=60)


@VARIED.task(low=-5, high=1, packed=True)
def fashion_after_mnist(seed: int) -> BenchmarkTask:
    """A CNN with group norm that knows MNIST is trained on 120 images of clothes, in batches of 4."""
    train, labels, val, val_labels = data.fashion(8000, 1000)

    def model() -> nn.Module:
        return nn.Sequential(*copy.deepcopy(pretrained.mnist_cnn())[:-1], nn.Linear(784, 10))

    arrays = (train[:120], labels[:120], val, val_labels)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=4, steps=150)


@VARIED.task(low=-5, high=1, packed=True)
def cifar_head(seed: int) -> BenchmarkTask:
    """Only a new last layer is trained, on 1,024 features of a CNN that knows machines; six classes are animals."""
    train, labels, val, val_labels = data.cifar(8000, 500)

    def model() -> nn.Module:
        body = copy.deepcopy(pretrained.machines_cnn())[:-1]
        return nn.Sequential(*body.requires_grad_(False), nn.Linear(1024, 10))

    arrays = (train[4000:], labels[4000:], val, val_labels)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=32, steps=100)


@VARIED.task(low=-4.5, high=1.5)
def digits_turned_adapters(seed: int) -> BenchmarkTask:
    """Low-rank updates of a frozen MLP that knows digits, for digits on their side: a start at a saddle."""
    train, labels, val, val_labels = data.digits()

    def model() -> nn.Module:
        return models.adapt_low_rank(copy.deepcopy(pretrained.digits_mlp()), 8)

    arrays = (train.rot90(1, (2, 3)), labels, val.rot90(1, (2, 3)), val_labels)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=32, steps=150)


@VARIED.task(low=-4, high=1.5)
def prose_backwards(seed: int) -> BenchmarkTask:
    """A transformer that has read prose reads it backwards, in batches of 4."""
    return build_task(
        seed,
        lambda: copy.deepcopy(pretrained.prose_transformer(16)),
        nn.CrossEntropyLoss(),
        data.backwards(16),
        batch_size=4,
        steps=150,
    )


# --- vision -----------------------------------------------------------------------------------------------------------


@VARIED.task(low=-4.5, high=1.5)
def digits_mixer(seed: int) -> BenchmarkTask:
    """An MLP-mixer over 16 patches, in batches of 16."""
    loss_fn = nn.CrossEntropyLoss()
    return build_task(seed, lambda: models.Mixer(8, 2, 32, 2, 10), loss_fn, data.digits(), batch_size=16, steps=100)


@VARIED.task(low=-4.5, high=1.5)
def digit_strings_ctc(seed: int) -> BenchmarkTask:
    """A CNN reads three digits at unknown places: a plateau at which it sees no digit anywhere."""
    loss_fn = ConnectionistTemporalLoss()
    strings = data.digit_strings(3)
    return build_task(seed, lambda: models.ColumnReader(8, 8, 11), loss_fn, strings, batch_size=32, steps=120)


@VARIED.task(low=-5, high=1)
def digits_angular_margin(seed: int) -> BenchmarkTask:
    """Embeddings of digits on a sphere, from a layer of width 1,024, with an angular margin."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 32), models.CosineLinear(32, 10))
        )

    return build_task(seed, model, AngularMarginLoss(16, 0.3), data.digits(), batch_size=32, steps=60)


@VARIED.task(low=-6.5, high=0, packed=True)
def fashion_summed_pixels(seed: int) -> BenchmarkTask:
    """A convolutional autoencoder with group norm: squared errors summed over 784 pixels."""
    train, _, val, _ = data.fashion(4000, 500)

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 4, stride=4), nn.GroupNorm(2, 8), nn.GELU()),
            *(nn.Conv2d(8, 16, 3, stride=2), nn.GroupNorm(4, 16), nn.GELU()),
            *(nn.ConvTranspose2d(16, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.GELU()),
            nn.ConvTranspose2d(8, 1, 4, stride=4),
        )

    return build_task(seed, model, SummedSquares(), (train, train, val, val), batch_size=16, steps=100)


@VARIED.task(low=-6, high=0)
def digits_class_and_ink(seed: int) -> BenchmarkTask:
    """A CNN with group norm gives the class and the ink of a digit; the error of the ink weighs ten times."""
    train, labels, val, val_labels = data.digits()
    ink, val_ink = (images.mean((1, 2, 3)) for images in (train, val))
    targets, val_targets = (
        torch.stack([classes.float(), (part - ink.mean()) / ink.std()], 1)
        for classes, part in ((labels, ink), (val_labels, val_ink))
    )

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 11)),
        )

    arrays = (train, targets, val, val_targets)
    return build_task(seed, model, ClassesAndValueLoss(10), arrays, batch_size=128, steps=100)


# --- text and series --------------------------------------------------------------------------------------------------


@VARIED.task(low=-4, high=1.5)
def marked_numbers_gru(seed: int) -> BenchmarkTask:
    """A GRU adds the two marked numbers of a series: a plateau at the mean until it remembers."""
    numbers = data.marked_numbers(8)
    return build_task(seed, lambda: models.GRURegressor(2, 24), nn.MSELoss(), numbers, batch_size=40, steps=200)


@VARIED.task(low=-6.5, high=-0.5)
def load_day_ahead(seed: int) -> BenchmarkTask:
    """A residual MLP with layer norm predicts the load of the next day: squared errors summed over its hours."""

    def model() -> nn.Module:
        blocks = [models.Residual(nn.LayerNorm(96), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96)) for _ in range(3)]
        return nn.Sequential(nn.Linear(72, 96), *blocks, nn.LayerNorm(96), nn.Linear(96, 24))

    return build_task(seed, model, SummedSquares(), data.day_ahead_load(72), batch_size=32, steps=200)


# --- tables, points and graphs ----------------------------------------------------------------------------------------


@VARIED.task(low=-4.5, high=1.5)
def wine_few_batch_norm(seed: int) -> BenchmarkTask:
    """A wide MLP with batch norm on 40 samples that it fits perfectly, in batches of 4."""
    train, labels, val, val_labels = data.bundled("wine", 48)

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(13, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()),
            *(nn.Linear(256, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 3)),
        )

    arrays = (train[:40], labels[:40], val, val_labels)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=4, steps=100)


@VARIED.task(low=-3.5, high=2)
def papers_graph(seed: int) -> BenchmarkTask:
    """Graph convolutions learn the subjects of all papers from 100 of them, in one batch."""
    adjacency, words, _ = data.papers()
    return build_task(
        seed,
        lambda: models.GraphConvolutions(adjacency, words, 32, 5),
        nn.CrossEntropyLoss(),
        data.subjects_of_papers(100),
        batch_size=100,
        steps=200,
    )


@VARIED.task(low=-4, high=2)
def moons_deep_sigmoid(seed: int) -> BenchmarkTask:
    """Four layers of sigmoids: the gradient shrinks from layer to layer."""

    def model() -> nn.Module:
        layers = [layer for n in (2, 16, 16, 16) for layer in (nn.Linear(n, 16), nn.Sigmoid())]
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, gain=4)
        return nn.Sequential(*layers, nn.Linear(16, 1), nn.Flatten(0))

    return build_task(seed, model, nn.BCEWithLogitsLoss(), data.moons(), batch_size=16, steps=400)


@VARIED.task(low=-5, high=1)
def spirals_residual_rms(seed: int) -> BenchmarkTask:
    """A residual MLP of 20 layers with RMS norm that starts as a linear map; its last layer starts at zero."""

    def block() -> nn.Module:
        second = nn.Linear(32, 32)
        nn.init.zeros_(second.weight)
        return models.Residual(nn.RMSNorm(32), nn.Linear(32, 32), nn.GELU(), second)

    def model() -> nn.Module:
        last = nn.Linear(32, 3)
        nn.init.zeros_(last.weight)
        return nn.Sequential(nn.Linear(2, 32), *(block() for _ in range(9)), nn.RMSNorm(32), last)

    return build_task(seed, model, nn.CrossEntropyLoss(), data.spirals(), batch_size=16, steps=120)


@VARIED.task(low=-1, high=5)
def outliers_weighted(seed: int) -> BenchmarkTask:
    """Huber's loss of targets of which 5 % are far off; the weights of all samples sum to one. In batches of 16."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(15, 128), nn.ReLU(), nn.Linear(128, 1), nn.Flatten(0))

    return build_task(seed, model, WeightedHuber(), data.outliers(), batch_size=16, steps=200)


@VARIED.task(low=-8, high=-1)
def visitors_poisson(seed: int) -> BenchmarkTask:
    """Poisson regression of counts around a thousand: the gradient starts a thousand times too large."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))

    return build_task(seed, model, nn.PoissonNLLLoss(), data.visitors(), batch_size=32, steps=250)


@VARIED.task(low=-5.5, high=0.5)
def queries_ranking(seed: int) -> BenchmarkTask:
    """An MLP ranks the eight documents of a query: a logistic loss summed over their pairs, in batches of 16."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(1))

    return build_task(seed, model, PairwiseRankingLoss(), data.queries(8), batch_size=16, steps=150)


@VARIED.task(low=-4, high=2.5)
def coatings_zero_head(seed: int) -> BenchmarkTask:
    """Targets of some thousandths, and a last layer that starts at zero: tiny losses and gradients."""

    def model() -> nn.Module:
        last = nn.Linear(64, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), last, nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(), data.coatings(), batch_size=64, steps=200)
