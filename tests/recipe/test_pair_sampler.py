"""Where the sampler places the trials with pairs."""

import math

import numpy as np
import pytest

from clrfast.recipe._lattice import DECAYS, FIRST_DECAY, LARGE_DECAY, RATE_RATIO, pair_at
from clrfast.recipe._pair_sampler import MIN_PAIR_TRIALS, PairSampler
from tests.helpers.histories import ending_history

START = 9.0
"""Loss before each trial."""


def searched(loss, runs=12, initial=START):
    """The trials that the sampler places on ``loss(log10 of the rate, log10 of the decay)``, from the rate 1."""
    sampler = PairSampler(1.0, 100, 100 * runs)
    while (point := sampler.next_point()) is not None:
        sampler.histories[point] = ending_history(loss(*np.log10(pair_at(point, 1.0))), initial=initial)
    return sampler.results


@pytest.mark.parametrize(
    ("rate", "decay"), [(0.0, -3.0), (0.5, -3.0), (1.0, -2.5), (-0.5, -4.0), (-1.5, -2.0), (-1.0, -1.0), (0.5, -4.5)]
)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, -5.0)])
def test_the_sampler_comes_near_the_lowest_loss(rate, decay, scale, shift):
    """Within half a decade of the rate and of the decay, in 12 trials of 77 points."""

    def loss(a, b):
        return scale * ((a - rate) ** 2 + 0.3 * (b - decay) ** 2) + shift

    found = searched(loss, initial=scale * START + shift).suggest()
    assert math.log10(found.max_lr) == pytest.approx(rate, abs=0.51)
    assert math.log10(found.weight_decay) == pytest.approx(decay, abs=0.53)


def test_the_sampler_follows_a_ridge():
    """The best decay falls with the rate, because both shrink the weights."""
    found = searched(lambda a, b: (a + b + 3) ** 2 + 0.1 * (a - 1) ** 2).suggest()
    assert found.max_lr >= 3
    assert found.weight_decay <= 1e-3


def test_the_suggestion_stays_below_rates_that_diverge():
    found = searched(lambda a, b: math.inf if a > 0.6 else 2 * (a - 0.5) ** 2 + 0.3 * (b + 3) ** 2).suggest()
    assert found.max_lr == pytest.approx(10**0.5)


def test_the_sampler_goes_a_decade_lower_if_no_loss_falls():
    found = searched(lambda a, b: math.inf if a > -1.6 else 2 + b / 10)
    assert found.max_lr[:3].tolist() == pytest.approx([1.0, 0.1, 0.01])
    assert found.weight_decay[:3].tolist() == [FIRST_DECAY] * 3
    assert np.isfinite(found.loss[2:]).any()


@pytest.mark.parametrize("initial", [math.inf, math.nan])
def test_the_loss_at_the_start_may_be_non_finite(initial):
    found = searched(lambda a, b: math.inf if a > 1 else (a + 0.5) ** 2 + 0.3 * (b + 3) ** 2, initial=initial)
    assert found.suggest().max_lr == pytest.approx(10**-0.5)


@pytest.mark.parametrize("runs", [3, 5, 8])
def test_the_sampler_keeps_within_max_steps(runs):
    found = searched(lambda a, b: (a - 2) ** 2 + (b - 2) ** 2, runs)
    assert len(found.histories) == runs


def test_steps_that_a_diverged_trial_saved_go_to_others():
    found = searched(lambda a, b: math.inf if a > -1.1 else (a + 2) ** 2 + (b + 3) ** 2, 8)
    made = [np.size(run.train_loss) for run in found.histories]
    assert made[:3] == [10, 10, 100]
    assert 700 < sum(made) <= 800
    assert len(made) > 8


def test_the_sampler_ends_if_no_improvement_is_expected():
    found = searched(lambda a, b: (a - 0.5) ** 2 + 0.3 * (b + 3) ** 2, 1000)
    assert MIN_PAIR_TRIALS < len(found.histories) < 40


def test_every_pair_is_on_the_lattice_and_tried_once():
    found = searched(lambda a, b: (a - 0.5) ** 2 + (b + 3) ** 2, 30)
    places = list(zip(found.max_lr, found.weight_decay, strict=True))
    assert len(set(places)) == len(places)
    assert places[0] == (1.0, FIRST_DECAY)
    assert set(found.weight_decay) <= {decay for decay in DECAYS if decay <= LARGE_DECAY}
    steps = np.log(found.max_lr) / math.log(RATE_RATIO)
    assert steps == pytest.approx(np.round(steps), abs=1e-9)
