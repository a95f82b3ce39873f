"""Classes of the rows of a table."""

from __future__ import annotations

import torch
from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.losses import CumulativeLogitLoss, FocalLoss

CLASSIFICATION = Split()


@CLASSIFICATION.task(low=-4.5, high=1.5)
def wine_mlp(seed: int) -> BenchmarkTask:
    """An MLP on 130 samples in batches of 16."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.bundled("wine", 48), batch_size=16, steps=150)


@CLASSIFICATION.task(low=-5, high=1)
def iris_mlp(seed: int) -> BenchmarkTask:
    """An MLP on 100 samples in batches of 8."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.bundled("iris", 50), batch_size=8, steps=200)


@CLASSIFICATION.task(low=-4.5, high=1.5)
def breast_cancer_mlp(seed: int) -> BenchmarkTask:
    """An MLP without normalisation; two classes."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.bundled("breast_cancer", 169), batch_size=64, steps=150)


@CLASSIFICATION.task(low=-4, high=2)
def breast_cancer_logistic(seed: int) -> BenchmarkTask:
    """Logistic regression of columns in [0, 1], in batches of 10."""
    train, labels, val, val_labels = data.bundled("breast_cancer", 169)
    low, high = train.amin(0), train.amax(0)
    train, val = ((part - low) / (high - low) for part in (train, val))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 1), nn.Flatten(0))

    arrays = (train, labels.float(), val, val_labels.float())
    return build_task(seed, model, nn.BCEWithLogitsLoss(), arrays, batch_size=10, steps=200)


@CLASSIFICATION.task(low=-5, high=2)
def covertype_like(seed: int) -> BenchmarkTask:
    """An MLP on generated data: seven uneven classes, batches of 512."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(54, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 7))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.covertype_like(), batch_size=512, steps=200)


@CLASSIFICATION.task(low=-6.5, high=1)
def deep_mlp_layer_norm(seed: int) -> BenchmarkTask:
    """Eight linear layers with layer norm."""

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(54, 48)]
        for _ in range(6):
            layers += [nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 48)]
        return nn.Sequential(*layers, nn.LayerNorm(48), nn.Linear(48, 7))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.covertype_like(), batch_size=64, steps=250)


@CLASSIFICATION.task(low=-4.5, high=1.5)
def quantiles_narrow(seed: int) -> BenchmarkTask:
    """Four narrow layers with tanh, in batches of 4."""

    def model() -> nn.Module:
        layers = [layer for n in (3, 8, 8) for layer in (nn.Linear(n, 8), nn.Tanh())]
        for layer in layers:
            if isinstance(layer, nn.Linear):  # with torch's own, smaller weights one seed hardly trains at any rate
                nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))
        return nn.Sequential(*layers, nn.Linear(8, 4))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.gaussian_quantiles(), batch_size=4, steps=400)


@CLASSIFICATION.task(low=-5.5, high=1)
def multilabel_wide(seed: int) -> BenchmarkTask:
    """One layer of width 4096 with dropout; each of twelve labels on its own."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(40, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, 12))

    return build_task(seed, model, nn.BCEWithLogitsLoss(), data.multilabel(), batch_size=24, steps=150)


@CLASSIFICATION.task(low=-4.5, high=2)
def clicks_focal(seed: int) -> BenchmarkTask:
    """Embeddings of six categories predict rare clicks, with the focal loss."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Embedding(240, 8), nn.Flatten()),
            *(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0)),
        )

    return build_task(seed, model, FocalLoss(2.0), data.clicks(40), batch_size=512, steps=200)


@CLASSIFICATION.task(low=-5, high=1)
def diabetes_grades(seed: int) -> BenchmarkTask:
    """Five ordered grades of a disease: a score and learned thresholds, in batches of 20."""
    train, values, val, val_values = data.diabetes(standardized=True)
    grades, val_grades = (torch.bucketize(part, torch.tensor([-0.9, -0.3, 0.3, 1.0])) for part in (values, val_values))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1), models.OrdinalThresholds(4))

    return build_task(seed, model, CumulativeLogitLoss(), (train, grades, val, val_grades), batch_size=20, steps=150)


@CLASSIFICATION.task(low=-4, high=1.5)
def wine_wide(seed: int) -> BenchmarkTask:
    """130 samples are fitted perfectly: the training loss falls up to rates that end far above the untrained loss."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.bundled("wine", 48)
    return build_task(seed, lambda: models.mlp(13, 96, 3), loss_fn, arrays, batch_size=32, steps=80)


@CLASSIFICATION.task(low=-4, high=1.5)
def wine_deep(seed: int) -> BenchmarkTask:
    """Narrow and deep, batches of 8: little moves below 0.008, most seeds are lost above 0.1."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.bundled("wine", 48)
    return build_task(seed, lambda: models.mlp(13, 16, 16, 16, 3), loss_fn, arrays, batch_size=8, steps=120)


@CLASSIFICATION.task(low=-4, high=1.5)
def iris_shallow(seed: int) -> BenchmarkTask:
    """60 steps: the best rates (0.1 to 1) are next to ones at which only some seeds end well."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.bundled("iris", 50)
    return build_task(seed, lambda: models.mlp(4, 16, 3), loss_fn, arrays, batch_size=16, steps=60)


@CLASSIFICATION.task(low=-4, high=1.5)
def cancer_small(seed: int) -> BenchmarkTask:
    """Batches of 8 of easy samples: most losses are near zero, a few are large."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.bundled("breast_cancer", 169)
    return build_task(seed, lambda: models.mlp(30, 16, 2), loss_fn, arrays, batch_size=8, steps=80)


@CLASSIFICATION.task(low=-4, high=1.5)
def cancer_full(seed: int) -> BenchmarkTask:
    """One batch an epoch, hardly any noise: in a sweep the loss falls on at rates that end badly."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.bundled("breast_cancer", 169)
    return build_task(seed, lambda: models.mlp(30, 48, 48, 2), loss_fn, arrays, batch_size=256, steps=60)


@CLASSIFICATION.task(low=-4, high=2)
def covertype_bs64(seed: int) -> BenchmarkTask:
    """Seven uneven classes: half of the gain comes from the frequencies alone, at any rate."""
    loss_fn, arrays = nn.CrossEntropyLoss(), data.covertype_like()
    return build_task(seed, lambda: models.mlp(54, 64, 64, 7), loss_fn, arrays, batch_size=64, steps=120)


@CLASSIFICATION.task(low=-4, high=2)
def covertype_margin(seed: int) -> BenchmarkTask:
    """A margin loss: gradients that do not shrink, until they are exactly zero."""
    loss_fn, arrays = nn.MultiMarginLoss(), data.covertype_like()
    return build_task(seed, lambda: models.mlp(54, 32, 7), loss_fn, arrays, batch_size=32, steps=150)
