"""The test tasks that were searched first. Variants of the search were tried on them later; none was kept."""

from __future__ import annotations

from torch import Tensor, nn

from ....task_library import data, losses, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ..sizes import ADAMW_RANGE, RANGE, few

FIRST = Split()
"""Trained with SGD."""

ADAMW_FIRST = Split()
"""Trained with AdamW."""


@FIRST.task(**RANGE)
def wine_alcohol(seed: int) -> BenchmarkTask:
    """An MLP with tanh predicts the alcohol in 88 wines from twelve other columns, with Huber's loss."""

    def model() -> nn.Module:
        return models.mlp(12, 48, 48, 1, activation=nn.Tanh, scalar=True)

    return build_task(seed, model, nn.HuberLoss(), data.wine_alcohol(n_val=90), batch_size=11, steps=500)


@FIRST.task(**RANGE, packed=True)
def fashion_mixer(seed: int) -> BenchmarkTask:
    """An MLP-mixer of two blocks on 800 images of 16 patches."""

    def model() -> nn.Module:
        return models.Mixer(28, 7, 24, 2, 10)

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(800, 2000), batch_size=40, steps=300)


@FIRST.task(**RANGE)
def word_neighbours(seed: int) -> BenchmarkTask:
    """Skip-grams: the embedding of a word predicts its neighbours, on every second pair of words."""
    words, following, val_words, val_following = data.neighbours(300, reach=2)
    arrays = words[::2], following[::2], val_words, val_following

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(300, 24), nn.Linear(24, 300))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=64, steps=600)


@FIRST.task(**RANGE)
def heartbeats_few_samples(seed: int) -> BenchmarkTask:
    """Convolutions with batch norm classify 120 heartbeats of one patient, in batches of 12."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv1d(1, 12, 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(12), nn.ReLU()),
            *(nn.Conv1d(12, 24, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(24), nn.ReLU()),
            *(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(96, 4)),
        )

    arrays = few(data.heartbeats(length=64, patient=5, n=1600), 120)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=12, steps=400)


@FIRST.task(**RANGE)
def ratings_factors(seed: int) -> BenchmarkTask:
    """A factorisation of rank 6 completes a noisy matrix of rank 3 from a fifth of its entries."""

    def model() -> nn.Module:
        return models.MatrixFactorization(60, 50, rank=6, std=0.3)

    return build_task(seed, model, nn.MSELoss(), few(data.ratings(60, 50), 600), batch_size=50, steps=800)


@FIRST.task(**RANGE)
def ellipses_unet(seed: int) -> BenchmarkTask:
    """A U-Net finds the ellipse in 100 noisy images of 16 by 16 pixels, in batches of 10."""

    def model() -> nn.Module:
        return models.SmallUNet(6)

    arrays = few(data.ellipses(16), 100)
    return build_task(seed, model, losses.DiceAndCrossEntropy(), arrays, batch_size=10, steps=300)


@ADAMW_FIRST.task(**ADAMW_RANGE, packed=True)
def cifar_separable_cnn(seed: int) -> BenchmarkTask:
    """A CNN of depthwise and pointwise convolutions with group norm on 1,000 colour images."""

    def block(n_in: int, n_out: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(n_in, n_in, 3, stride=2, padding=1, groups=n_in)
        return [depthwise, nn.Conv2d(n_in, n_out, 1), nn.GroupNorm(4, n_out), nn.SiLU()]

    def model() -> nn.Module:
        stem = nn.Conv2d(3, 16, 4, stride=4), nn.SiLU()
        return nn.Sequential(*stem, *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(256, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.cifar(1000, 2000), batch_size=40, steps=300)


@ADAMW_FIRST.task(**ADAMW_RANGE)
def reviews_attention(seed: int) -> BenchmarkTask:
    """A transformer with dropout tells praise from blame in 400 generated reviews of twelve words."""
    n_words, reviews = data.reviews(12)

    def model() -> nn.Module:
        return models.TokenTransformer(n_words, 12, 24, 1, 0.1, 2)

    return build_task(seed, model, nn.CrossEntropyLoss(), few(reviews, 400), batch_size=20, steps=300)


@ADAMW_FIRST.task(**ADAMW_RANGE)
def digits_variational(seed: int) -> BenchmarkTask:
    """A variational autoencoder of 400 digits with a code of eight numbers."""
    train, _, val, _ = few(data.digits(standardized=False), 400)
    arrays = train.flatten(1), train.flatten(1), val.flatten(1), val.flatten(1)

    def model() -> nn.Module:
        return models.VariationalAutoencoder(64, 64, 8)

    return build_task(seed, model, losses.NegativeELBO(8, 1.0), arrays, batch_size=25, steps=600)


class _Genes(nn.Module):
    """Classifies the activities of genes by a few sums over them, each weighed by a gate."""

    def __init__(self, n_genes: int, width: int, n_classes: int):
        super().__init__()
        self.sums, self.gate, self.out = (
            nn.Linear(n_genes, width),
            nn.Linear(n_genes, width),
            nn.Linear(width, n_classes),
        )

    def forward(self, activities: Tensor) -> Tensor:  # [B, genes] -> [B, classes]
        return self.out(self.sums(activities) * self.gate(activities).sigmoid())


@ADAMW_FIRST.task(**ADAMW_RANGE)
def genes_gated(seed: int) -> BenchmarkTask:
    """A gated layer tells three tissues apart by 400 genes of 90 samples, in batches of 9."""
    return build_task(seed, lambda: _Genes(400, 24, 3), nn.CrossEntropyLoss(), data.genes(90), batch_size=9, steps=500)
