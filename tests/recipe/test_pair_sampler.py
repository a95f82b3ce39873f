"""Where the sampler places the trials with pairs."""

import math

import numpy as np
import pytest

from clrfast.recipe import PairTrials
from clrfast.recipe._pair_sampler import (
    DECAYS,
    FIRST_DECAY,
    LARGE_DECAY,
    MIN_PAIR_TRIALS,
    RATE_RATIO,
    PairPoint,
    PairResult,
    coordinates,
    expected_losses,
    next_pair,
)
from tests.helpers.histories import ending_history

START = 9.0
"""Loss before each trial."""

STEPS = 100_000
"""Length of the trials: long enough for all weight decays to have an effect."""


def searched(loss, runs=12, initial=START):
    """The trials that the sampler places on ``loss(log10 of the rate, log10 of the decay)``, from the rate 1."""
    results = []
    while len(results) < runs and (point := next_pair(results, (), {"sgd": 1.0}, STEPS)) is not None:
        results.append(PairResult(point, loss(math.log10(point.max_lr), math.log10(point.weight_decay)), initial))
    points, losses = [result.point for result in results], [result.loss for result in results]
    rates, decays = (np.array([getattr(point, name) for point in points]) for name in ("max_lr", "weight_decay"))
    return PairTrials(rates, decays, 100, tuple(ending_history(each, initial=initial) for each in losses))


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
    found = searched(lambda a, b: (a + b + 3) ** 2 + 0.5 * (a - 1) ** 2).suggest()
    assert found.max_lr >= 3
    assert found.weight_decay <= 1e-3


def test_the_suggestion_stays_below_rates_that_diverge():
    found = searched(lambda a, b: math.inf if a > 0.6 else 2 * (a - 0.5) ** 2 + 0.3 * (b + 3) ** 2).suggest()
    assert 0.2 < math.log10(found.max_lr) < 0.6


def test_decays_that_take_longer_than_the_trial_are_the_same_place():
    def decay_places(optimizer, rate, decays, steps):
        return coordinates([PairPoint(optimizer, rate, decay) for decay in decays], steps)[:, 1]

    assert np.ptp(decay_places("sgd", 0.01, [1e-6, 1e-5, 1e-4], 100)) < 0.01
    assert np.ptp(decay_places("adamw", 1e-3, [1e-3, 1e-2, 0.1], 100)) < 0.01
    assert np.ptp(decay_places("sgd", 1.0, [1e-3, 1e-2, 0.1], 10_000)) == pytest.approx(2, abs=0.01)


def test_a_rate_below_failure_is_expected_to_fail_only_with_the_same_optimizer():
    points = [PairPoint("sgd", 0.1, 1e-3), PairPoint("sgd", 0.2, 1e-3), PairPoint("adamw", 0.01, 0.1)]
    results = [PairResult(point, loss, 3.0) for point, loss in zip(points, (1.0, math.inf, 1.0), strict=True)]
    assert expected_losses(results).tolist() == pytest.approx([1 + 0.2 / 8, math.inf, 1 + 0.2 / 10**1.5])


def test_the_sampler_goes_a_decade_lower_if_no_loss_falls():
    found = searched(lambda a, b: math.inf if a > -1.6 else 2 + b / 10)
    assert found.max_lr[:3].tolist() == pytest.approx([1.0, 0.1, 0.01])
    assert found.weight_decay[:3].tolist() == [FIRST_DECAY] * 3
    assert np.isfinite(found.loss[2:]).any()


@pytest.mark.parametrize("initial", [math.inf, math.nan])
def test_the_loss_at_the_start_may_be_non_finite(initial):
    found = searched(lambda a, b: math.inf if a > 1 else (a + 0.5) ** 2 + 0.3 * (b + 3) ** 2, initial=initial)
    assert found.suggest().max_lr == pytest.approx(10**-0.5)


def test_the_sampler_ends_if_no_improvement_is_expected():
    found = searched(lambda a, b: (a - 0.5) ** 2 + 0.3 * (b + 3) ** 2, 1000)
    assert MIN_PAIR_TRIALS < len(found.histories) < 40


def test_every_pair_is_on_the_lattice_and_tried_once():
    found = searched(lambda a, b: (a - 0.5) ** 2 + (b + 3) ** 2, 30)
    pairs = list(zip(found.max_lr, found.weight_decay, strict=True))
    assert len(set(pairs)) == len(pairs)
    assert pairs[0] == (1.0, FIRST_DECAY)
    assert set(found.weight_decay) <= {decay for decay in DECAYS if decay <= LARGE_DECAY}
    exponents = np.log(found.max_lr) / math.log(RATE_RATIO)
    assert exponents == pytest.approx(np.round(exponents), abs=1e-9)


def loss_of(point):
    """Lowest at a rate of 0.3 for SGD, and lower at 0.01 for AdamW."""
    rate, decay = math.log10(point.max_lr), math.log10(point.weight_decay)
    if point.optimizer == "sgd":
        return 3 + (rate + 0.5) ** 2 + 0.3 * (decay + 3) ** 2
    return 0.5 + (rate + 2) ** 2 + 0.3 * (decay + 1) ** 2


BOTH = {"sgd": 1.0, "adamw": 1e-3}


def searched_by(workers, trials, loss=loss_of):
    """Results with both optimizers; ``workers`` trials run at once."""
    results, running = [], []
    while True:
        while len(running) < min(workers, trials - len(results)):
            point = next_pair(results, running, BOTH, STEPS)
            if point is None:
                break
            running.append(point)
        if not running:
            return results
        point = running.pop(0)
        results.append(PairResult(point, loss(point), START))


def assert_near_lowest(results):
    best = min(results, key=lambda result: result.loss)
    assert best.point.optimizer == "adamw"
    assert best.loss < 0.5 + 0.05 * START


def test_each_optimizer_starts_at_its_own_rate_and_the_better_one_gets_most_trials():
    results = searched_by(1, 12)
    assert [result.point for result in results[:2]] == [PairPoint("sgd", 1.0, 1e-3), PairPoint("adamw", 1e-3, 0.1)]
    assert sum(result.point.optimizer == "adamw" for result in results) > len(results) / 2
    assert_near_lowest(results)


def test_an_optimizer_with_which_no_loss_falls_is_given_up():
    results = searched_by(1, 12, lambda point: math.nan if point.optimizer == "adamw" else loss_of(point))
    assert sum(result.point.optimizer == "adamw" for result in results) <= 5


@pytest.mark.parametrize("workers", [2, 4])
def test_running_trials_are_not_placed_twice(workers):
    results = searched_by(workers, 20)
    tried = [result.point for result in results]
    assert len(set(tried)) == len(tried)
    assert_near_lowest(results)
