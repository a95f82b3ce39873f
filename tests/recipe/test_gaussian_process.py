import math

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from clrfast.recipe._gaussian_process import LENGTH_SCALES, NOISE, REGRET_FLOOR, GaussianProcess, log_regret

POINTS = np.array([[0.0, -3.0], [0.5, -3.0], [0.0, -2.0], [-1.0, -4.0]])
VALUES = np.array([-1.0, -2.5, 0.0, -0.5])


def test_log_regret_is_the_log_of_the_missing_fraction_of_the_fall():
    found = log_regret(np.array([1.0, 1.5, 3.0, 7.0, math.inf]), 1.0, 3.0)
    assert found == pytest.approx(np.log([REGRET_FLOOR, 0.25 + REGRET_FLOOR, *[1 + REGRET_FLOOR] * 3]))


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (1.0, -50.0), (1e-3, 7.0)])
def test_log_regret_depends_on_neither_unit_nor_offset_of_the_loss(scale, shift):
    losses = np.array([1.0, 1.5, 2.0])
    assert log_regret(scale * losses + shift, scale + shift, scale * 3.0 + shift) == pytest.approx(
        log_regret(losses, 1.0, 3.0)
    )


@pytest.mark.parametrize("n", [1, 4, 30])
def test_the_posterior_equals_that_of_scikit_learn(n):
    random = np.random.default_rng(n)
    points, values = random.normal(size=(n, 2)) * (1.0, 2.0), random.normal(size=n)
    asked = np.concatenate((points, random.normal(size=(20, 2)) * 3))
    process = GaussianProcess(points, values)
    kernel = process.variance * Matern(LENGTH_SCALES, nu=2.5) + WhiteKernel(process.variance * NOISE**2)
    reference = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(points, values - process.mean)
    expected_mean, expected_std = reference.predict(asked, return_std=True)
    mean, std = process.posterior(asked)
    np.testing.assert_allclose(mean - process.mean, expected_mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(std**2 + process.variance * NOISE**2, expected_std**2, rtol=1e-6)


def test_the_posterior_orders_observed_points_and_is_wide_far_away():
    process = GaussianProcess(POINTS, VALUES)
    mean, std = process.posterior(POINTS)
    assert mean.argsort().tolist() == VALUES.argsort().tolist()
    (far,), (wide,) = process.posterior(np.array([[30.0, 30.0]]))
    assert wide > 1.5 * std.max()
    assert VALUES.min() < far < VALUES.max()
    assert process.posterior(POINTS + 1e-6)[0] == pytest.approx(mean, abs=1e-5)  # no jumps


def test_only_distances_between_points_count():
    asked = np.array([[0.3, -2.5], [1.0, -1.0]])
    expected = np.stack(GaussianProcess(POINTS, VALUES).posterior(asked))
    for moved in (lambda points: points + 5, np.negative):
        assert np.stack(GaussianProcess(moved(POINTS), VALUES).posterior(moved(asked))) == pytest.approx(expected)


def test_expected_improvement_is_the_mean_improvement_of_posterior_draws():
    process = GaussianProcess(POINTS, VALUES)
    asked = np.array([[0.5, -2.5], [1.5, -3.5], [-3.0, -3.0]])
    mean, std = process.posterior(asked)
    draws = mean + std * np.random.default_rng(0).standard_normal((400_000, 3))
    improvement = np.maximum(-2.0 - draws, 0).mean(axis=0)
    # The mean of 400,000 draws varies by up to 7e-4.
    assert process.expected_improvement(asked, -2.0) == pytest.approx(improvement, abs=3e-3)


def test_after_one_observation_the_improvement_is_expected_elsewhere():
    improvement = GaussianProcess(POINTS[:1], VALUES[:1]).expected_improvement(POINTS, VALUES[0])
    assert improvement.argmin() == 0
    assert (improvement > 0).all()
