"""The record of a range test."""

import copy
import gc
import json
import math
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import clrfast
from clrfast import LRCurve, Task, Trials, range_test
from tests.helpers.curves import make_curve
from tests.helpers.range_tests import (
    batch_norm_net,
    batches_of,
    mean_of_outputs,
)
from tests.helpers.state import full_state
from tests.helpers.writers import Log

pytestmark = pytest.mark.usefixtures("one_thread")


def test_saving_and_loading_keeps_every_bit_and_values_that_are_not_finite(tmp_path):
    curve = make_curve(loss=np.array([2.0, 1 / 3, 0.1, 1e300, 5e-324, -math.inf, math.nan]))
    path = tmp_path / "curve.json"
    curve.save(path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    loaded = LRCurve.load(path)
    np.testing.assert_array_equal(loaded.lr, curve.lr)
    np.testing.assert_array_equal(loaded.loss, curve.loss)
    assert (loaded.initial_loss, loaded.stopped, loaded.stop_reason) == (2.0, "diverged", "diverged at 1")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "clrfast.LRCurve/1", "lr": [1]}', '{"format": "other"}'])
def test_loading_refuses_files_without_a_curve(tmp_path, text):
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"curve\.json does not hold a saved LRCurve"):
        LRCurve.load(path)


@pytest.mark.parametrize("initial_loss", [math.inf, -math.inf, math.nan])
def test_loading_refuses_a_first_loss_that_is_not_finite(tmp_path, initial_loss):
    path = tmp_path / "curve.json"
    make_curve(initial_loss=initial_loss).save(path)
    with pytest.raises(ValueError, match=r"\(initial_loss: got .*; give a finite number\)"):
        LRCurve.load(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 10**-0.5),
        ({"stopped": "completed"}, 10**-0.5),
        ({"loss": np.array([2.0, 1.9, 1.5, 1.0, 0.9, 0.8, 0.9]), "stopped": "completed"}, None),
        ({"loss": np.array([2.0, 1.9, 1.5, 1.0, 0.9, 0.8, math.nan]), "stopped": "non-finite"}, 1.0),
        ({"loss": np.array([2.0, 1.9, 1.5, 1.0, 0.9, 0.8, 1.2])}, 1.0),
    ],
)
def test_divergence_lr_is_where_the_smoothed_loss_stays_above_its_past(changes, expected):
    assert make_curve(**changes).divergence_lr == (None if expected is None else pytest.approx(expected))


def test_divergence_lr_is_not_moved_by_noise():
    """The loss of a trained model is noise up to the edge of stability, and its minimum may be anywhere before."""
    lr = np.geomspace(1e-7, 2, 100)
    for seed in range(20):
        loss = 0.1 + 0.02 * np.random.default_rng(seed).normal(size=100) + (lr / 0.5) ** 2
        assert make_curve(lr=lr, loss=loss).divergence_lr > 0.02


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loss": np.ones(3)}, r"lr, loss: got shapes \(7,\) and \(3,\)"),
        ({"stopped": "foo"}, "stopped: got 'foo'"),
    ],
)
def test_a_curve_refuses_arrays_and_reasons_that_do_not_fit(changes, named):
    with pytest.raises(ValueError, match=named):
        make_curve(**changes)


def test_a_curve_is_frozen():
    with pytest.raises(AttributeError):
        make_curve().initial_loss = 1.0


@pytest.mark.parametrize(
    ("climb", "stopped"), [([50.0], "diverged"), ([3.0, math.inf], "non-finite"), ([3.0, 9.0], "diverged")]
)
def test_stability_lr_is_known_where_the_loss_explodes_within_two_steps(climb, stopped):
    loss = np.concatenate((np.linspace(2.0, 1.0, 30), climb))
    lr = np.geomspace(1e-4, 1.0, len(loss))
    curve = LRCurve(lr, loss, 2.0, stopped, "made by hand", momentum=0.9)
    # The growth from the minimum itself is unknown; 9 is 4 times as far above the minimum as 3.
    known = lr[-1] * 3.8 / (1.9 + 2.0 + 0.45) if climb == [3.0, 9.0] else lr[29]
    assert curve.stability_lr == pytest.approx(known)


def test_fewer_than_five_fitted_points_do_not_count_as_a_fit():
    loss = np.concatenate((np.linspace(2.0, 0.1, 50), np.zeros(4)))
    assert make_curve(lr=np.geomspace(1e-3, 1, 54), loss=loss, stopped="completed").fitted_from is None


@pytest.mark.parametrize(("initial", "lowest"), [(-2.0, -2.0), (2.0, -1.0), (2.0, -0.03)])
def test_a_loss_that_can_be_negative_shows_no_fit(initial, lowest):
    loss = np.concatenate((np.linspace(initial, lowest, 30), np.linspace(lowest, 0.0, 20), np.zeros(10)))
    lr = np.geomspace(1e-3, 1, len(loss))
    assert make_curve(lr=lr, loss=loss, initial_loss=initial, stopped="completed").fitted_from is None
    positive = np.maximum(loss, -1e-3)  # a rounding error
    fitted_from = make_curve(lr=lr, loss=positive, initial_loss=abs(initial), stopped="completed").fitted_from
    assert fitted_from is not None


def test_an_extended_curve_equals_a_range_test_up_to_that_rate():
    model, batches, loss_fn = batch_norm_net(), batches_of(*[16] * 5), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = full_state(model, optimizer)
    ramp = {"min_lr": 1e-4, "steps": 10}
    run = {"optimizer": optimizer, "accumulate": 2, "val_loader": batches[:1], "metric": "accuracy"}
    curve = range_test(model, loss_fn, batches, max_lr=1e-3, **ramp, **run)
    assert curve.stopped == "completed"
    assert "curve.extended(0.01, model, loss_fn, loader)" in curve.stop_reason
    longer = curve.extended(0.5, model, loss_fn, batches, **run)
    same = range_test(model, loss_fn, batches, max_lr=0.5, **ramp, **run)
    np.testing.assert_array_equal(longer.lr, same.lr)
    np.testing.assert_array_equal(longer.loss, same.loss)
    np.testing.assert_array_equal(longer.metric, same.metric)
    assert longer.metric_name == "accuracy"
    assert longer.extended(1.0, model, loss_fn, batches, **run).lr[-1] == pytest.approx(1.0)
    assert full_state(model, optimizer) == before
    with pytest.raises(ValueError, match=r"max_lr: got 0\.0005"):
        curve.extended(0.0005, model, loss_fn, batches)
    with pytest.raises(ValueError, match=r"max_lr: got Task.*; give a finite number above 0"):
        curve.extended(Task(model, loss_fn, batches), loss_fn)


def test_a_curve_is_extended_with_a_task():
    model, batches, loss_fn = batch_norm_net(), batches_of(*[16] * 5), nn.CrossEntropyLoss()
    ramp = {"min_lr": 1e-4, "steps": 10, "spacing": "linear", "repeats": 2}
    longer = range_test(model, loss_fn, batches, max_lr=1e-3, **ramp).extended(0.5, Task(model, loss_fn, batches))
    same = range_test(model, loss_fn, batches, max_lr=0.5, **ramp)
    np.testing.assert_array_equal(longer.loss, same.loss)
    np.testing.assert_array_equal(longer.repeats[0].loss, same.repeats[0].loss)


def test_a_curve_keeps_neither_model_nor_data_nor_optimizer_alive():
    def measured():
        model, loss_fn = batch_norm_net(), nn.CrossEntropyLoss()
        loader = DataLoader(batches_of(*[16] * 5), batch_size=None)
        optimizer = clrfast.SGD(model.parameters(), lr=0.1)

        def metric(outputs, targets):
            return (outputs * model[3].bias).mean()

        run = {"optimizer": optimizer, "steps": 10, "val_loader": loader, "metric": metric}
        curve = range_test(model, loss_fn, loader, **run)
        return curve, [weakref.ref(each) for each in (model, model[0].weight, loss_fn, loader, optimizer, metric)]

    curve, held = measured()
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)
    assert len(curve.loss) == 10


@pytest.mark.parametrize("way", ["file", "pickle", "copy"])
def test_metric_and_repeats_survive_saving_pickling_and_copying(way, tmp_path):
    model, batches = batch_norm_net(), batches_of(*[16] * 5)
    curve = range_test(
        model,
        nn.CrossEntropyLoss(),
        batches,
        min_lr=1e-3,
        max_lr=1.0,
        steps=20,
        val_loader=batches[:2],
        metric=mean_of_outputs,
        repeats=2,
    )
    answer = curve.suggest("minimum_tenth")
    if way == "file":
        curve.save(tmp_path / "curve.json")
        arrived = LRCurve.load(tmp_path / "curve.json")
    else:
        arrived = pickle.loads(pickle.dumps(curve)) if way == "pickle" else copy.deepcopy(curve)
    assert arrived.metric_name == "mean_of_outputs"
    for here, there in zip((curve, *curve.repeats), (arrived, *arrived.repeats), strict=True):
        for name in ("lr", "loss", "metric"):
            np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
            assert getattr(there, name).dtype == np.float64
        assert (there.initial_loss, there.stopped, there.stop_reason) == (
            here.initial_loss,
            here.stopped,
            here.stop_reason,
        )
    assert arrived.suggest("minimum_tenth") == answer
    with pytest.raises(ValueError, match="extended: this curve was loaded from a file or copied"):
        arrived.extended(10.0, model, nn.CrossEntropyLoss(), batches)


def test_a_log_has_the_points_of_the_curve_and_the_suggestion_once():
    log, metric = Log(), np.array([math.nan, 0.5, math.nan, 0.7, math.nan, 0.4, math.nan])
    curve = make_curve(metric=metric, metric_name="validation loss")
    curve.log_to(log)
    assert [step for _, step in log.rows] == list(range(7))
    for name, values in (("lr", curve.lr), ("loss", curve.loss), ("smoothed_loss", curve.smoothed)):
        assert [row[f"lr_range_test/{name}"] for row, _ in log.rows] == values.tolist()
    assert [row.get("lr_range_test/validation_loss") for row, _ in log.rows] == [None, 0.5, None, 0.7, None, 0.4, None]
    suggested = {
        step: row["lr_range_test/suggested_lr"] for row, step in log.rows if "lr_range_test/suggested_lr" in row
    }
    assert suggested == {0: curve.suggest().max_lr}


def test_a_log_of_a_curve_without_a_suggestion_has_none():
    log = Log()
    make_curve(loss=np.full(7, 2.0), stopped="completed", stop_reason="").log_to(log)
    assert len(log.rows) == 7
    assert not any("lr_range_test/suggested_lr" in row for row, _ in log.rows)


def test_a_curve_and_its_trials_have_one_line_each():
    trials = Trials(20, np.array([0.1, 0.2]), np.ones(2), np.ones(2), 2.0)
    assert repr(trials) == "Trials(1cycles of 20 steps, 2 points, lr 0.1 to 0.2)"
    curve = replace(make_curve(), trials=(trials,))
    points = f"{len(curve.lr)} points, lr {curve.lr[0]:.3g} to {curve.lr[-1]:.3g}"
    assert repr(curve) == f"LRCurve({points}, 1 length of trials: {curve.stop_reason})"
