"""Whole curves: the suggestion of ``LRCurve.suggest``, or the reason of its refusal."""

import math

import numpy as np
import pytest

from clrfast import LRCurve, NoSuggestionError
from clrfast.finder._metrics import VALIDATION_LOSS
from clrfast.finder._suggestion_rules import RULES
from tests.helpers.curves import CLEAN, RATES, descent, explosion, make_curve, noisy, stopped_curve

BROKEN = np.where(RATES < 1.0, descent(1e-2), math.nan)


@pytest.mark.parametrize(
    ("loss", "start", "low", "high"),
    [
        (CLEAN, 2.0, 0.05, 0.2),
        (noisy(CLEAN, 0.05), 2.0, 0.05, 0.2),
        (noisy(CLEAN, 0.2), 2.0, 0.04, 0.25),
        (BROKEN, 2.0, 0.05, 0.2),  # NaN from 1 on
        (CLEAN - 10.0, -8.0, 0.05, 0.2),  # negative
        (CLEAN - 1.5, 0.5, 0.05, 0.2),  # through zero
        (1e6 * CLEAN, 2e6, 0.05, 0.2),
        (descent(1e-4, 0.3) + descent(1e-1, 1.0, 0.0) + explosion(3.0), 2.0, 0.15, 0.6),  # two valleys
        (CLEAN + 3 * np.exp(-(np.log10(RATES / 0.06) ** 2) / 0.01), 2.0, 0.02, 0.2),  # a spike that it recovers from
        (descent(1e-2), 2.0, 0.3, 2.1),  # never diverges: a fifth of the end of the ramp
    ],
    ids=["clean", "noisy", "noisier", "nan", "negative", "zero", "unit", "valleys", "spike", "no end"],
)
def test_suggestions_lie_where_the_shape_of_the_curve_puts_them(loss, start, low, high):
    suggestion = stopped_curve(loss, start).suggest()
    assert low < suggestion.max_lr < high
    assert suggestion.low <= suggestion.max_lr <= suggestion.high
    assert 0 < suggestion.base_lr < suggestion.max_lr
    assert suggestion.method == "edge"


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (np.full(100, 2.0), "never falls"),
        (noisy(np.full(100, 2.0), 0.1), "never falls|too little"),
        (2.0 + explosion(1e-7), "never falls: it is lowest at 1e-07 and diverges"),
        (2.0 + explosion(1e-3), "never falls"),
        (np.where(RATES < 1.5e-7, 2.0, math.nan), "only [0-4] finite points"),
    ],
    ids=["flat", "noise", "at once", "no descent", "nan at once"],
)
def test_curves_without_a_descent_are_refused_with_the_reason(loss, reason):
    with pytest.raises(NoSuggestionError, match=reason):
        stopped_curve(loss).suggest()


@pytest.mark.parametrize("n", [6, 10, 15, 20])
def test_a_few_points_of_noise_are_refused(n):
    lr, refused = np.geomspace(1e-5, 1, n), 0
    for seed in range(100):
        loss = 2.0 + 0.1 * np.random.default_rng(seed).normal(size=n)
        try:
            LRCurve(lr, loss, 2.0, "completed", "").suggest()
        except NoSuggestionError:
            refused += 1
    assert refused >= 75


def test_five_points_are_enough_and_four_are_not():
    lr, loss = np.geomspace(0.1, 10, 5), np.array([2.0, 1.5, 1.0, 0.9, 5.0])
    LRCurve(lr, loss, 2.0, "diverged", "").suggest()
    with pytest.raises(NoSuggestionError, match="only 4 finite points, fewer than 5: give more steps"):
        LRCurve(lr[:4], loss[:4], 2.0, "completed", "").suggest()


def test_rates_that_are_too_far_apart_give_no_answer():
    loss = np.array([2.0, 1.9, 1.5, 1.0, 0.9, 5.0])
    LRCurve(4.0 ** np.arange(6), loss, 2.0, "diverged", "").suggest()
    with pytest.raises(NoSuggestionError, match=r"neighbouring rates differ by up to a factor of 4\.1 \(at "):
        LRCurve(4.1 ** np.arange(6), loss, 2.0, "diverged", "").suggest()
    uneven = np.array([0.0005, 0.001, 0.044, 0.1, 0.2, 0.4])
    with pytest.raises(NoSuggestionError, match=r"a factor of 44 \(at 0\.001\), .*; take more steps \(15 rates from"):
        LRCurve(uneven, loss, 2.0, "diverged", "").suggest()


@pytest.mark.parametrize("first", [[1e-7, 0.1], [1e-7], [0.1]], ids=["whole", "second missing", "first missing"])
def test_a_linear_ramp_may_begin_far_below_its_second_rate(first):
    lr = np.array([*first, 0.2, 0.3, 0.4, 0.5, 0.6])
    loss = np.array([2.0, 1.9, 1.5, 1.2, 1.0, 0.9, 5.0])[: len(lr)]
    assert LRCurve(lr, loss, 2.0, "completed", "").suggest().max_lr > 0


def test_the_rates_at_which_the_metric_was_measured_must_be_close():
    lr = 2.0 ** np.arange(18)
    loss = np.append(np.linspace(2.0, 1.0, 17), 5.0)

    def measured(every):
        metric = np.where(np.arange(18) % every == every - 1, loss, math.nan)
        return LRCurve(lr, loss, 2.0, "completed", "", metric=metric, metric_name=VALIDATION_LOSS)

    measured(2).suggest("steepest", of="metric")
    measured(3).suggest("steepest")
    with pytest.raises(NoSuggestionError, match=r"a factor of 8 \(at 4\), .*; take a smaller val_every, or more steps"):
        measured(3).suggest("steepest", of="metric")


@pytest.mark.parametrize("method", sorted(set(RULES) - {"clr_bounds"}))
def test_every_rule_suggests_a_rate_between_descent_and_divergence(method):
    suggestion = stopped_curve(noisy(CLEAN, 0.05)).suggest(method)
    assert 1e-3 < suggestion.max_lr < 0.5
    assert suggestion.method == method


def long_curve(n):
    lr = np.geomspace(1e-7, 1.5, n)
    loss = 2.3 - 1.5 / (1 + 1e-2 / lr) + (lr / 0.8) ** 4
    return LRCurve(lr, noisy(loss, 0.05), 2.3, "diverged", "made by hand")


@pytest.mark.parametrize("method", ["edge", "steepest", "valley", "slide", "minimum_tenth"])
def test_a_million_points_suggest_the_rate_of_a_thousand(method):
    short, long = (long_curve(n).suggest(method).max_lr for n in (1_000, 1_000_000))
    assert 0.2 < long / short < 5


def test_suggest_takes_the_name_of_a_rule():
    curve = make_curve()
    assert curve.suggest().method == "edge"
    assert curve.suggest("minimum_tenth").method == "minimum_tenth"
    with pytest.raises(ValueError, match="method: got 'best'"):
        curve.suggest("best")


def test_a_fall_within_the_noise_is_refused():
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


def test_the_steepest_step_of_a_noisy_start_is_not_taken_for_the_descent():
    lr = np.geomspace(1e-7, 10, 100)
    for seed in range(10):
        noise = np.where(lr < 1e-4, 1.0, 0.05) * np.random.default_rng(seed).normal(size=100)
        loss = 10 - 4 / (1 + (1e-2 / lr) ** 0.7) + noise
        assert make_curve(lr=lr, loss=loss, initial_loss=10.0, stopped="completed").suggest("steepest").max_lr > 1e-4


def test_points_past_a_perfect_fit_do_not_move_the_suggestion():
    """Once the loss is next to nothing, a ramp can continue for ever, and its end says nothing about stability."""
    found = []
    for top in (1.0, 10.0, 100.0):
        lr = np.geomspace(1e-5, top, 200)
        loss = np.where(lr < 0.1, 2.0 / (1 + (lr / 0.01) ** 2), 0.0) + np.where(lr < 0.1, 0.02, 0.0)
        curve = make_curve(lr=lr, loss=loss, stopped="completed")
        assert curve.lr[curve.fitted_from - 1] < 0.1 <= curve.lr[curve.fitted_from]
        suggestion = curve.suggest()
        assert "the data are fitted there" in suggestion.reason
        found.append(suggestion.max_lr)
    assert max(found) < 1.5 * min(found)
