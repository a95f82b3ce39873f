import math

import numpy as np
import pytest

from clrfast.recipe._gaussian_process import FLOOR, Surface, heights

PLACES = np.array([[0.0, -3.0], [0.5, -3.0], [0.0, -2.0], [-1.0, -4.0]])
VALUES = np.array([-1.0, -2.5, 0.0, -0.5])


def test_heights_are_logarithms_of_what_is_missing_of_the_fall():
    found = heights(np.array([1.0, 1.5, 3.0, 7.0, math.inf]), 3.0)
    assert found == pytest.approx(np.log([FLOOR, 0.25 + FLOOR, 1 + FLOOR, 1 + FLOOR, 1 + FLOOR]))


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (1.0, -50.0), (1e-3, 7.0)])
def test_heights_know_no_unit_and_no_offset(scale, shift):
    losses = np.array([1.0, 1.5, 2.0])
    assert heights(scale * losses + shift, scale * 3.0 + shift) == pytest.approx(heights(losses, 3.0))


def test_it_goes_by_what_was_met_and_knows_little_far_away():
    surface = Surface(PLACES, VALUES)
    mean, spread = surface(PLACES)
    assert mean.argsort().tolist() == VALUES.argsort().tolist()
    (far,), (wide,) = surface(np.array([[30.0, 30.0]]))
    assert wide > 1.5 * spread.max()
    assert VALUES.min() < far < VALUES.max()
    assert surface(PLACES + 1e-6)[0] == pytest.approx(mean, abs=1e-5)  # no jumps


def test_places_count_by_their_distances_alone():
    asked = np.array([[0.3, -2.5], [1.0, -1.0]])
    expected = np.stack(Surface(PLACES, VALUES)(asked))
    for moved in (lambda places: places + 5, np.negative):
        assert np.stack(Surface(moved(PLACES), VALUES)(moved(asked))) == pytest.approx(expected)


def test_improvement_is_the_mean_of_what_draws_are_below():
    surface = Surface(PLACES, VALUES)
    asked = np.array([[0.5, -2.5], [1.5, -3.5], [-3.0, -3.0]])
    mean, spread = surface(asked)
    draws = mean + spread * np.random.default_rng(0).standard_normal((400_000, 3))
    below = np.maximum(surface(PLACES)[0].min() - draws, 0).mean(axis=0)
    # The mean of 400,000 draws varies by up to 7e-4.
    assert surface.improvement(asked) == pytest.approx(below, abs=3e-3)


def test_one_value_says_to_look_elsewhere():
    gain = Surface(PLACES[:1], VALUES[:1]).improvement(PLACES)
    assert gain.argmin() == 0
    assert (gain > 0).all()
