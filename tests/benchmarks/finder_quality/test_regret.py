"""Regret on an oracle that is written by hand."""

import math

import numpy as np
import pytest

from benchmarks.finder_quality.regret import RegretCurve
from benchmarks.oracle import Oracle

LOSSES = [[9.9, 5.0, 1.0, 1.0, math.inf], [10.1, 5.0, 1.0, 3.0, 2.0]]
ORACLE = Oracle(100, [1e-3, 1e-2, 1e-1, 1.0, 10.0], [0.0], [[[x] for x in seed] for seed in LOSSES], [10.0, 10.0])


@pytest.fixture
def curve():
    return RegretCurve(ORACLE)


def test_regret_is_0_at_the_best_rate_and_1_without_training(curve):
    np.testing.assert_allclose(curve.scores, [9.95, 5.0, 1.0, 2.0, 6.0])
    np.testing.assert_allclose(curve.regrets, [8.95 / 9, 4 / 9, 0.0, 1 / 9, 5 / 9])
    assert curve.best_lr == 0.1


def test_regret_is_linear_in_log_lr_and_constant_beyond_the_grid(curve):
    assert curve.regret(10**-1.5) == pytest.approx(2 / 9)
    assert curve.regret(1e-9) == curve.regrets[0]
    assert curve.regret(1e9) == curve.regrets[-1]


def test_a_rate_is_divergent_where_the_next_grid_rate_above_fails_with_any_seed(curve):
    assert curve.divergence_lr == 10.0
    assert not curve.is_divergent(1.0)
    assert curve.is_divergent(1.1)
    assert curve.is_divergent(1e9)


def test_a_loss_above_its_start_below_the_best_rate_is_no_divergence(curve):
    assert not curve.is_divergent(1e-4)


def test_without_any_divergence_there_is_no_divergent_rate():
    losses = [[[2.0], [1.0]]]
    assert RegretCurve(Oracle(1, [0.1, 1.0], [0.0], losses, [3.0])).divergence_lr is None


def test_the_near_optimal_range_ends_at_the_first_rate_with_too_much_regret():
    losses = [[[x] for x in (1.0, 5.0, 1.1, 1.0, 1.2, 5.0)]]
    rates = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    found = RegretCurve(Oracle(1, rates, [0.0], losses, [10.0]))
    assert found.near_optimal_range() == (1.0, 1.0)  # argmin takes the first of equal scores
    losses[0][0] = [9.0]
    assert RegretCurve(Oracle(1, rates, [0.0], losses, [10.0])).near_optimal_range() == (3.0, 5.0)
