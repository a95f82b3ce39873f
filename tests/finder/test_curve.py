import json
import math

import numpy as np
import pytest

from clrfast import LRCurve, NoSuggestionError
from clrfast.finder._curve import smoothed
from tests.helpers.curves import make_curve


def test_json_round_trip_keeps_every_bit_and_non_finite_values(tmp_path):
    curve = make_curve(loss=np.array([2.0, 1 / 3, 0.1, 1e300, 5e-324, -math.inf, math.nan]))
    path = tmp_path / "curve.json"
    curve.save(path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    loaded = LRCurve.load(path)
    np.testing.assert_array_equal(loaded.lr, curve.lr)
    np.testing.assert_array_equal(loaded.loss, curve.loss)
    assert (loaded.initial_loss, loaded.stopped, loaded.stop_reason) == (2.0, "diverged", "diverged at 1")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "clrfast.LRCurve/1", "lr": [1]}', '{"format": "other"}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"curve\.json does not hold a saved LRCurve"):
        LRCurve.load(path)


def test_smoothing_has_no_lag_and_keeps_lines():
    line = np.linspace(5.0, 1.0, 100)
    np.testing.assert_allclose(smoothed(line)[20:-20], line[20:-20], rtol=1e-12)
    valley = np.abs(np.arange(101) - 60.0)
    assert smoothed(valley).argmin() == 60


def test_smoothing_averages_noise():
    noise = np.random.default_rng(0).normal(size=1000)
    assert smoothed(noise).std() < 0.2


def test_smoothing_leaves_out_what_is_not_finite():
    result = smoothed([1.0, 1.0, math.inf, 1.0, math.nan])
    np.testing.assert_allclose(result, [1.0, 1.0, math.nan, 1.0, math.nan])


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
def test_divergence_lr(changes, expected):
    assert make_curve(**changes).divergence_lr == (None if expected is None else pytest.approx(expected))


def test_noise_is_no_divergence():
    """A trained model's loss is nothing but noise up to the edge, and its minimum may be anywhere before it."""
    lr = np.geomspace(1e-7, 2, 100)
    for seed in range(20):
        loss = 0.1 + 0.02 * np.random.default_rng(seed).normal(size=100) + (lr / 0.5) ** 2
        assert make_curve(lr=lr, loss=loss).divergence_lr > 0.02


def test_suggest_takes_the_smoothed_curve_and_a_known_method():
    curve = make_curve()
    assert curve.suggest().method == "edge"
    assert curve.suggest("minimum_tenth").method == "minimum_tenth"
    with pytest.raises(ValueError, match="method: got 'best'"):
        curve.suggest("best")


def test_a_fall_within_the_noise_is_no_answer():
    rng = np.random.default_rng(0)
    lr = np.geomspace(1e-7, 10, 100)
    refused = 0
    for seed in range(100):
        loss = 2.0 + 0.01 * np.random.default_rng(seed).normal(size=100)
        try:
            make_curve(lr=lr, loss=loss, stopped="completed").suggest()
        except NoSuggestionError:
            refused += 1
    assert refused >= 90
    fall = 2.0 - 1.5 / (1 + (1e-2 / lr) ** 2) + 0.2 * rng.normal(size=100)
    assert 1e-3 < make_curve(lr=lr, loss=fall, stopped="completed").suggest("steepest").max_lr < 0.1


def test_noise_before_the_descent_is_not_taken_for_it():
    """The steepest step down of a noisy start must not win over the descent itself."""
    lr = np.geomspace(1e-7, 10, 100)
    for seed in range(10):
        noise = np.where(lr < 1e-4, 1.0, 0.05) * np.random.default_rng(seed).normal(size=100)
        loss = 10 - 4 / (1 + (1e-2 / lr) ** 0.7) + noise
        assert make_curve(lr=lr, loss=loss, initial_loss=10.0, stopped="completed").suggest("steepest").max_lr > 1e-4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loss": np.ones(3)}, r"lr, loss: got shapes \(7,\) and \(3,\)"),
        ({"stopped": "foo"}, "stopped: got 'foo'"),
    ],
)
def test_bad_records_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        make_curve(**changes)


def test_it_is_frozen():
    with pytest.raises(AttributeError):
        make_curve().initial_loss = 1.0


@pytest.mark.parametrize(
    ("climb", "stopped"), [([50.0], "diverged"), ([3.0, math.inf], "non-finite"), ([3.0, 9.0], "diverged")]
)
def test_an_explosion_within_a_step_or_two_leaves_a_stability_limit(climb, stopped):
    loss = np.concatenate((np.linspace(2.0, 1.0, 30), climb))
    lr = np.geomspace(1e-4, 1.0, len(loss))
    curve = LRCurve(lr, loss, 2.0, stopped, "made by hand", momentum=0.9)
    # No growth is known from the minimum itself, and 9 is 4 times as far above it as 3.
    known = lr[-1] * 3.8 / (1.9 + 2.0 + 0.45) if climb == [3.0, 9.0] else lr[29]
    assert curve.stability_lr == pytest.approx(known)


def test_rates_past_a_perfect_fit_say_nothing():
    """Once the loss is next to nothing, a sweep may go on for ever: its end is no mark of stability."""
    found = []
    for top in (1.0, 10.0, 100.0):
        lr = np.geomspace(1e-5, top, 200)
        loss = np.where(lr < 0.1, 2.0 / (1 + (lr / 0.01) ** 2), 0.0) + np.where(lr < 0.1, 0.02, 0.0)
        curve = make_curve(lr=lr, loss=loss, stopped="completed")
        assert curve.lr[curve.fitted_from - 1] < 0.1 <= curve.lr[curve.fitted_from]
        suggestion = curve.suggest()
        assert "there the data are fitted" in suggestion.reason
        found.append(suggestion.max_lr)
    assert max(found) < 1.5 * min(found)


def test_a_fit_of_the_last_few_points_is_none_yet():
    loss = np.concatenate((np.linspace(2.0, 0.1, 50), np.zeros(4)))
    assert make_curve(lr=np.geomspace(1e-3, 1, 54), loss=loss, stopped="completed").fitted_from is None
