"""When a loss has diverged."""

import math

import numpy as np
import pytest

from clrfast.finder._divergence import find_divergence
from clrfast.finder._smoothing import estimate_noise


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        # The limit is 2 + 3 * 1; the median of three exceeds it at the second loss above it.
        ([2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0, 4.0, 5.1, 5.2], 13),
        ([2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0, 9.0, 1.0, 1.0], None),  # one outlier does not
        ([-2.0, -2.1, -2.2, -2.3, -2.4, -2.5, -2.6, -2.7, -2.8, -2.9, -3.0, 0.0, 1.1, 1.2], 13),  # 4 lower
        ([2.0, 1.0, 1e-3, 1.0, 1.9, 2.0, 2.0], None),  # near zero it may climb again
        ([2.0, 1.0, math.nan, 1.0], 2),
        ([2.0, 1.0, -math.inf], 2),
        ([math.nan], 0),
        ([], None),
        ([2.0], None),
        ([2.0, 2.0001, 2.0002, 2.0003], None),  # rounding
        ([0.0, 0.0, 0.0, 0.0], None),
    ],
)
def test_the_index_of_divergence_is_the_one_worked_out_by_hand(losses, index):
    assert find_divergence(losses)[0] == index


@pytest.mark.parametrize(
    ("losses", "index"),
    [([0.0, 0.0, 0.0], None), ([2.0, 1.0, 1e30], None), ([0.0, math.nan], 1), ([2.0, 1.0, math.inf, 1.0], 2)],
)
def test_an_infinite_factor_leaves_only_losses_that_are_not_finite(losses, index):
    assert find_divergence(losses, math.inf) == (index, math.inf)


def fitted_after_noise(n=60, rest=200):
    """A noisy beginning and then a loss of 0, so that the noise of the whole record is 0."""
    return np.concatenate((1.5 + 0.1 * np.random.default_rng(0).normal(size=n), np.zeros(rest)))


def test_a_loss_that_becomes_constant_does_not_turn_the_noise_before_into_an_explosion():
    losses = fitted_after_noise()
    assert estimate_noise(losses) == 0
    assert find_divergence(losses)[0] is None
    losses[30:33] = 40.0  # beyond the noise of the beginning as well
    assert find_divergence(losses)[0] in (30, 31)


@pytest.mark.parametrize("seed", range(5))
def test_further_losses_do_not_turn_earlier_ones_into_a_divergence(seed):
    losses = np.concatenate((1.5 + 0.1 * np.random.default_rng(seed).normal(size=40), np.zeros(160)))
    assert all(find_divergence(losses[:n])[0] is None for n in range(1, 201))


def test_noise_alone_never_diverges():
    for seed in range(200):
        losses = np.random.default_rng(seed).standard_t(3, size=100)
        assert find_divergence(losses)[0] is None
