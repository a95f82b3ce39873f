"""More tasks that no constant of a finder was chosen on, of other kinds than those of the other halves."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ...task_library import data, models
from ...task_library.definition import BenchmarkTask, Split, build_task
from ...task_library.losses import (
    Cumulative,
    DiceAndCrossEntropy,
    EvidenceBound,
    Focal,
    Matching,
    MixtureNLL,
    PartialLikelihood,
    Pinball,
)

TEST = Split()

# --- vision -----------------------------------------------------------------------------------------------------------


@TEST.task(low=-4, high=2)
def digits_depthwise(seed: int) -> BenchmarkTask:
    """Convolutions channel by channel, then across the channels; batch norm."""

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
    """Which pixels belong to an ellipse; overlap and cross entropy; instance norm."""
    loss_fn = DiceAndCrossEntropy()
    return build_task(seed, lambda: models.SmallUNet(6), loss_fn, data.ellipses(16), batch_size=8, steps=100)


@TEST.task(low=-5, high=1)
def digits_variational(seed: int) -> BenchmarkTask:
    """A variational autoencoder: a random code in training, and a loss summed over the pixels."""
    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.digits(standardised=False))
    return build_task(
        *(seed, lambda: models.VariationalAutoencoder(64, 128, 8), EvidenceBound(8, 0.5), (train, train, val, val)),
        batch_size=64,
        steps=300,
    )


@TEST.task(low=-5, high=1)
def digit_halves_contrastive(seed: int) -> BenchmarkTask:
    """The upper half of a digit has to find its lower half among those of the batch; the temperature is learned."""
    return build_task(seed, lambda: models.TwoHalves(32, 64, 16), Matching(), data.digits(), batch_size=128, steps=200)


@TEST.task(low=-5.5, high=1)
def photograph_sines(seed: int) -> BenchmarkTask:
    """A photograph's colour at a place, by layers of sines; batches of 512."""

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
    """The words around a word, by its embedding."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(400, 24), nn.Linear(24, 400))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.neighbours(400, reach=2), batch_size=256, steps=200)


@TEST.task(low=-4, high=1.5)
def load_quantiles(seed: int) -> BenchmarkTask:
    """Three quantiles of the next hour's load: dilated convolutions with weight norm."""

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for n_in, dilation in ((1, 1), (12, 2), (12, 4), (12, 8)):  # 31 hours become one
            layers += [weight_norm(nn.Conv1d(n_in, 12, 3, dilation=dilation)), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3))

    return build_task(seed, model, Pinball(0.1, 0.5, 0.9), data.hourly_load(31), batch_size=32, steps=150)


@TEST.task(low=-4, high=2)
def motion_conv_gru(seed: int) -> BenchmarkTask:
    """Which motion a wrist makes: a convolution, a recurrent layer in both directions; the rare motions weigh more."""
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([0.6, 0.7, 1.3, 2.0, 2.0]))
    return build_task(seed, lambda: models.ConvGRU(3, 16, 5), loss_fn, data.motions(24), batch_size=24, steps=150)


@TEST.task(low=-4.5, high=0.5)
def pendulum_rollout(seed: int) -> BenchmarkTask:
    """The derivative of a pendulum's state, by the course that follows from it: back through eight steps of Heun's."""
    n_steps, interval = 8, 0.15
    arrays = data.pendulums(n_steps, interval)
    return build_task(
        seed, lambda: models.Rollout(2, 24, n_steps, interval), nn.MSELoss(), arrays, batch_size=40, steps=120
    )


# --- tables -----------------------------------------------------------------------------------------------------------


@TEST.task(low=-4.5, high=2)
def clicks_focal(seed: int) -> BenchmarkTask:
    """Rare clicks by the embeddings of six categories; the focal loss."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Embedding(240, 8), nn.Flatten()),
            *(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0)),
        )

    return build_task(seed, model, Focal(2.0), data.clicks(40), batch_size=512, steps=200)


@TEST.task(low=-4, high=2)
def breast_cancer_logistic(seed: int) -> BenchmarkTask:
    """Logistic regression of columns from 0 to 1; batches of 10."""
    train, labels, val, val_labels = data.bundled("breast_cancer", 169)
    low, high = train.amin(0), train.amax(0)
    train, val = ((part - low) / (high - low) for part in (train, val))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 1), nn.Flatten(0))

    arrays = (train, labels.float(), val, val_labels.float())
    return build_task(seed, model, nn.BCEWithLogitsLoss(), arrays, batch_size=10, steps=200)


@TEST.task(low=-5, high=1)
def diabetes_grades(seed: int) -> BenchmarkTask:
    """Five ordered grades of a disease; a score and the thresholds between them; batches of 20."""
    train, values, val, val_values = data.diabetes(standardised=True)
    grades, val_grades = (torch.bucketize(part, torch.tensor([-0.9, -0.3, 0.3, 1.0])) for part in (values, val_values))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1), models.Thresholds(4))

    return build_task(seed, model, Cumulative(), (train, grades, val, val_grades), batch_size=20, steps=150)


@TEST.task(low=-4.5, high=1)
def lifetimes_cox(seed: int) -> BenchmarkTask:
    """Risks by who goes first; some ends are never seen."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))

    return build_task(seed, model, PartialLikelihood(), data.lifetimes(), batch_size=64, steps=250)


@TEST.task(low=-5, high=0)
def arm_mixture(seed: int) -> BenchmarkTask:
    """The angles of an arm by where its hand is: a mixture of four normal distributions."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 16))

    return build_task(seed, model, MixtureNLL(4), data.arm(), batch_size=128, steps=300)
