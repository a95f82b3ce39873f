"""Bad batches are distinguished from rates at which the model diverges."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clrfast import range_test
from clrfast.finder import _bad_batches as bad_batches
from tests.helpers.optimizers import NO_NATIVE


def task(n=1600, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres, y = 2 * torch.randn(4, 10, generator=generator), torch.randint(0, 4, (n,), generator=generator)
    x = centres[y] + torch.randn(n, 10, generator=generator)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)), x, y


def with_bad_batches(*numbers, size=32, value=math.nan):
    model, x, y = task()
    for number in numbers:
        x[size * number, 3] = value
    return model, x, y


LOSS = nn.CrossEntropyLoss()


@pytest.mark.parametrize("numbers", [(26,), (0,), (7, 40), (26, 27)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_bad_batch_is_named_and_left_out(numbers, accumulate):
    model, x, y = with_bad_batches(*numbers)
    before = [value.clone() for value in model.state_dict().values()]
    batches = list(zip(x.split(32), y.split(32), strict=True))
    with pytest.warns(UserWarning, match=f"loader: batch {numbers[0]} gives a loss of nan on the initial weights"):
        curve = range_test(model, LOSS, batches, accumulate=accumulate, steps=40)
    assert curve.stopped != "non-finite"
    assert np.isfinite(curve.loss).all()
    assert all(map(torch.equal, model.state_dict().values(), before))


def test_the_suggestion_is_that_of_the_good_data():
    model, x, y = task()
    good = range_test(model, LOSS, list(zip(x.split(32), y.split(32), strict=True))).suggest().max_lr
    model, x, y = with_bad_batches(30)
    with pytest.warns(UserWarning, match="batch 30"):
        found = range_test(model, LOSS, list(zip(x.split(32), y.split(32), strict=True))).suggest().max_lr
    assert 1 / 3 < found / good < 3


def test_a_bad_sample_is_left_out_in_every_batch():
    model, x, y = with_bad_batches(11)
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", NO_NATIVE)
        curve = range_test(model, LOSS, loader, steps=150)
    assert len(caught) == 1
    assert np.isfinite(curve.loss[:-1]).all()


def test_targets_that_make_the_loss_nan_are_found():
    model, x, y = task()
    y[32 * 5 : 32 * 6] = -100  # all ignored: a mean over nothing
    with pytest.warns(UserWarning, match="batch 5 gives a loss of nan"):
        range_test(model, LOSS, list(zip(x.split(32), y.split(32), strict=True)), steps=120)


def test_trials_leave_bad_batches_out():
    model, x, y = with_bad_batches(45)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    with pytest.warns(UserWarning, match="loss of nan on the initial weights"):
        (trials, *_) = range_test(model, LOSS, batches, trials=True).trials
    assert np.isfinite(trials.loss[0])
    assert np.isfinite(trials.initial_loss)


def test_bad_probes_are_replaced():
    """The probes are the first batches, and all of them are bad."""
    model, x, y = task()
    y[: 32 * 4] = -100  # all ignored: a mean over nothing
    with pytest.warns(UserWarning, match=r"batch [0-3] gives a loss of nan"):
        curve = range_test(model, LOSS, list(zip(x.split(32), y.split(32), strict=True)), trials=True, steps=20)
    assert np.isfinite(curve.trials[0].initial_loss)
    assert np.isfinite(curve.trials[0].loss).any()


def test_a_model_that_overflows_at_a_high_rate_has_no_bad_batches():
    """The first update of 1e7 makes the loss overflow on good batches."""
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", NO_NATIVE)
        curve = range_test(
            model,
            loader=[torch.ones(4, 1)],
            compute_loss=lambda model, batch: model(batch).pow(20).mean(),
            min_lr=1.0,
            max_lr=10.0,
            steps=5,
        )
    assert curve.stopped == "non-finite"


def test_too_many_bad_batches_are_refused(monkeypatch):
    monkeypatch.setattr(bad_batches, "MAX_BAD", 2)
    model, x, y = task()
    for number in (3, 9, 15, 21):
        y[32 * number : 32 * (number + 1)] = -100
    warnings.simplefilter("ignore")
    with pytest.raises(ValueError, match="3 batches give a loss that is not finite on the initial weights"):
        range_test(model, LOSS, list(zip(x.split(32), y.split(32), strict=True)), steps=60)


def test_only_the_recent_batches_that_fit_the_memory_are_kept(monkeypatch):
    monkeypatch.setattr(bad_batches, "KEPT_BYTES", 3 * 400)
    recent = bad_batches.RecentBatches(iter([torch.full((100,), float(i)) for i in range(8)]), 5)
    for _ in recent:
        pass
    assert [int(batch[0]) for batch in recent.batches] == [5, 6, 7]
