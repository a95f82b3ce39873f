import math
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from clrfast import LRCurve
from clrfast.finder import NoSuggestionError, clr_bounds, edge, minimum_tenth, slide, steepest, valley
from clrfast.finder import _noise as noise_module
from clrfast.finder._bootstrap import bootstrapped
from clrfast.finder._divergence import divergence
from clrfast.finder._noise import noise_std, smoothed, thinned
from clrfast.finder._rules import RULES, rebound_indices
from clrfast.finder._suggestion import Suggestion

LR = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0])
OF_LOSS = [edge, steepest, valley, slide, minimum_tenth]


@pytest.mark.parametrize(
    ("loss", "at_steepest", "lowest", "first_climb", "last_climb"),
    [
        ([5.0, 4.9, 4.0, 1.0, 0.5, 9.0], 1e-2, 1.0, 10.0, 10.0),  # slopes per decade: -0.1, -0.5, -1.95, -1.75, 4, ...
        ([5.0, 4.0, 1.0, 0.5, 9.0, 9.0], 1e-3, 1e-1, 1.0, 1.0),
        ([-5.0, -5.1, -6.0, -9.0, -9.5, 2.0], 1e-2, 1.0, 10.0, 10.0),  # negative losses
        ([5.0, 4.9, math.nan, 1.0, 0.5, 9.0], 1e-1, 1.0, 10.0, 10.0),  # a gap
        ([5.0, 4.9, 4.0, 1.0, 0.5, math.inf], 1e-2, 1.0, 10.0, 10.0),
        ([5.0, 4.0, 1.0, 0.5, math.nan, 9.0], 1e-3, 1e-1, 1.0, 1.0),  # not finite is climbed
        ([2.0, 1.6, 1.9, 1.8, 0.2, 9.0], 1e-1, 1.0, 10.0, 10.0),  # two valleys: the deeper one
        ([5.0, 4.0, 1.0, 0.5, 0.6, 0.7], 1e-3, 1e-1, 10.0, 10.0),  # it never climbs back: the last rate
        ([5.0, 4.0, 0.5, 6.0, 1.0, 9.0], 1e-3, 1e-2, 1e-1, 10.0),  # a spike that it recovers from
        ([5.0, 4.0, 1.0, 4.2, 4.2, 4.2], 1e-3, 1e-2, 1e-1, 1e-1),  # it collapses, a little below its start
        ([5.0, 4.0, 1.0, 0.5, 1.6, 1.6], 1e-3, 1e-1, 1.0, 1.0),  # of its fall from 4.5, just more than 1/4 is lost
        ([5.0, 4.0, 1.0, 0.5, 1.4, 1.4], 1e-3, 1e-1, 10.0, 10.0),  # just less
    ],
)
def test_answers(loss, at_steepest, lowest, first_climb, last_climb):
    assert steepest(LR, loss).max_lr == pytest.approx(at_steepest)
    assert minimum_tenth(LR, loss).max_lr == pytest.approx(lowest / 10)
    assert edge(LR, loss).max_lr == pytest.approx((lowest * first_climb * last_climb) ** (1 / 3) / 5)


def test_a_sweep_that_ends_too_early_says_so():
    assert "a higher max_lr tells more" in edge(LR, [5.0, 4.0, 1.0, 0.5, 0.6, 0.7]).reason
    assert "climbed back by a quarter of its fall (10)" in edge(LR, [5.0, 4.0, 1.0, 0.5, 0.6, 5.7]).reason


DEAD = [5.2, 5.2, 5.1, 4.9, 4.85, 4.8, 4.84]


@pytest.mark.parametrize(
    ("tail", "climb"),
    [
        ([4.85] * 5, 7),  # an eighth of its fall lost, and the same for every batch from there on: the model is dead
        ([4.85] * 4, None),  # too few to tell
        ([4.85, 4.85, 4.85, 4.85, 4.86], None),
        ([4.85, 4.85, 4.85, 4.84, 4.85, 4.85, 4.85, 4.85, 4.85], 11),  # it still moved before
        ([4.7] * 5, None),  # at its minimum it has converged
    ],
)
def test_a_loss_that_has_come_to_rest_above_its_minimum_has_climbed(tail, climb):
    loss = np.array(DEAD + tail)
    lr = np.geomspace(1e-4, 1e4, len(loss))
    assert rebound_indices(lr, loss) == (climb, climb)


def test_valley_is_the_middle_of_the_longest_descent():
    lr = np.geomspace(1e-5, 1, 11)
    loss = [3.0, 2.9, 3.0, 2.8, 2.6, 2.0, 1.5, 1.2, 1.0, 2.0, 5.0]
    # the longest sequence of ever lower losses: 3, 2.9, 2.8, ..., 1, all but index 2; 8 long, so it begins at 1
    assert valley(lr, loss).max_lr == pytest.approx(lr[4])
    bumpy = [3.0, 2.5, 2.0, 2.2, 2.1, 2.05, 2.04, 1.9, 1.8, 1.7, 4.0]
    assert lr[3] <= valley(lr, bumpy).max_lr <= lr[6]


def test_slide_is_left_of_the_explosion_whatever_the_unit():
    lr = np.geomspace(1e-5, 1, 60)
    loss = np.concatenate((np.full(20, 2.0), np.linspace(2.0, 1.0, 20), np.full(10, 1.0), 1.3 ** np.arange(10)))
    answer = slide(lr, loss).max_lr
    assert lr[20] <= answer <= lr[40]
    assert slide(lr, 1000 * loss).max_lr == answer


def test_clr_bounds_of_an_accuracy():
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


@pytest.mark.parametrize("method", OF_LOSS)
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
def test_refusals(method, lr, loss, reason):
    with pytest.raises(NoSuggestionError, match=reason):
        method(lr, loss)


@pytest.mark.parametrize("method", [*OF_LOSS, clr_bounds])
@pytest.mark.parametrize(
    ("lr", "loss"),
    [(LR, [1.0, 2.0]), (LR[::-1], LR), (-LR, LR), (LR[None], LR[None])],
    ids=["length", "order", "sign", "2d"],
)
def test_bad_input_is_named(method, lr, loss):
    with pytest.raises(ValueError, match=r"^lr(, (loss|score))?: got"):
        method(lr, loss)


@pytest.mark.parametrize("method", OF_LOSS)
def test_neither_unit_nor_offset_of_the_loss_matters(method):
    loss = np.array([5.0, 4.9, 4.0, 1.0, 0.5, 9.0])
    plain = method(LR, loss)
    assert method(LR, 1000 * loss + 7).max_lr == plain.max_lr
    assert method(LR, loss - 100).max_lr == plain.max_lr
    assert method(LR / 1000, loss).max_lr == pytest.approx(plain.max_lr / 1000)
    assert plain.base_lr <= plain.max_lr / 4
    assert plain.low == plain.max_lr == plain.high


# --- whole curves, drawn by hand: the answer of the default, or the reason of its refusal -----------------------------

SWEEP = np.geomspace(1e-7, 10, 100)


def descent(at, depth=1.0, start=2.0):
    """Falls from ``start`` by ``depth`` around the rate ``at``, over about a factor of ten."""
    return start - depth / (1 + (at / SWEEP) ** 2)


def explosion(at):
    """Climbs by one at the rate ``at``, and by four powers of ten over the next factor of ten."""
    return (SWEEP / at) ** 4


def noisy(loss, size, seed=0):
    return loss + size * np.random.default_rng(seed).normal(size=len(loss))


def stopped(loss, start=2.0):
    """The curve as the range test would leave it: cut where the loss has diverged."""
    index, _ = divergence(np.concatenate(([start], loss)))
    n = len(loss) if index is None else index
    kind = "completed" if index is None else "diverged" if math.isfinite(loss[n - 1]) else "non-finite"
    return LRCurve(SWEEP[:n], loss[:n], start, kind, "made by hand")


CLEAN = descent(1e-2) + explosion(1.0)
BROKEN = np.where(SWEEP < 1.0, descent(1e-2), math.nan)


@pytest.mark.parametrize(
    ("loss", "start", "low", "high"),
    [
        (CLEAN, 2.0, 0.05, 0.2),
        (noisy(CLEAN, 0.05), 2.0, 0.05, 0.2),
        (noisy(CLEAN, 0.2), 2.0, 0.04, 0.25),
        (BROKEN, 2.0, 0.05, 0.2),  # NaN from 1 on
        (CLEAN - 10.0, -8.0, 0.05, 0.2),  # negative
        (CLEAN - 1.5, 0.5, 0.05, 0.2),  # through zero
        (1e6 * CLEAN, 2e6, 0.05, 0.2),
        (descent(1e-4, 0.3) + descent(1e-1, 1.0, 0.0) + explosion(3.0), 2.0, 0.15, 0.6),  # two valleys
        (CLEAN + 3 * np.exp(-(np.log10(SWEEP / 0.06) ** 2) / 0.01), 2.0, 0.02, 0.2),  # a spike that it recovers from
        (descent(1e-2), 2.0, 0.3, 2.1),  # never diverges: a fifth of the end of the sweep
    ],
    ids=["clean", "noisy", "noisier", "nan", "negative", "zero", "unit", "valleys", "spike", "no end"],
)
def test_curves_with_an_answer(loss, start, low, high):
    suggestion = stopped(loss, start).suggest()
    assert low < suggestion.max_lr < high
    assert suggestion.low <= suggestion.max_lr <= suggestion.high
    assert 0 < suggestion.base_lr < suggestion.max_lr
    assert suggestion.method == "edge"


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (np.full(100, 2.0), "never falls"),
        (noisy(np.full(100, 2.0), 0.1), "never falls|too little"),
        (2.0 + explosion(1e-7), "never falls: it is lowest at 1e-07 and diverges"),
        (2.0 + explosion(1e-3), "never falls"),
        (np.where(SWEEP < 1.5e-7, 2.0, math.nan), "only [0-4] finite points"),
    ],
    ids=["flat", "noise", "at once", "no descent", "nan at once"],
)
def test_curves_without_an_answer(loss, reason):
    with pytest.raises(NoSuggestionError, match=reason):
        stopped(loss).suggest()


@pytest.mark.parametrize("n", [6, 10, 15, 20])
def test_few_points_of_noise_are_no_answer(n):
    lr, refused = np.geomspace(1e-5, 1, n), 0
    for seed in range(100):
        loss = 2.0 + 0.1 * np.random.default_rng(seed).normal(size=n)
        try:
            LRCurve(lr, loss, 2.0, "completed", "").suggest()
        except NoSuggestionError:
            refused += 1
    assert refused >= 75


def test_five_points_are_enough_and_four_are_not():
    lr, loss = np.geomspace(1e-3, 10, 5), np.array([2.0, 1.5, 1.0, 0.9, 5.0])
    LRCurve(lr, loss, 2.0, "diverged", "").suggest()
    with pytest.raises(NoSuggestionError, match="only 4 finite points"):
        LRCurve(lr[:4], loss[:4], 2.0, "completed", "").suggest()


@pytest.mark.parametrize("method", sorted(set(RULES) - {"clr_bounds"}))
def test_every_method_answers_the_noisy_curve_in_order(method):
    suggestion = stopped(noisy(CLEAN, 0.05)).suggest(method)
    assert 1e-3 < suggestion.max_lr < 0.5
    assert suggestion.method == method


def test_more_noise_widens_the_interval():
    widths = [
        np.log(answer.high / answer.low)
        for size in (0.01, 0.3)
        if (answer := stopped(noisy(CLEAN, size)).suggest("steepest"))
    ]
    assert widths[1] > 2 * widths[0]


def test_the_median_over_draws_is_steadier_than_one_curve():
    curves = [stopped(noisy(CLEAN, 0.15, seed)) for seed in range(20)]
    plain = [np.log(RULES["minimum_tenth"](curve.lr, curve.smoothed).max_lr) for curve in curves]
    drawn = [np.log(bootstrapped(RULES["minimum_tenth"], [(curve.lr, curve.bounded)]).max_lr) for curve in curves]
    assert np.std(drawn) < 0.9 * np.std(plain)


def test_repeats_count_like_the_first():
    curves = [stopped(noisy(CLEAN, 0.1, seed)) for seed in range(3)]
    one = LRCurve(curves[0].lr, curves[0].loss, 2.0, "diverged", "", repeats=tuple(curves[1:]))
    answers = [curve.suggest().max_lr for curve in curves]
    assert min(answers) <= one.suggest().max_lr <= max(answers)
    assert one.suggest().high >= np.median([curve.suggest().high for curve in curves]) * 0.9


# --- divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        # The limit is 2 + 3 * 1, and the median of three passes it at the second loss above it.
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
def test_divergence(losses, index):
    assert divergence(losses)[0] == index


def fitted(n=60, rest=200):
    """A noisy beginning, and then a loss of 0, which makes the noise of the whole record 0."""
    return np.concatenate((1.5 + 0.1 * np.random.default_rng(0).normal(size=n), np.zeros(rest)))


def test_a_loss_that_has_come_to_rest_does_not_make_its_beginning_an_explosion():
    losses = fitted()
    assert noise_std(losses) == 0
    assert divergence(losses)[0] is None
    losses[30:33] = 40.0  # beyond the noise of the beginning as well
    assert divergence(losses)[0] in (30, 31)


@pytest.mark.parametrize("seed", range(5))
def test_what_was_no_divergence_stays_none(seed):
    """A longer record does not change the judgement of its beginning."""
    losses = np.concatenate((1.5 + 0.1 * np.random.default_rng(seed).normal(size=40), np.zeros(160)))
    assert all(divergence(losses[:n])[0] is None for n in range(1, 201))


def test_noise_alone_never_diverges():
    for seed in range(200):
        losses = np.random.default_rng(seed).standard_t(3, size=100)
        assert divergence(losses)[0] is None


def test_smoothing_is_the_weighted_mean_around_every_finite_value():
    loss = np.random.default_rng(0).normal(size=200)
    loss[[0, 50, 51, 199]] = math.nan, math.inf, -math.inf, math.nan
    finite, index = np.isfinite(loss), np.arange(200)
    for i in index[finite]:
        weights = np.exp(-(((i - index[finite]) / 4) ** 2) / 2)
        assert smoothed(loss)[i] == pytest.approx(weights @ loss[finite] / weights.sum(), abs=1e-12)
    assert np.isnan(smoothed(loss)[~finite]).all()


def test_a_long_sweep_is_smoothed_in_the_memory_of_its_losses():
    loss = np.random.default_rng(0).normal(size=4000)
    tracemalloc.start()
    smoothed(loss)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * loss.nbytes  # one weight for each pair of points would be 4000 times that


# --- long curves ------------------------------------------------------------------------------------------------------


def long_curve(n):
    lr = np.geomspace(1e-7, 1.5, n)
    loss = 2.3 - 1.5 / (1 + 1e-2 / lr) + (lr / 0.8) ** 4
    return LRCurve(lr, noisy(loss, 0.05), 2.3, "diverged", "made by hand")


def test_fourier_transforms_smooth_as_the_sum_of_products_does(monkeypatch):
    loss = np.random.default_rng(0).normal(size=3000)
    loss[[5, 700]] = math.nan, math.inf
    directly = smoothed(loss)
    monkeypatch.setattr(noise_module, "MAX_DIRECT_PRODUCTS", 0)
    np.testing.assert_allclose(smoothed(loss), directly, atol=1e-12)


@pytest.mark.parametrize("method", ["edge", "steepest", "valley", "slide", "minimum_tenth"])
def test_a_million_points_suggest_what_a_thousand_do(method):
    short, long = (long_curve(n).suggest(method).max_lr for n in (1_000, 1_000_000))
    assert 0.2 < long / short < 5


def test_a_curve_of_up_to_ten_thousand_points_is_judged_as_it_is():
    lr, loss = np.geomspace(1e-3, 1, 10_000), np.ones(10_000)
    assert thinned(lr, loss)[1] is loss


def test_the_longest_valley_is_the_one_that_comparing_all_points_finds():
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


# --- reasons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [0, 1, 4])
def test_the_reason_is_that_of_the_answer(repeats):
    """A fifth of what it names is the rate, also where the sweeps differ by factors."""
    first, *others = (stopped(noisy(descent(10.0**-k), 0.1, k)) for k in range(1, repeats + 2))
    suggestion = replace(first, repeats=tuple(others)).suggest()
    (of,) = re.findall(r"a fifth of ([0-9.e-]+)", suggestion.reason)
    assert float(of) / 5 == pytest.approx(suggestion.max_lr, rel=6e-3)  # three digits
    assert ("of ramp" in suggestion.reason) == (repeats > 0)


@pytest.mark.parametrize("noise_size", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("scale", [0.01, 0.02])
def test_bounds_of_a_score_that_rises_at_once_lie_on_its_rise(noise_size, scale):
    lr = np.linspace(0.004, 0.132, 33)
    rise = 1 - np.exp(-(lr - lr[0]) / scale)
    score = 0.1 + 0.85 * rise + np.random.default_rng(0).normal(0, noise_size, 33)
    bounds = clr_bounds(lr, score)
    made = dict(zip(lr.tolist(), rise.tolist(), strict=True))
    assert made[bounds.base_lr] < 0.3
    assert 0.8 < made[bounds.max_lr] < 0.98


def test_the_named_bounds_are_those_that_are_given():
    lr = np.linspace(0.004, 0.132, 33)
    score = 0.1 + 0.85 * (1 - np.exp(-(lr - lr[0]) / 0.01)) + np.random.default_rng(1).normal(0, 0.03, 33)
    bounds = bootstrapped(clr_bounds, [(lr, score)])
    assert f"rise at {bounds.base_lr:.3g} and" in bounds.reason
    assert f" at {bounds.max_lr:.3g};" in bounds.reason


def test_one_low_score_before_the_rise_does_not_make_it_begin_there():
    score = np.concatenate((np.full(12, 0.1), np.linspace(0.12, 0.9, 20), np.full(8, 0.9)))
    score[3] = 0.0
    lr = np.linspace(0.01, 0.4, 40)
    assert clr_bounds(lr, score).base_lr == lr[13]  # at 0.161, and a tenth of the rise is made at 0.18


@pytest.mark.parametrize("max_lr", np.geomspace(1e-4, 10.0, 50).tolist())
def test_an_answer_is_in_its_interval_where_all_draws_agree(max_lr):
    lr, loss = np.geomspace(1e-5, 1.0, 30), np.linspace(2.0, 1.0, 30)
    always = Suggestion(max_lr, max_lr / 4, max_lr, max_lr, "always", "always")
    found = bootstrapped(lambda *_: always, [(lr, loss)])
    assert found.low <= found.max_lr == max_lr <= found.high
