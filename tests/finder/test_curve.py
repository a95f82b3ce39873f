"""The record of a range test."""

import json
import math

import numpy as np
import pytest

from clrfast import LRCurve
from tests.helpers.curves import make_curve


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
