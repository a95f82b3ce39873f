"""The interval of a suggestion, and the reason that belongs to it."""

import re
from dataclasses import replace

import numpy as np
import pytest

from clrfast import LRCurve
from clrfast.finder import clr_bounds
from clrfast.finder._bootstrap import bootstrap
from clrfast.finder._suggestion import Suggestion
from clrfast.finder._suggestion_rules import RULES
from tests.helpers.curves import CLEAN, descent, noisy, stopped_curve


def test_more_noise_widens_the_interval():
    widths = [
        np.log(answer.high / answer.low)
        for size in (0.01, 0.3)
        if (answer := stopped_curve(noisy(CLEAN, size)).suggest("steepest"))
    ]
    assert widths[1] > 2 * widths[0]


def test_the_median_over_resampled_curves_varies_less_than_a_single_answer():
    curves = [stopped_curve(noisy(CLEAN, 0.15, seed)) for seed in range(20)]
    plain = [np.log(RULES["minimum_tenth"](curve.lr, curve.smoothed).max_lr) for curve in curves]
    resampled = [np.log(bootstrap(RULES["minimum_tenth"], [(curve.lr, curve.bounded)]).max_lr) for curve in curves]
    assert np.std(resampled) < 0.9 * np.std(plain)


def test_repeats_count_as_much_as_the_first_ramp():
    curves = [stopped_curve(noisy(CLEAN, 0.1, seed)) for seed in range(3)]
    one = LRCurve(curves[0].lr, curves[0].loss, 2.0, "diverged", "", repeats=tuple(curves[1:]))
    answers = [curve.suggest().max_lr for curve in curves]
    assert min(answers) <= one.suggest().max_lr <= max(answers)
    assert one.suggest().high >= np.median([curve.suggest().high for curve in curves]) * 0.9


@pytest.mark.parametrize("repeats", [0, 1, 4])
def test_the_reason_names_the_rate_that_is_returned(repeats):
    """The rate is a fifth of the edge that it names, even if the ramps differ by factors."""
    first, *others = (stopped_curve(noisy(descent(10.0**-k), 0.1, k)) for k in range(1, repeats + 2))
    suggestion = replace(first, repeats=tuple(others)).suggest()
    (of,) = re.findall(r"= ([0-9.e-]+) / 5;", suggestion.reason)
    assert float(of) / 5 == pytest.approx(suggestion.max_lr, rel=6e-3)  # three digits
    assert ("of ramp" in suggestion.reason) == (repeats > 0)


def test_the_reason_names_the_bounds_that_are_returned():
    lr = np.linspace(0.004, 0.132, 33)
    score = 0.1 + 0.85 * (1 - np.exp(-(lr - lr[0]) / 0.01)) + np.random.default_rng(1).normal(0, 0.03, 33)
    bounds = bootstrap(clr_bounds, [(lr, score)])
    assert f"rise at {bounds.base_lr:.3g} and" in bounds.reason
    assert f" at {bounds.max_lr:.3g};" in bounds.reason


@pytest.mark.parametrize("max_lr", np.geomspace(1e-4, 10.0, 50).tolist())
def test_an_answer_lies_in_its_interval_if_all_resampled_answers_are_equal(max_lr):
    lr, loss = np.geomspace(1e-5, 1.0, 30), np.linspace(2.0, 1.0, 30)
    always = Suggestion(max_lr, max_lr / 4, max_lr, max_lr, "always", "always")
    found = bootstrap(lambda *_: always, [(lr, loss)])
    assert found.low <= found.max_lr == max_lr <= found.high
