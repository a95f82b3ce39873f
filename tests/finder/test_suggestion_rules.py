"""Each rule reads the rate off a curve that is known."""

import math

import numpy as np
import pytest

from clrfast.finder import NoSuggestionError, clr_bounds, edge, minimum_tenth, slide, steepest, valley
from clrfast.finder._suggestion_rules import find_rebounds

LR = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0])


LOSS_RULES = [edge, steepest, valley, slide, minimum_tenth]


@pytest.mark.parametrize(
    ("loss", "at_steepest", "lowest", "first_rebound", "last_rebound"),
    [
        ([5.0, 4.9, 4.0, 1.0, 0.5, 9.0], 1e-2, 1.0, 10.0, 10.0),  # slopes per decade: -0.1, -0.5, -1.95, -1.75, 4, ...
        ([5.0, 4.0, 1.0, 0.5, 9.0, 9.0], 1e-3, 1e-1, 1.0, 1.0),
        ([-5.0, -5.1, -6.0, -9.0, -9.5, 2.0], 1e-2, 1.0, 10.0, 10.0),  # negative losses
        ([5.0, 4.9, math.nan, 1.0, 0.5, 9.0], 1e-1, 1.0, 10.0, 10.0),  # a gap
        ([5.0, 4.9, 4.0, 1.0, 0.5, math.inf], 1e-2, 1.0, 10.0, 10.0),
        ([5.0, 4.0, 1.0, 0.5, math.nan, 9.0], 1e-3, 1e-1, 1.0, 1.0),  # a value that is not finite has rebounded
        ([2.0, 1.6, 1.9, 1.8, 0.2, 9.0], 1e-1, 1.0, 10.0, 10.0),  # two valleys: the deeper one
        ([5.0, 4.0, 1.0, 0.5, 0.6, 0.7], 1e-3, 1e-1, 10.0, 10.0),  # it never rebounds: the last rate
        ([5.0, 4.0, 0.5, 6.0, 1.0, 9.0], 1e-3, 1e-2, 1e-1, 10.0),  # a spike that it recovers from
        ([5.0, 4.0, 1.0, 4.2, 4.2, 4.2], 1e-3, 1e-2, 1e-1, 1e-1),  # it collapses, a little below its start
        ([5.0, 4.0, 1.0, 0.5, 1.6, 1.6], 1e-3, 1e-1, 1.0, 1.0),  # of its fall from 4.5, just more than 1/4 is lost
        ([5.0, 4.0, 1.0, 0.5, 1.4, 1.4], 1e-3, 1e-1, 10.0, 10.0),  # just less
    ],
)
def test_rules_return_the_rates_that_were_worked_out_by_hand(loss, at_steepest, lowest, first_rebound, last_rebound):
    assert steepest(LR, loss).max_lr == pytest.approx(at_steepest)
    assert minimum_tenth(LR, loss).max_lr == pytest.approx(lowest / 10)
    assert edge(LR, loss).max_lr == pytest.approx((lowest * first_rebound * last_rebound) ** (1 / 3) / 5)


def test_edge_asks_for_a_higher_max_lr_where_the_loss_has_not_climbed_back():
    assert "a higher max_lr shows more" in edge(LR, [5.0, 4.0, 1.0, 0.5, 0.6, 0.7]).reason
    assert (
        "= 2.15 / 5; 2.15 is where the loss starts to climb: the geometric mean of three readings (0.1, 10, 10)"
        in edge(LR, [5.0, 4.0, 1.0, 0.5, 0.6, 5.7]).reason
    )


BEFORE_DEATH = [5.2, 5.2, 5.1, 4.9, 4.85, 4.8, 4.84]


@pytest.mark.parametrize(
    ("tail", "rebound"),
    [
        ([4.85] * 5, 7),  # an eighth of its fall is lost, and every batch gives the same loss: the model is dead
        ([4.85] * 4, None),  # too few to tell
        ([4.85, 4.85, 4.85, 4.85, 4.86], None),
        ([4.85, 4.85, 4.85, 4.84, 4.85, 4.85, 4.85, 4.85, 4.85], 11),  # it still changed before
        ([4.7] * 5, None),  # constant at its minimum: it has converged
    ],
)
def test_a_loss_that_becomes_constant_above_its_minimum_has_rebounded(tail, rebound):
    loss = np.array(BEFORE_DEATH + tail)
    lr = np.geomspace(1e-4, 1e4, len(loss))
    assert find_rebounds(lr, loss) == (rebound, rebound)


def test_valley_is_the_middle_of_the_longest_descent():
    lr = np.geomspace(1e-5, 1, 11)
    loss = [3.0, 2.9, 3.0, 2.8, 2.6, 2.0, 1.5, 1.2, 1.0, 2.0, 5.0]
    # The longest descending subsequence is 3, 2.9, 2.8, ..., 1: all but index 2. It is 8 long, so it begins at 1.
    assert valley(lr, loss).max_lr == pytest.approx(lr[4])
    bumpy = [3.0, 2.5, 2.0, 2.2, 2.1, 2.05, 2.04, 1.9, 1.8, 1.7, 4.0]
    assert lr[3] <= valley(lr, bumpy).max_lr <= lr[6]


def test_the_longest_valley_is_the_one_that_a_comparison_of_all_points_finds():
    for seed in range(20):
        loss = np.random.default_rng(seed).integers(0, 8, size=40).astype(float)  # with ties
        loss[0] = 9.0
        length = [1] * 40
        for i in range(40):
            length[i] += max((length[j] for j in range(i) if loss[j] > loss[i]), default=0)
        end = int(np.argmax(length))
        begin = end - length[end] + 1
        lr = np.geomspace(1e-3, 1, 40)
        assert valley(lr, loss).max_lr == lr[(begin + end) // 2]


def test_slide_lies_before_the_explosion_in_any_unit_of_the_loss():
    lr = np.geomspace(1e-5, 1, 60)
    loss = np.concatenate((np.full(20, 2.0), np.linspace(2.0, 1.0, 20), np.full(10, 1.0), 1.3 ** np.arange(10)))
    answer = slide(lr, loss).max_lr
    assert lr[20] <= answer <= lr[40]
    assert slide(lr, 1000 * loss).max_lr == answer


def test_clr_bounds_enclose_the_rise_of_an_accuracy():
    lr = np.linspace(0.01, 0.2, 20)
    accuracy = np.concatenate((np.full(5, 0.1), np.linspace(0.1, 0.8, 8), [0.82, 0.83, 0.8, 0.6, 0.7, 0.4, 0.2]))
    answer = clr_bounds(lr, accuracy)
    assert lr[4] <= answer.base_lr <= lr[6]
    assert lr[10] <= answer.max_lr <= lr[13]
    assert "rise" in answer.reason
    ragged = np.concatenate((np.full(5, 0.1), [0.2, 0.3, 0.45, 0.2, 0.5, 0.3, 0.6, 0.4, 0.7], np.full(6, 0.9)))
    assert clr_bounds(lr, ragged).max_lr == pytest.approx(lr[8])
    assert "ragged" in clr_bounds(lr, ragged).reason
    with pytest.raises(NoSuggestionError, match="score never rises"):
        clr_bounds(lr, np.full(20, 0.1))


@pytest.mark.parametrize("noise_size", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("scale", [0.01, 0.02])
def test_clr_bounds_lie_on_the_rise_of_a_score_that_rises_at_once(noise_size, scale):
    lr = np.linspace(0.004, 0.132, 33)
    rise = 1 - np.exp(-(lr - lr[0]) / scale)
    score = 0.1 + 0.85 * rise + np.random.default_rng(0).normal(0, noise_size, 33)
    bounds = clr_bounds(lr, score)
    made = dict(zip(lr.tolist(), rise.tolist(), strict=True))
    assert made[bounds.base_lr] < 0.3
    assert 0.8 < made[bounds.max_lr] < 0.98


def test_one_low_score_does_not_move_the_beginning_of_the_rise():
    score = np.concatenate((np.full(12, 0.1), np.linspace(0.12, 0.9, 20), np.full(8, 0.9)))
    score[3] = 0.0
    lr = np.linspace(0.01, 0.4, 40)
    assert clr_bounds(lr, score).base_lr == lr[13]  # at 0.161, and a tenth of the rise is made at 0.18


@pytest.mark.parametrize("rule", LOSS_RULES)
@pytest.mark.parametrize(
    ("lr", "loss", "reason"),
    [
        (LR[:4], [4.0, 3.0, 2.0, 1.0], "only 4 finite points"),
        (LR, [4.0, math.nan, math.nan, 2.0, 1.0, 3.0], "only 4 finite points"),
        (LR, [1.0] * 6, "never falls"),
        (LR, [1.0, 1.0 - 1e-7, 1.0 - 2e-7, 1.0, 1.0, 1.0], "never falls"),
        (LR, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "never falls"),
    ],
)
def test_rules_refuse_curves_without_enough_points_or_without_a_fall(rule, lr, loss, reason):
    with pytest.raises(NoSuggestionError, match=reason):
        rule(lr, loss)


@pytest.mark.parametrize("rule", [*LOSS_RULES, clr_bounds])
@pytest.mark.parametrize(
    ("lr", "loss"),
    [(LR, [1.0, 2.0]), (LR[::-1], LR), (-LR, LR), (LR[None], LR[None])],
    ids=["length", "order", "sign", "2d"],
)
def test_rules_name_arrays_of_a_bad_shape_or_order(rule, lr, loss):
    with pytest.raises(ValueError, match=r"^lr(, (loss|score))?: got"):
        rule(lr, loss)


@pytest.mark.parametrize("rule", LOSS_RULES)
def test_the_unit_and_the_offset_of_the_loss_do_not_change_the_rate(rule):
    loss = np.array([5.0, 4.9, 4.0, 1.0, 0.5, 9.0])
    plain = rule(LR, loss)
    assert rule(LR, 1000 * loss + 7).max_lr == plain.max_lr
    assert rule(LR, loss - 100).max_lr == plain.max_lr
    assert rule(LR / 1000, loss).max_lr == pytest.approx(plain.max_lr / 1000)
    assert plain.base_lr <= plain.max_lr / 4
    assert plain.low == plain.max_lr == plain.high
