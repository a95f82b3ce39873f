"""Newer tasks that were not used to choose any constant of a finder, of other kinds than those of the other splits."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ...task_library import data, models
from ...task_library.definition import BenchmarkTask, Split, build_task
from ...task_library.losses import (
    ContrastiveLoss,
    CoxPartialLikelihood,
    CumulativeLogitLoss,
    DiceAndCrossEntropy,
    FocalLoss,
    GaussianMixtureNLL,
    NegativeELBO,
    PinballLoss,
)

TEST = Split()

# --- vision -----------------------------------------------------------------------------------------------------------


@TEST.task(low=-4, high=2)
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


@TEST.task(low=-4, high=2)
def ellipse_segmentation(seed: int) -> BenchmarkTask:
    """A U-Net with instance norm segments ellipses: Dice loss and cross entropy."""
    loss_fn = DiceAndCrossEntropy()
    return build_task(seed, lambda: models.SmallUNet(6), loss_fn, data.ellipses(16), batch_size=8, steps=100)


@TEST.task(low=-5, high=1)
def digits_variational(seed: int) -> BenchmarkTask:
    """A variational autoencoder: random codes in training, and a loss summed over the pixels."""
    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.digits(standardized=False))
    return build_task(
        *(seed, lambda: models.VariationalAutoencoder(64, 128, 8), NegativeELBO(8, 0.5), (train, train, val, val)),
        batch_size=64,
        steps=300,
    )


@TEST.task(low=-5, high=1)
def digit_halves_contrastive(seed: int) -> BenchmarkTask:
    """A dual encoder matches the halves of digits within the batch; the temperature is learned."""
    return build_task(
        seed, lambda: models.DualEncoder(32, 64, 16), ContrastiveLoss(), data.digits(), batch_size=128, steps=200
    )


@TEST.task(low=-5.5, high=1)
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


# --- text and series --------------------------------------------------------------------------------------------------


@TEST.task(low=-3, high=2)
def word_skipgram(seed: int) -> BenchmarkTask:
    """Skip-grams: the embedding of a word predicts its neighbours."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(400, 24), nn.Linear(24, 400))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.neighbours(400, reach=2), batch_size=256, steps=200)


@TEST.task(low=-4, high=1.5)
def load_quantiles(seed: int) -> BenchmarkTask:
    """Dilated convolutions with weight norm predict three quantiles of the next hour's load."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for n_in, dilation in ((1, 1), (12, 2), (12, 4), (12, 8)):  # 31 hours become one
            layers += [weight_norm(nn.Conv1d(n_in, 12, 3, dilation=dilation)), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3))

    return build_task(seed, model, PinballLoss(0.1, 0.5, 0.9), data.hourly_load(31), batch_size=32, steps=150)


@TEST.task(low=-4, high=2)
def motion_conv_gru(seed: int) -> BenchmarkTask:
    """A convolution and a bidirectional GRU classify motions of a wrist; rare motions weigh more."""
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([0.6, 0.7, 1.3, 2.0, 2.0]))
    return build_task(seed, lambda: models.ConvGRU(3, 16, 5), loss_fn, data.motions(24), batch_size=24, steps=150)


@TEST.task(low=-4.5, high=0.5)
def pendulum_rollout(seed: int) -> BenchmarkTask:
    """A learned derivative of a pendulum's state, through eight steps of Heun's method."""
    n_steps, interval = 8, 0.15
    arrays = data.pendulums(n_steps, interval)
    return build_task(
        seed, lambda: models.DerivativeRollout(2, 24, n_steps, interval), nn.MSELoss(), arrays, batch_size=40, steps=120
    )


# --- tables -----------------------------------------------------------------------------------------------------------


@TEST.task(low=-4.5, high=2)
def clicks_focal(seed: int) -> BenchmarkTask:
    """Embeddings of six categories predict rare clicks, with the focal loss."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Embedding(240, 8), nn.Flatten()),
            *(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0)),
        )

    return build_task(seed, model, FocalLoss(2.0), data.clicks(40), batch_size=512, steps=200)


@TEST.task(low=-4, high=2)
def breast_cancer_logistic(seed: int) -> BenchmarkTask:
    """Logistic regression of columns in [0, 1], in batches of 10."""
    train, labels, val, val_labels = data.bundled("breast_cancer", 169)
    low, high = train.amin(0), train.amax(0)
    train, val = ((part - low) / (high - low) for part in (train, val))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 1), nn.Flatten(0))

    arrays = (train, labels.float(), val, val_labels.float())
    return build_task(seed, model, nn.BCEWithLogitsLoss(), arrays, batch_size=10, steps=200)


@TEST.task(low=-5, high=1)
def diabetes_grades(seed: int) -> BenchmarkTask:
    """Five ordered grades of a disease: a score and learned thresholds, in batches of 20."""
    train, values, val, val_values = data.diabetes(standardized=True)
    grades, val_grades = (torch.bucketize(part, torch.tensor([-0.9, -0.3, 0.3, 1.0])) for part in (values, val_values))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1), models.OrdinalThresholds(4))

    return build_task(seed, model, CumulativeLogitLoss(), (train, grades, val, val_grades), batch_size=20, steps=150)


@TEST.task(low=-4.5, high=1)
def lifetimes_cox(seed: int) -> BenchmarkTask:
    """A survival model with Cox's partial likelihood; some ends are never seen."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))

    return build_task(seed, model, CoxPartialLikelihood(), data.lifetimes(), batch_size=64, steps=250)


@TEST.task(low=-5, high=0)
def arm_mixture(seed: int) -> BenchmarkTask:
    """A mixture density network: the angles of an arm for a position of its hand."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 16))

    return build_task(seed, model, GaussianMixtureNLL(4), data.arm(), batch_size=128, steps=300)
