import math

import numpy as np
import pytest

from clrfast import Trials
from clrfast.finder._trial_search import LEVELS, find_harmless, search
from clrfast.finder._trials import estimate_noise_of_change


def trials(losses, *, steps=20, initial=2.0, first=-2, noise=0.01):
    """Trials at powers of two from 2 ** first on."""
    lr = 2.0 ** np.arange(first, first + len(losses))
    return Trials(steps, lr, np.array(losses), np.full(len(losses), noise), initial)


def test_a_good_rate_loses_at_most_a_tenth_of_the_fall():
    # The limit is 1.1, half way between the trials at the ends of the range.
    low, high = trials([1.2, 1.0, 1.0, 1.2, 2.0]).good_range()
    assert (low, high) == (pytest.approx(2**-1.5), pytest.approx(2**0.5))


def test_half_way_to_a_trial_that_diverged_the_rate_is_no_longer_good():
    assert trials([1.5, 1.2, 1.0, math.inf]).good_range()[1] == pytest.approx(2**0.5)


def test_the_ends_of_the_trials_are_the_ends_of_the_range_where_all_are_good():
    assert trials([1.0, 1.0, 1.0]).good_range() == (0.25, 1.0)


def test_a_collapsed_model_that_ends_lower_at_a_still_higher_rate_does_not_count():
    found = trials([1.5, 1.0, 1.6, 0.9])
    assert (found.n_counted, found.best, found.fall) == (2, 1, 1.0)
    assert 2**-1 < found.good_range()[1] < 1.0


def test_above_the_lowest_rate_that_fits_the_data_no_rate_counts():
    found = trials([1.0, 0.1, 0.015, 0.001, 0.0])
    assert (found.n_counted, found.n_stable, found.best) == (3, 5, 2)
    assert found.fits_data
    assert found.good_range()[1] == 1.0
    assert not trials([1.0, 0.1, 0.05]).fits_data


def test_a_collapsed_model_that_fits_the_data_at_a_still_higher_rate_does_not_count():
    found = trials([1.0, 1.9, 0.0])
    assert (found.fits_data, found.n_counted) == (False, 1)


@pytest.mark.parametrize(
    ("initial", "losses"),
    [(3.0, [2.0, 0.01, -5.0]), (-2.0, [-2.1, -0.01, -2.2]), (0.0, [-1.0, 0.0, -2.0])],
)
def test_a_loss_that_can_be_negative_never_fits_the_data(initial, losses):
    found = trials(losses, initial=initial)
    assert not found.fits_data
    assert trials([*losses, math.inf], initial=initial).n_counted == found.n_stable


def test_a_loss_that_rounding_makes_negative_fits_the_data():
    found = trials([0.5, -1e-7, 0.0])
    assert (found.fits_data, found.n_counted) == (True, 2)


def test_the_noise_of_a_change_is_that_of_its_mean_over_the_probe_batches():
    before = np.array([1.0, 2.0, 3.0, 4.0])  # batches that differ by more than training changes them
    change = np.array([-0.1, -0.2, -0.1, -0.2])
    expected = 2 * change.std(ddof=1) / 2
    assert estimate_noise_of_change(before, before + change, 1.0) == pytest.approx(expected)
    assert estimate_noise_of_change(before, before + change, 0.01) == 0.01
    assert estimate_noise_of_change(before[:2], before[:2] + change[:2], 1.0) == 1.0
    assert estimate_noise_of_change(before, before + np.inf, 1.0) == 1.0


def test_a_rate_does_harm_where_the_loss_rises_by_more_than_two_noises():
    assert find_harmless(trials([1.0, 2.15, 2.25, 2.0], noise=0.1)).tolist() == [0.25, 0.5, 2.0]


def loss_of(rate_to_loss, log, noise):
    """``loss_after`` that reads a function of log2 of the rate, and logs the calls."""

    def loss_after(lr, steps):
        log.append((round(math.log2(lr), 6), steps))
        return rate_to_loss(math.log2(lr), steps), noise

    return loss_after


def run(rate_to_loss, *, ramp_lr=1.0, max_lr=math.inf, noise=0.01, batch_noise=0.01, thorough=False, initial=2.0):
    log = []
    found = search(loss_of(rate_to_loss, log, noise), ramp_lr, max_lr, initial, batch_noise, thorough=thorough)
    return found, log


def test_three_trials_suffice_where_the_middle_one_is_best():
    found, log = run(lambda x, _: 1.0 + 0.15 * abs(x - 2))
    assert log == [(2, 20), (0, 20), (4, 20)]
    assert len(found) == 1


def test_trials_follow_the_best_outwards():
    _, log = run(lambda x, _: 1.0 + 0.15 * abs(x - 6))
    assert [x for x, _ in log] == [2, 0, 4, 6, 8]
    _, log = run(lambda x, _: 1.0 + 0.15 * abs(x + 4))
    assert [x for x, _ in log] == [2, 0, 4, -2, -4, -6]


def test_lower_rates_follow_where_all_do_harm():
    _, log = run(lambda x, steps: 3.0 + 2**x if steps == 20 else 1.0)
    assert [x for x, steps in log if steps == 20] == [2, 0, 4, -2, -4, -6, -8]
    assert next(x for x, steps in log if steps == 80) == -9  # half the lowest rate


def test_higher_rates_follow_where_nothing_is_visible_yet():
    _, log = run(lambda x, steps: 2.0 if steps == 20 else 1.0)
    assert [x for x, steps in log if steps == 20] == [2, 0, 4, 6, 8, 10, 12]
    assert next(x for x, steps in log if steps == 80) == 11  # half the highest rate that did no harm


def test_lower_rates_follow_where_the_highest_does_harm_and_the_lowest_is_best():
    _, log = run(lambda x, steps: 1.9 + 0.1 * abs(x + 2) if steps == 20 else 1.0, noise=0.2)
    assert [x for x, steps in log if steps == 20] == [2, 0, 4, -2, -4]


def test_longer_trials_follow_where_the_good_rates_of_short_ones_are_many():
    found, log = run(lambda x, steps: 1.0 + 0.01 * abs(x - 2) + (abs(x - 2) > 3) if steps == 20 else 1.0)
    assert [each.steps for each in found] == [20, 80]
    assert next(x for x, steps in log if steps == 80) == 1  # half the middle of the good rates


def test_no_longer_trials_follow_where_short_ones_fit_the_data():
    """Not even where they are good in a range of rates over a factor of 16."""
    for thorough in (False, True):
        found, _ = run(lambda x, _: 0.0 if x > 3 else 0.15, thorough=thorough)
        assert [each.steps for each in found] == [20]
        assert found[0].good_range() == (pytest.approx(1.0), pytest.approx(16.0))


def test_longer_trials_follow_until_the_loss_falls():
    found, log = run(lambda x, steps: 2.0 if steps < 240 else 1.0 + 0.1 * abs(x))
    assert [each.steps for each in found] == [level.steps for level in LEVELS]
    assert sum(steps for _, steps in log) <= sum(level.steps * level.max_trials for level in LEVELS)


def test_a_trial_whose_loss_is_not_finite_has_diverged():
    found, _ = run(lambda x, _: math.nan if x > 3 else 1.0 + 0.1 * abs(x - 2))
    assert found[0].loss.tolist() == [pytest.approx(1.2), 1.0, math.inf]


def test_a_constant_loss_without_noise_does_not_fall():
    found, _ = run(lambda *_: 2.0, noise=0.0, batch_noise=0.0)
    assert len(found) == len(LEVELS)


def test_a_fall_within_the_noise_does_not_count():
    found, _ = run(lambda x, _: 2.0 - 0.1 * (x == 2), noise=0.1)
    assert len(found) == len(LEVELS)


def test_a_fall_in_short_trials_must_stand_out_of_the_noise_of_a_batch():
    """A longer trial need not: its fall is no longer the first, which may be that of the output's mean alone."""
    found, _ = run(lambda x, _: 1.8 + 0.1 * abs(x - 2), batch_noise=0.2)
    assert [each.steps for each in found] == [20, 80]


@pytest.mark.parametrize("initial", [2.0, -2.0])
def test_a_small_fall_leads_to_longer_trials_because_it_may_be_the_way_to_a_saddle(initial):
    for fall, levels in ((0.09, [20, 80]), (0.11, [20])):

        def loss(x, steps, fall=fall):
            return initial - fall + 0.02 * abs(x - 2) if steps == 20 else initial - 1.0 + 0.1 * abs(x)

        found, _ = run(loss, noise=1e-6, initial=initial)
        assert [each.steps for each in found] == levels


def test_thorough_makes_the_second_trials_in_any_case():
    found, _ = run(lambda x, _: 1.0 + 0.1 * abs(x - 2), thorough=True)
    assert [each.steps for each in found] == [20, 80]


def test_no_trial_exceeds_the_highest_rate():
    _, log = run(lambda x, _: 2.0 - 0.1 * x, max_lr=2.0)
    assert max(x for x, _ in log) == 1
    assert len([x for x, steps in log if steps == 20]) == 3


@pytest.mark.parametrize(("max_steps", "counts"), [(59, []), (70, [3]), (379, [7]), (380, [7, 3]), (470, [7, 4])])
def test_no_trial_is_begun_for_which_the_steps_do_not_suffice(max_steps, counts):
    log = []
    found = search(loss_of(lambda *_: 2.0, log, 0.01), 1.0, math.inf, 2.0, 0.01, thorough=False, max_steps=max_steps)
    assert [len(each.lr) for each in found] == counts
    assert len(log) == sum(counts)


def test_there_are_no_trials_without_a_finite_initial_loss():
    assert search(loss_of(lambda *_: 1.0, [], 0.01), 1.0, math.inf, math.nan, 0.01, thorough=False) == []


@pytest.mark.parametrize(
    ("lr", "loss", "noise", "named"),
    [
        ([1.0, 2.0, 3.0], [1.0, 1.0], [0.1, 0.1, 0.1], r"lr, loss: got shapes \(3,\) and \(2,\)"),
        ([1.0, 2.0], [1.0, 1.0], [0.1], r"lr, noise: got shapes \(2,\) and \(1,\)"),
        ([], [], [], r"lr, loss: got shapes \(0,\) and \(0,\)"),
        ([0.0, 1.0], [1.0, 1.0], [0.1, 0.1], "lr: got 0.0; give rates above 0"),
        ([1.0, 2.0], [1.0, math.nan], [0.1, 0.1], "loss: got nan; give inf for a trial that diverged"),
    ],
)
def test_wrong_arrays_are_refused(lr, loss, noise, named):
    with pytest.raises(ValueError, match=named):
        Trials(20, np.array(lr), np.array(loss), np.array(noise), 1.0)
