"""The counts of a curve, compared with the calls of the model and of the optimizer."""

import contextlib
import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from clrfast import LRCurve, range_test
from tests.helpers.curves import make_curve
from tests.helpers.optimizers import NO_NATIVE
from tests.helpers.problems import blobs, quadratic
from tests.helpers.range_tests import OPTIMIZERS, Overflowing, every_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = {
    "plain call": {},
    "no trials": {"trials": False},
    "one ramp": {"steps": 20},
    "thorough trials": {"trials": "thorough"},
    "repeats": {"repeats": 2, "trials": False},
    "accumulation": {"accumulate": 3},
    "validation": {"val_loader": blobs(seed=1)[2]},
    "accuracy": {"val_loader": blobs(seed=1)[2], "metric": "accuracy", "val_every": 3},
}


@contextlib.contextmanager
def counted_calls(model):
    """A list that grows by one entry with each call of the model."""
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(0))
    try:
        yield calls
    finally:
        handle.remove()


def counted_updates(optimizer):
    updates = []
    optimizer.register_step_pre_hook(lambda *_: updates.append(0))
    return updates


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_updates_and_extra_forward_passes_are_all_calls_of_the_model(options):
    model, loss_fn, loader = blobs()
    with counted_calls(model) as calls:
        curve = range_test(model, loss_fn, loader, **options)
    accumulate = options.get("accumulate", 1)
    assert len(calls) == curve.update_steps * accumulate + curve.extra_forward_passes
    assert curve.extra_forward_passes > 0 or not curve.trials  # a ramp that diverges has none


@every_optimizer
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_updates_are_the_steps_of_the_optimizer(options, make):
    model, loss_fn, loader = blobs()
    optimizer = make(model.parameters())
    updates = counted_updates(optimizer)
    curve = range_test(model, loss_fn, loader, optimizer=optimizer, max_lr=1.0, **options)
    assert all(np.isfinite(each.loss).all() for each in (curve, *curve.trials))
    assert curve.update_steps == len(updates)


def test_a_single_ramp_has_one_extra_forward_pass():
    curve = range_test(*quadratic(), steps=20, max_lr=0.1)
    assert (curve.update_steps, curve.extra_forward_passes) == (20, 1)


def test_validation_batches_are_extra_forward_passes():
    model, loss_fn, loader = quadratic()
    curve = range_test(model, loss_fn, loader, steps=20, max_lr=0.1, val_loader=list(loader)[:2], val_every=5)
    assert curve.extra_forward_passes == 1 + 2 * np.isfinite(curve.metric).sum() == 1 + 2 * 4


def test_probe_batches_are_extra_forward_passes():
    """Three trials of 20 updates on one ramp of 20, with two batches, of which the first is the probe."""
    model, loss_fn, loader = quadratic(n=16)
    curve = range_test(model, loss_fn, loader, steps=20, max_lr=0.1, trials=True, max_steps=80)
    assert curve.update_steps == 80
    in_ramp = np.isfinite(curve.probe_loss).sum()
    assert in_ramp == 7
    before, after_each = 1, 2  # a probe; a probe, and the next training batch
    assert curve.extra_forward_passes == 1 + in_ramp + before + 3 * after_each


@every_optimizer
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_ramp_that_is_repeated_without_a_bad_batch_counts_twice(accumulate, make):
    model, loss_fn, loader = blobs()
    batches = [[x.clone(), y] for x, y in loader]
    batches[5][0][0, 0] = math.nan
    optimizer = make(model.parameters())
    with counted_calls(model) as calls, pytest.warns(UserWarning, match="batch 5 gives a loss of nan"):
        curve = range_test(model, loss_fn, batches, optimizer=optimizer, steps=20, max_lr=0.1, accumulate=accumulate)
    assert len(curve.loss) == 20
    assert curve.update_steps > 20
    assert curve.extra_forward_passes > 2 * accumulate
    assert len(calls) == curve.update_steps * accumulate + curve.extra_forward_passes


def test_bad_probes_count():
    model, loss_fn, loader = blobs()
    batches = [[x, y.clone()] for x, y in loader]
    batches[0][1][:] = -100  # all ignored: a mean over nothing
    with counted_calls(model) as calls, pytest.warns(UserWarning, match="batch 0 gives a loss of nan"):
        curve = range_test(model, loss_fn, batches, steps=20, max_lr=0.1, trials=True)
    assert len(calls) == curve.update_steps + curve.extra_forward_passes


@pytest.mark.parametrize("name", ["clrfast", "torch"])
@pytest.mark.usefixtures("host_ahead")
def test_updates_that_a_scaler_skips_are_extra_forward_passes(name):
    model, loss_fn, loader = quadratic()
    losses = []

    def compute_loss(model, batch):
        return Overflowing.apply(loss_fn(model(batch[0]), batch[1]), losses, {3, 4, 9})

    curve = range_test(
        model,
        loader=loader,
        compute_loss=compute_loss,
        optimizer=OPTIMIZERS[name](model.parameters()),
        scaler=torch.amp.GradScaler("cpu"),
        steps=20,
        max_lr=0.1,
    )
    assert (curve.update_steps, curve.extra_forward_passes) == (20, 1 + 3)
    assert len(losses) == 24


@pytest.mark.parametrize(("name", "updates"), [("clrfast", 1), ("torch", 2)])
def test_only_clrfast_leaves_out_an_update_whose_loss_is_not_finite(name, updates):
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    with counted_calls(model) as calls, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", NO_NATIVE)
        curve = range_test(
            model,
            loader=[torch.ones(4, 1)],
            compute_loss=lambda model, batch: model(batch).pow(20).mean(),
            optimizer=OPTIMIZERS[name](model.parameters()),
            min_lr=1e8,
            max_lr=1e9,
            steps=5,
        )
    assert curve.stopped == "non-finite"
    assert curve.update_steps == updates
    assert len(calls) == updates + curve.extra_forward_passes


def test_the_counts_are_saved_and_loaded(tmp_path):
    path = tmp_path / "curve.json"
    make_curve(update_steps=148, extra_forward_passes=37).save(path)
    loaded = LRCurve.load(path)
    assert (loaded.update_steps, loaded.extra_forward_passes) == (148, 37)


def test_a_file_without_counts_loads(tmp_path):
    path = tmp_path / "curve.json"
    make_curve().save(path)
    data = json.loads(path.read_text())
    del data["update_steps"], data["extra_forward_passes"]
    path.write_text(json.dumps(data))
    loaded = LRCurve.load(path)
    assert (loaded.update_steps, loaded.extra_forward_passes) == (None, None)


@pytest.mark.parametrize("value", [-1, 2.5, "many"])
def test_a_count_that_is_no_whole_number_is_refused(value, tmp_path):
    path = tmp_path / "curve.json"
    make_curve(update_steps=value).save(path)
    with pytest.raises(ValueError, match=f"update_steps: got {value!r}"):
        LRCurve.load(path)
