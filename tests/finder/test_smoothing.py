"""Smoothing and thinning of losses."""

import math
import tracemalloc

import numpy as np
import pytest

from clrfast.finder import _smoothing as noise_module
from clrfast.finder._smoothing import smooth, thin


def test_smoothing_is_the_weighted_mean_around_every_finite_value():
    loss = np.random.default_rng(0).normal(size=200)
    loss[[0, 50, 51, 199]] = math.nan, math.inf, -math.inf, math.nan
    finite, index = np.isfinite(loss), np.arange(200)
    for i in index[finite]:
        weights = np.exp(-(((i - index[finite]) / 4) ** 2) / 2)
        assert smooth(loss)[i] == pytest.approx(weights @ loss[finite] / weights.sum(), abs=1e-12)
    assert np.isnan(smooth(loss)[~finite]).all()


def test_smoothing_a_long_record_takes_memory_in_proportion_to_its_length():
    loss = np.random.default_rng(0).normal(size=4000)
    tracemalloc.start()
    smooth(loss)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * loss.nbytes  # one weight for each pair of points would be 4000 times that


def test_smoothing_by_fourier_transforms_equals_the_sum_of_products(monkeypatch):
    loss = np.random.default_rng(0).normal(size=3000)
    loss[[5, 700]] = math.nan, math.inf
    directly = smooth(loss)
    monkeypatch.setattr(noise_module, "MAX_DIRECT_PRODUCTS", 0)
    np.testing.assert_allclose(smooth(loss), directly, atol=1e-12)


def test_a_curve_of_ten_thousand_points_is_not_thinned():
    lr, loss = np.geomspace(1e-3, 1, 10_000), np.ones(10_000)
    assert thin(lr, loss)[1] is loss


def test_smoothing_has_no_lag_and_keeps_straight_lines():
    line = np.linspace(5.0, 1.0, 100)
    np.testing.assert_allclose(smooth(line)[20:-20], line[20:-20], rtol=1e-12)
    valley = np.abs(np.arange(101) - 60.0)
    assert smooth(valley).argmin() == 60


def test_smoothing_reduces_noise_by_a_factor_of_five():
    noise = np.random.default_rng(0).normal(size=1000)
    assert smooth(noise).std() < 0.2


def test_smoothing_leaves_out_values_that_are_not_finite():
    result = smooth([1.0, 1.0, math.inf, 1.0, math.nan])
    np.testing.assert_allclose(result, [1.0, 1.0, math.nan, 1.0, math.nan])
