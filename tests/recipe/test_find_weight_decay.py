"""``find_weight_decay``: its answers, its refinement and its arguments."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

import clrfast
from clrfast import find_weight_decay
from tests.helpers.histories import decay_trials
from tests.helpers.problems import regression

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("losses", "low", "chosen", "high"),
    [
        ([[1.0, 1.0], [1.2, 1.21], [1.4, 1.41]], 0.0, 0.0, 0.0),
        ([[1.4, 1.41], [1.2, 1.21], [1.0, 1.0]], 1e-3, 1e-3, 1e-3),
        ([[1.0, 1.1], [0.98, 1.13], [1.9, 1.91]], 0.0, 1e-4, 1e-4),  # inconclusive: the default
        ([[1.0, 1.1], [1.1, 1.2], [1.05, 1.16]], 0.0, 1e-4, 1e-3),  # all equally good
        ([[1.9, 1.91], [1.0, 1.1], [1.05, 1.16]], 1e-4, 1e-4, 1e-3),  # decay helps: the best
        ([[1.9, 1.91], [1.05, 1.16], [1.0, 1.1]], 1e-4, 1e-3, 1e-3),
        ([[1.0, 1.01], [1.5, 1.52], [1.0, 1.02]], 0.0, 0.0, 0.0),  # a worse one in between separates them
        ([[1.0, 1.0], [1.2, 1.21], [math.inf, 1.0]], 0.0, 0.0, 0.0),  # it diverged once
        ([[1.0, 1.0], [1.2, 1.21], [math.nan, 0.5]], 0.0, 0.0, 0.0),
        ([[math.nan, 1.0], [1.2, 1.21], [math.inf, 1.0]], 1e-4, 1e-4, 1e-4),
    ],
)
def test_the_best_weight_decay_is_suggested_or_the_default_if_inconclusive(losses, low, chosen, high):
    choice = decay_trials(losses).suggest()
    assert (choice.low, choice.value, choice.high) == (low, chosen, high)


def test_the_reason_says_if_trials_are_inconclusive_or_the_grid_too_small():
    alike = decay_trials([[1.0, 1.1], [1.1, 1.2], [1.05, 1.16]])
    assert "all tried values are as good" in alike.suggest().reason
    assert "do not show what a longer training needs, and 0.0001, the usual value, is chosen" in alike.suggest().reason
    assert "may be better" not in alike.suggest().reason
    small = decay_trials([[1.0, 1.1], [1.1, 1.2], [1.05, 1.16]], values=(0.0, 1e-6, 1e-5)).suggest()
    assert small.value == 1e-5
    assert "1e-05, the nearest to the usual one, is chosen; 1e-05 is the largest tried value" in small.reason
    alone = decay_trials([[1.0, 1.0], [1.2, 1.21], [1.4, 1.41]]).suggest().reason
    assert alone == "the validation loss after the trials is lowest with 0 (1)"
    gain = decay_trials([[1.9, 1.91], [1.0, 1.1], [1.05, 1.16]]).suggest().reason
    assert "so weight decay helps" in gain
    assert "may be better" not in gain
    assert "chosen: 0.0001; " in str(alike)
    assert str(alike).count("\n") == 1 + len(alike.values)


def test_refinement_continues_above_values_that_are_as_good():
    assert decay_trials([[1.0, 1.1], [1.1, 1.2], [1.05, 1.16]]).refinement_center == 1e-3
    assert decay_trials([[1.9, 1.91], [1.0, 1.1], [1.05, 1.16]]).refinement_center == 1e-4
    assert decay_trials([[1.0, 1.0], [1.2, 1.21], [1.4, 1.41]]).refinement_center == 0


def test_few_noisy_samples_get_a_large_weight_decay():
    """With 60 samples for 50 weights, least squares fits the noise, and shrinking the weights helps most."""
    model, loss_fn, loader, val = regression(60, 1.0)
    found = find_weight_decay(model, loss_fn, loader, val_loader=val, max_lr=0.03)
    assert 0.1 in found.values  # refinement continued above the grid's 1e-3
    assert found.suggest().value >= 0.03
    mean = dict(zip(found.values, found.loss.mean(axis=1), strict=True))
    assert mean[0.0] > 1.3 * mean[0.1]


def test_many_clean_samples_get_a_small_weight_decay():
    model, loss_fn, loader, val = regression(2000, 0.02, features=10)
    found = find_weight_decay(
        model, loss_fn, loader, val_loader=val, grid=(0.3, 0.1, 0.01, 0), max_lr=0.03, refine=False
    )
    assert found.suggest().value <= 0.01
    assert (np.diff(found.loss.mean(axis=1)) > 0).all()
    assert found.loss[2].min() > 3 * found.loss[0].max()


@pytest.mark.parametrize(("max_steps", "values"), [(240, 6), (239, 4)])
def test_refinement_keeps_within_max_steps(max_steps, values):
    model, loss_fn, loader, val = regression(200, 0.1, features=10)
    grid = (1e-7, 1e-8, 1e-9, 1)  # all but the last alike
    found = find_weight_decay(
        model, loss_fn, loader, val_loader=val, grid=grid, max_lr=0.01, steps=20, max_steps=max_steps
    )
    assert len(found.values) == values


def test_the_reason_says_that_a_decay_has_no_effect():
    model, loss_fn, loader, val = regression(200, 0.1, features=10)
    found = find_weight_decay(
        model, loss_fn, loader, val_loader=val, grid=(1e-9, 0), max_lr=0.01, steps=20, refine=False
    )
    assert "all tried values are as good" in found.suggest().reason


def test_a_value_whose_trials_diverge_is_not_suggested():
    """With decay 200 and rate 0.1 each step multiplies the weights by about -20."""
    model, loss_fn, loader, val = regression(400, 0.1, features=10)
    found = find_weight_decay(model, loss_fn, loader, val_loader=val, grid=(0, 200), max_lr=0.1, steps=60, refine=False)
    assert np.isinf(found.loss[1]).all()
    assert np.isfinite(found.loss[0]).all()
    assert found.suggest().value == 0
    assert found.max_stable_lr[1] < found.max_stable_lr[0] == found.max_lr


def test_histories_of_trials_can_be_diagnosed():
    model, loss_fn, loader, val = regression(60, 1.0)
    found = find_weight_decay(model, loss_fn, loader, val_loader=val, grid=(0, 1e-3), max_lr=0.03, refine=False)
    assert "overfitting" in [diagnosis.name for diagnosis in clrfast.diagnose(found.histories[0][0])]


def test_disjoint_parts_of_one_dataset_are_accepted():
    model, loss_fn, loader, _ = regression(100, 0.1)
    data = loader.dataset
    for train, val in (
        (DataLoader(Subset(data, range(60)), 20), DataLoader(Subset(data, range(60, 100)), 40)),
        (
            DataLoader(data, 20, sampler=SubsetRandomSampler(range(60))),
            DataLoader(data, 20, sampler=SubsetRandomSampler(range(60, 100))),
        ),
    ):
        found = find_weight_decay(
            model, loss_fn, train, val_loader=val, grid=(0, 1e-3), max_lr=0.01, steps=20, refine=False
        )
        assert np.isfinite(found.loss).all()


MODEL, LOSS_FN, LOADER, VAL = regression(100, 0.1)


BATCHES = list(LOADER)


SAMPLES = list(LOADER.dataset)


PART = DataLoader(Subset(Subset(LOADER.dataset, range(50)), [7, 8]), 2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"val_loader": None}, "val_loader: got None"),
        ({"val_loader": []}, "val_loader: it is empty"),
        ({"val_loader": 3}, "val_loader: got int"),
        ({"val_loader": LOADER}, "val_loader: got the same data"),
        ({"val_loader": DataLoader(LOADER.dataset, 50)}, "val_loader: got the same data"),
        ({"val_loader": PART}, "val_loader: got the same data"),
        ({"loader": DataLoader(Subset(LOADER.dataset, range(8)), 4), "val_loader": PART}, "got 1 samples"),
        ({"val_loader": DataLoader(TensorDataset(*LOADER.dataset.tensors), 50)}, "got 100 samples"),
        ({"val_loader": DataLoader(TensorDataset(LOADER.dataset.tensors[0][60:]), 50)}, "got 40 samples"),
        (
            {"loader": BATCHES, "val_loader": BATCHES[1:]},
            "got 4 samples or batches that are in the training's loader too",
        ),
        ({"loader": DataLoader(SAMPLES), "val_loader": DataLoader(Subset(SAMPLES[5:], [0, 1]))}, "got 2 samples"),
        ({"val_loader": iter(VAL)}, "val_loader: got a .*Iter, which can be iterated only once"),
        ({"loader": (batch for batch in LOADER)}, "loader: got a generator, which can be iterated only once"),
        ({"loader": []}, "loader: it is empty"),
        ({"grid": ()}, r"grid: got \[\]; give at least two"),
        ({"grid": (1e-3, 1e-3)}, "give at least two different"),
        ({"grid": (1e-3, -1e-4)}, "grid: got -0.0001 among them; give numbers in"),
        ({"grid": (1e-3, math.nan)}, "grid: got nan"),
        ({"grid": (1e-3, math.inf)}, "grid: got inf"),
        ({"grid": (1e-3, "0")}, "grid: got '0'"),
        ({"grid": 1e-3}, "grid: got 0.001; give several"),
        ({"steps": 19}, "steps: got 19; .*at least 20"),
        ({"steps": 30.5}, "steps: got 30.5"),
        ({"repeats": 1}, "repeats: got 1; .*at least 2"),
        ({"max_lr": 0}, "max_lr: got 0"),
        ({"momentum": 1.0}, "momentum: got 1.0"),
        ({"optimizer": torch.optim.SGD(MODEL.parameters(), 0.1)}, "optimizer: got SGD; the short runs make their own"),
        ({"accumulate": 0}, "accumulate: got 0"),
    ],
)
def test_a_bad_argument_is_refused_by_name(options, named):
    given = {"loader": LOADER, "val_loader": VAL, "max_lr": 0.01, "steps": 20, **options}
    with pytest.raises(ValueError, match=named):
        find_weight_decay(MODEL, LOSS_FN, **given)
