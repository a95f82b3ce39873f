import math

import numpy as np
import pytest

from clrfast import NoSuggestionError, Trials
from clrfast.finder._trial_suggestion import estimate_from_ramp, suggest_from_trials


def trials(losses, *, steps=20, initial=2.0, first=-2, noise=0.01):
    lr = 2.0 ** np.arange(first, first + len(losses))
    return Trials(steps, lr, np.array(losses), np.full(len(losses), noise), initial)


SHORT = trials([1.4, 1.0, 1.0, 1.4])  # good from 2 ** -1.25 to 2 ** 0.25


def test_trials_of_20_steps_and_the_ramp_have_equal_weights():
    answer = suggest_from_trials([SHORT], 2.0**-4, 0.01, 2.0**-8)
    assert math.log2(answer.max_lr) == pytest.approx((-4 + 0.25 - 2.5) / 2)
    assert answer.base_lr == 2.0**-8
    assert (answer.method, answer.confidence) == ("trials", "high")
    assert answer.low < answer.max_lr < answer.high
    assert (
        "in 4 trials, 20-step 1cycles with peak rates from 0.25 to 2, the loss on fixed batches is lowest"
        in answer.reason
    )


def test_the_reason_states_the_arithmetic_of_short_trials():
    reason = suggest_from_trials([SHORT], 2.0**-4, 0.01, None).reason
    assert reason.endswith(
        "almost as low from 0.42 to 1.19; 0.115 is the geometric mean of 0.21 (1.19, the highest good rate for 20 "
        "steps, / 5.66, because longer runs need lower rates) and 0.0625 (of the ramp)"
    )
    collapsed = suggest_from_trials([trials([1.4, 1.0, 1.0, 1.4, 1.9])], 2.0**1.5, 0.01, None)
    assert collapsed.reason.endswith(" and 2 (the highest stable rate; the ramp's is 2.83)")


def test_the_reason_states_the_arithmetic_of_both_lengths():
    long = trials([1.2, 1.0, 1.0, 1.2], steps=80)
    reason = suggest_from_trials([trials([2.0, 1.999, 2.0]), long], 2.0**-4, 0.01, None).reason
    of_long = (
        "0.518 is 0.841 / 1.62, because longer runs need lower rates; 0.841 is a geometric mean of 0.354 and 1.41, "
        "weighted 3 to 5"
    )
    assert reason.endswith(f"; {of_long}; the ramp alone suggests 0.0625")
    both = suggest_from_trials([SHORT, long], 2.0**-4, 0.01, None).reason
    assert (
        "; 0.244 is the geometric mean of 0.115 and 0.518; 0.115 is the geometric mean of 0.21 (1.19, the highest good"
        in both
    )
    assert both.endswith(f"; {of_long}")


@pytest.mark.parametrize(("near", "far"), [(-6.2, -6.5), (1.7, 2.0)])
def test_a_ramp_far_from_the_trials_of_20_steps_lowers_the_confidence(near, far):
    """These trials alone suggest 2 ** -2.25."""
    close, distant = (suggest_from_trials([SHORT], 2.0**octaves, 0.01, None) for octaves in (near, far))
    assert (close.confidence, distant.confidence) == ("high", "low")
    assert "disagree" not in close.reason
    clause = "; the trials of 20 steps alone suggest 0.21, so the ramp and the trials disagree by a factor of 19"
    assert distant.reason.endswith(clause)


def test_short_trials_that_do_not_count_disagree_with_nothing():
    flat, long = trials([2.0, 1.999, 2.0]), trials([1.2, 1.0, 1.0, 1.2], steps=80)
    assert suggest_from_trials([flat, long], 2.0**-20, 0.01, None).confidence == "high"


def test_longer_trials_decide_alone_where_the_loss_does_not_fall_in_short_ones():
    flat, long = trials([2.0, 1.999, 2.0]), trials([1.2, 1.0, 1.0, 1.2], steps=80)
    answer = suggest_from_trials([flat, long], 2.0**-4, 0.01, None)
    assert math.log2(answer.max_lr) == pytest.approx(-0.5 / 4 - 1.5 / 4 + 0.5 / 2 - 0.7)
    assert answer.base_lr == answer.max_lr / 4


def test_the_answer_of_both_lengths_is_their_geometric_mean():
    long = trials([1.2, 1.0, 1.0, 1.2], steps=80)
    both = [suggest_from_trials(levels, 2.0**-4, 0.01, None).max_lr for levels in ([SHORT], [trials([2.0]), long])]
    answer = suggest_from_trials([SHORT, long], 2.0**-4, 0.01, None)
    assert answer.max_lr == pytest.approx(math.sqrt(both[0] * both[1]))
    assert "in 4 trials, 80-step 1cycles" in answer.reason


def test_the_lower_bound_of_a_cyclical_rate_is_at_most_a_quarter():
    answer = suggest_from_trials([SHORT], 2.0**-4, 0.01, 2.0**-4)
    assert answer.base_lr == answer.max_lr / 4


def test_a_model_that_does_not_train_gets_an_answer_of_low_confidence():
    answer = suggest_from_trials([trials([1.999, 2.01, 2.5], first=-4, noise=0.1)], 2.0**-4, 0.1, None)
    assert answer.confidence == "low"
    assert math.log2(answer.max_lr) == pytest.approx(-4 - 0.5, abs=0.01)
    assert "did not train in any trial" in answer.reason
    assert "low confidence" in str(answer)


@pytest.mark.parametrize("losses", [[math.inf, math.inf, math.inf], [2.5, 9.0, math.inf]])
def test_the_answer_is_below_all_rates_where_all_did_harm(losses):
    answer = suggest_from_trials([trials(losses)], 2.0**-4, 0.1, None)
    assert answer.max_lr <= 2.0**-3
    assert answer.confidence == "low"


def test_without_a_visible_fall_the_shortest_trials_decide():
    """Longer ones, which followed them upwards, found nothing there."""
    short, long = trials([1.999, 2.01, 2.02], first=-8, noise=0.1), trials([2.0, 2.01, 2.02], steps=80, noise=0.1)
    alone = suggest_from_trials([short], 2.0**-4, 0.1, None)
    assert suggest_from_trials([short, long], 2.0**-4, 0.1, None).max_lr == alone.max_lr


def test_without_a_visible_fall_the_answer_is_not_above_the_highest_rate_that_did_no_harm():
    answer = suggest_from_trials([trials([1.995, 2.0, 2.5, 1.99], first=-4)], 2.0**-4, 0.1, None)
    assert answer.max_lr <= 2.0**-1
    assert answer.confidence == "low"


@pytest.mark.parametrize(
    ("losses", "highest", "why"),
    [
        ([1.999, 2.0, 2.0], 2.0**-8, "the highest rate that was tried"),
        ([1.999, 2.0, 2.5], 2.0**-9, "because higher rates did harm"),
        ([2.5, 2.5, 2.5], 2.0**-11, "because higher rates did harm"),
    ],
    ids=["no harm", "harm at the highest", "harm at all"],
)
def test_the_reason_says_what_limits_an_answer_without_a_visible_fall(losses, highest, why):
    answer = suggest_from_trials([trials(losses, first=-10, noise=0.1)], 2.0**-4, 0.1, None, 0.1)
    assert answer.max_lr == highest
    assert answer.reason.endswith(f"; that is lowered to {highest:.3g}, {why}")


def test_longer_trials_without_a_visible_fall_do_not_decide():
    alone = suggest_from_trials([SHORT], 2.0**-4, 0.01, None)
    answer = suggest_from_trials([SHORT, trials([2.1, 2.2, 2.3], steps=80)], 2.0**-4, 0.01, None)
    assert (answer.max_lr, answer.reason) == (alone.max_lr, alone.reason)


def test_no_answer_is_above_what_a_trial_has_survived():
    answer = suggest_from_trials([SHORT], 2.0**10, 0.01, None, 2.0**20)
    assert answer.max_lr == pytest.approx(2**0.25)
    assert "; that is lowered to 1.19, the highest good rate; " in answer.reason


def test_the_ramp_counts_up_to_the_highest_stable_rate():
    collapsed = trials([1.4, 1.0, 1.0, 1.4, 1.9])  # stable up to 2
    answer = suggest_from_trials([collapsed], 2.0**10, 0.01, None)
    assert math.log2(answer.max_lr) == pytest.approx((1 + 0.25 - 2.5) / 2)


def test_short_trials_that_are_good_at_many_rates_do_not_count_beside_longer_ones():
    wide = trials([1.2, 1.0, 1.0, 1.0, 1.0, 1.2])
    long = trials([1.2, 1.0, 1.0, 1.2], steps=80)
    alone = suggest_from_trials([trials([2.0]), long], 2.0**-4, 0.01, None)
    assert suggest_from_trials([wide, long], 2.0**-4, 0.01, None).max_lr == alone.max_lr
    # but they do where the steps did not suffice for longer ones
    assert suggest_from_trials([wide], 2.0**-4, 0.01, None).confidence == "high"


def test_the_prior_is_weighed_by_its_precision():
    """It has a lower precision than trials with a visible fall, and the same as those without one."""
    prior = 2.0**-9
    without, with_prior = (
        math.log2(suggest_from_trials([SHORT], 2.0**-4, 0.01, None, p).max_lr) for p in (None, prior)
    )
    assert without - 0.5 * (without + 9) < with_prior < without - 0.3 * (without + 9)
    unseen = trials([1.999, 2.01, 2.5], noise=0.1)
    without, with_prior = (suggest_from_trials([unseen], 2.0**-4, 0.1, None, p) for p in (None, prior))
    low, high = math.log2(with_prior.max_lr), math.log2(without.max_lr)
    assert low == pytest.approx((high - 9) / 2)
    assert with_prior.reason.endswith(
        "; models of this size usually train best at about 0.002 with this optimizer; the geometric mean with that "
        "rate, which has 50 % of the weight, is 0.0186"
    )


def test_a_loss_that_no_rate_changes_has_no_answer():
    with pytest.raises(NoSuggestionError, match=r"no rate from 0.25 to 1 changes the loss: check that gradients reach"):
        suggest_from_trials([trials([2.0, 2.0, 2.0])], 0.1, 0.01, None)


LR = 2.0 ** np.arange(-10, 6)


def test_the_ramp_estimates_a_quarter_of_the_probes_minimum():
    probe_loss = np.where(np.arange(len(LR)) % 2 == 0, np.abs(np.log2(LR) + 2), np.nan)
    assert estimate_from_ramp(LR, probe_loss, None) == pytest.approx(2.0**-4)


def test_the_ramp_estimates_the_mean_of_edge_and_minimum():
    probe_loss = np.abs(np.log2(LR) + 2)
    assert estimate_from_ramp(LR, probe_loss, 2.0**-6) == pytest.approx(2.0**-5)


def test_a_minimum_far_above_the_edge_does_not_count():
    """Behind a normalisation, weights explode and the loss does not."""
    assert estimate_from_ramp(LR, np.abs(np.log2(LR) - 3), 2.0**-7) == pytest.approx(2.0**-3)
    assert estimate_from_ramp(LR, np.abs(np.log2(LR) - 4), 2.0**-7) == 2.0**-7


def test_an_explosion_next_to_the_minimum_does_not_hide_it():
    probe_loss = np.array([8.0] + [8.1] * 7 + [1.0] + [1e30] * 7)
    assert LR[8] == 2.0**-2
    assert estimate_from_ramp(LR, probe_loss, None) == pytest.approx(2.0**-4)


@pytest.mark.parametrize("probe_loss", [None, np.full(len(LR), np.nan), np.arange(len(LR), dtype=float)])
def test_the_ramp_estimates_from_its_end_where_it_shows_nothing(probe_loss):
    assert estimate_from_ramp(LR, probe_loss, None) == pytest.approx(2.0 ** (5 - 5.75))
