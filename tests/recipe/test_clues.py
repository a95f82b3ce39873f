import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from clrfast import History, diagnose
from clrfast.recipe._diagnosis import FORGET, LEVEL, MIN_LOOKS, PLATEAU_FRAC, SLOW, STUCK, TOGETHER, TURN

N, M = 300, 60
T = np.linspace(0, 1, N)


def curve(*points):
    """Straight from point to point ``(fraction of the steps, loss)``, ``[N]``."""
    return np.interp(T, *zip(*points, strict=True))


def history(train, val=None, noise=0.0, seed=0, **settings):
    """``val`` (None: as train) at every fifth step; noise of the given size on both."""
    random = np.random.default_rng(seed)
    val_steps = np.arange(N // M, N + 1, N // M)
    val = (train if val is None else val)[val_steps - 1]
    return History(
        train + noise * random.normal(size=N), val + noise * random.normal(size=M), val_steps=val_steps, **settings
    )


def names(of):
    return [clue.name for clue in diagnose(of)]


# Each falls from 2.3 to about 0.3, so that a part of the whole fall is half of what the losses show.
QUICK = 0.3 + 2 * np.exp(-20 * T)
EVEN = 2.3 - 2 * T
SLOWLY = 0.3 + 2 * np.exp(-2 * T)
TURNING = curve((0, 2.3), (0.2, 0.3), (0.3, 0.3), (0.6, 0.8), (1, 1.0))
BUMP = curve((0, 2.3), (0.2, 0.3), (0.4, 1.3), (0.5, 1.3), (0.7, 0.3), (1, 0.3))
LEVELLING = 0.3 + 2 * np.exp(-3.5 * T)  # 0.07 of the fall in the last third
FLAT = np.full(N, 2.3)

CASES = [
    ("quick, then horizontal", QUICK, QUICK, ["plateau"]),
    ("levelling off", LEVELLING, LEVELLING, []),
    ("evenly falling", EVEN, EVEN, ["underfitting"]),
    ("slowly falling", SLOWLY, SLOWLY, ["underfitting"]),
    ("flat from the start", FLAT, FLAT, ["underfitting"]),
    ("rising from the start", FLAT, 2.3 + 2 * T, ["underfitting"]),
    ("turning up early", QUICK, TURNING, ["overfitting"]),
    ("turning up early, training loss falling", EVEN, TURNING, ["overfitting"]),
    ("rising from the start, training loss falling", QUICK, 2.3 + T, ["overfitting"]),
    ("a higher validation loss that stays", QUICK, QUICK + 0.5, ["plateau"]),
    ("rising together, and back", BUMP, BUMP, ["over-regularisation"]),
    ("a bump of the validation loss alone", QUICK, BUMP, []),
]


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(("train", "val", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_handmade_curves(train, val, expected, noise):
    assert names(history(train, val, noise)) == expected


@pytest.mark.parametrize("noise", [0.05, 0.2])
@pytest.mark.parametrize(("train", "val", "expected"), [case[1:] for case in CASES if case[3]])
def test_louder_noise_at_most_hides_a_clue(train, val, expected, noise):
    found = names(history(train, val, noise))
    assert found in (expected, [])
    assert found or noise == 0.2


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("offset", [0.0, -2.3, -50.0])  # to zero, or below
@pytest.mark.parametrize(("train", "val", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_neither_unit_nor_offset_matters(train, val, expected, scale, offset):
    plain, moved = (
        diagnose(history(train * k + b * k, val * k + b * k, 0.02 * k)) for k, b in ((1, 0), (scale, offset))
    )
    assert [clue.name for clue in moved] == expected
    assert [clue.steps for clue in moved] == [clue.steps for clue in plain]
    assert [clue.size for clue in moved] == pytest.approx([clue.size for clue in plain])


@pytest.mark.parametrize("looks", [MIN_LOOKS, 30, N])
def test_noise_alone_has_not_fallen_and_hides_nothing_else(looks):
    random = np.random.default_rng(0)
    found = []
    for _ in range(100):
        found += names(History(2 + 0.2 * random.normal(size=N), 2 + 0.2 * random.normal(size=looks)))
    assert set(found) <= {"underfitting", "over-regularisation"}
    assert found.count("underfitting") >= 94


# --- both sides of each threshold; figures are parts of the whole fall, here of 2 ------------------------------------


def late_fall(part):
    return curve((0, 2.3), (0.3, 0.3 + 2 * part), (2 / 3, 0.3 + 2 * part), (1, 0.3))


def drift(part):
    """Falls by ``part`` in the last ``PLATEAU_FRAC`` of the steps, and as fast for a while before."""
    return curve((0, 2.3), (0.4, 0.3 + 2 * part * 0.6 / PLATEAU_FRAC), (1, 0.3))


def horizontal(frac):
    return curve((0, 2.3), (1 - frac - 0.2, 2.3), (1 - frac, 0.3), (1, 0.3))


def turned(part):
    return curve((0, 2.3), (0.2, 0.3), (0.4, 0.3), (0.6, 0.3 + 2 * part), (1, 0.3 + 2 * part))


def together(part):
    return curve((0, 2.3), (0.2, 0.3), (0.4, 0.3), (0.5, 0.3 + 2 * part), (0.7, 0.3 + 2 * part), (0.8, 0.3), (1, 0.3))


def stopped(left):
    return curve((0, 2.3), (0.2, 2.3 * left), (1, 2.3 * left))


@pytest.mark.parametrize(
    ("above", "below", "name"),
    [
        (history(late_fall(1.2 * SLOW)), history(late_fall(0.9 * SLOW)), "underfitting"),
        (history(drift(0.8 * LEVEL)), history(drift(1.25 * LEVEL)), "plateau"),
        (history(horizontal(PLATEAU_FRAC + 0.04)), history(horizontal(PLATEAU_FRAC - 0.04)), "plateau"),
        (history(QUICK, turned(1.2 * TURN)), history(QUICK, turned(0.8 * TURN)), "overfitting"),
        (history(together(1.1 * TOGETHER)), history(together(0.9 * TOGETHER)), "over-regularisation"),
        (history(stopped(1.05 * STUCK)), history(stopped(0.95 * STUCK)), "over-regularisation"),
        (
            history(stopped(0.8), lr=0.1, weight_decay=1.1 * FORGET / (0.1 * N)),
            history(stopped(0.8), lr=0.1, weight_decay=0.9 * FORGET / (0.1 * N)),
            "over-regularisation",
        ),
    ],
    ids=["SLOW", "LEVEL", "PLATEAU_FRAC", "TURN", "TOGETHER", "STUCK", "FORGET"],
)
def test_both_sides_of_each_threshold(above, below, name):
    assert name in names(above)
    assert name not in names(below)


def test_a_change_that_noise_could_have_made_is_not_told():
    rise = turned(3 * TURN)
    assert names(history(QUICK, rise, noise=0.01)) == ["overfitting"]
    assert "overfitting" not in names(history(QUICK, rise, noise=0.2))


def test_too_few_looks_are_refused_unless_the_run_diverged():
    few = np.linspace(2, 1, MIN_LOOKS)
    assert names(History(few, few)) == ["underfitting"]
    with pytest.raises(ValueError, match=rf"^val_loss: got {MIN_LOOKS - 1} values, and at least {MIN_LOOKS} are"):
        diagnose(History(few, few[1:]))
    assert names(History([2.0, math.nan], [2.0])) == ["divergence"]


# --- what the settings add --------------------------------------------------------------------------------------------

ANNEALED = np.interp(T, [0, 0.6, 0.7, 1], [1.0, 1.0, 0.1, 0.0])


def test_what_falls_as_the_rate_anneals_is_no_underfitting():
    rewarded = curve((0, 2.3), (0.1, 0.9), (0.72, 0.9), (0.85, 0.3), (1, 0.3))
    assert names(history(rewarded)) == ["underfitting"]
    (clue,) = diagnose(history(rewarded, lr=ANNEALED))
    assert clue.name == "plateau"
    assert clue.steps[1] == pytest.approx(0.65 * N, abs=0.02 * N)
    assert names(history(curve((0, 2.3), (0.7, 0.3), (1, 0.3)), lr=ANNEALED)) == ["underfitting"]


def test_a_rate_that_decays_at_once_is_judged_in_the_first_half():
    # After a tenth of the steps this rate has halved, and every loss still falls.
    (clue,) = diagnose(history(QUICK, lr=np.exp(-7 * T)))
    assert (clue.name, clue.steps[1]) == ("plateau", N // 2)


def test_the_beginning_of_a_training_may_still_fall():
    beginning = 0.3 + 2 * np.exp(-1.5 * T)
    assert names(history(beginning, total_steps=N)) == ["underfitting"]
    # The last third of an exponential with so many decay times: 0.19 with 1.5, 0.13 with 2.25, 0.09 with 3.
    assert names(history(beginning, total_steps=N * 3 // 2)) == ["underfitting"]
    assert names(history(beginning, total_steps=2 * N)) == []
    assert names(history(EVEN, total_steps=10 * N)) == ["underfitting"]


@pytest.mark.parametrize(("weight_decay", "name"), [(0.0, "underfitting"), (1.0, "over-regularisation")])
def test_a_loss_that_never_falls_is_held_or_not_learnt(weight_decay, name):
    assert names(history(FLAT, lr=0.1, weight_decay=weight_decay)) == [name]


def test_high_losses_are_stuck_only_if_neither_moves():
    train, val = 1.8 + 0.5 * np.exp(-20 * T), curve((0, 2.3), (0.2, 1.8), (1, 2.3))
    assert names(history(train, train, 0.01)) == ["over-regularisation"]
    assert names(history(train, val, 0.01)) == ["overfitting"]


def test_evidence_and_advice_have_the_figures():
    (clue,) = diagnose(history(QUICK, TURNING, lr=0.1, weight_decay=1e-4))
    assert clue.steps[1] == N
    assert 0.2 * N <= clue.steps[0] <= 0.35 * N
    assert clue.size == pytest.approx((0.83 - 0.3) / 2, abs=0.02)  # 0.83 at two thirds
    assert "lowest, 0.3" in clue.evidence
    assert "(lr 0.1)" in clue.evidence
    assert "weight decay of 0.0003" in clue.advice
    (clue,) = diagnose(history(EVEN, lr=0.01))
    assert clue.steps == (2 * N // 3, N)
    assert clue.size == pytest.approx(1 / 3, abs=0.02)
    assert re.search("3[23]% of its whole fall", clue.evidence)
    assert "such as 0.03" in clue.advice
    (clue,) = diagnose(history(stopped(0.8), lr=0.1, weight_decay=0.1))
    assert clue.size == pytest.approx(0.8, abs=0.01)
    assert "exp(3)" in clue.evidence
    assert "0.01 instead of 0.1" in clue.advice


# --- divergence -------------------------------------------------------------------------------------------------------


def changed(loss, at, value):
    return np.concatenate((loss[:at], [value], loss[at + 1 :]))


@pytest.mark.parametrize(
    ("train", "val", "step", "seen"),
    [
        (changed(QUICK, 100, math.nan), QUICK, 100, "the training loss is nan at step 100 (lr 1)"),
        (changed(QUICK, 100, -math.inf), QUICK, 100, "the training loss is -inf at step 100 (lr 1)"),
        (QUICK, changed(QUICK, 99, math.inf), 100, "the validation loss is inf at step 100 (lr 1)"),  # of updates
        (changed(QUICK, 50, math.nan), changed(QUICK, 99, math.nan), 50, "the training loss is nan at step 50"),
        (changed(QUICK, 150, math.nan), changed(QUICK, 99, math.nan), 100, "the validation loss is nan at step 100"),
        (
            QUICK + np.exp(np.maximum(T - 0.8, 0) * 100) - 1,
            QUICK,
            247,
            "the training loss is 12.88 at step 247",
        ),
        (changed(QUICK, 100, 1e6), QUICK, 100, "the training loss is 1e+06 at step 100, past 8.2"),
    ],
)
def test_divergence_alone_is_told(train, val, step, seen):
    (clue,) = diagnose(history(train, val, lr=1.0))
    assert clue.name == "divergence"
    assert clue.steps == (step, step)
    assert clue.evidence.startswith(seen)
    assert clue.size > 1
    assert "below 0.33" in clue.advice
    assert "a third of the rate" in diagnose(history(train, val))[0].advice


def test_a_climb_short_of_divergence_is_not_one():
    assert "divergence" not in names(history(curve((0, 2.3), (0.5, 0.3), (1, 8.0))))  # the limit is 2.3 + 3 * 2
    assert names(history(curve((0, 2.3), (0.5, 0.3), (1, 8.6)))) == ["divergence"]


# --- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_loss": []}, r"train_loss: got shape \(0,\)"),
        ({"val_loss": 1.0}, r"val_loss: got shape \(\)"),
        ({"val_loss": np.ones(14)}, "val_steps: got None for 14 values of val_loss and 12 of train_loss"),
        ({"val_steps": [1, 2]}, r"val_steps: got \[1, 2\] for 12 values"),
        ({"val_steps": np.arange(12)[::-1]}, "val_steps: .* ascending"),
        ({"val_steps": np.arange(12) + 1.5}, "val_steps: .* from 0 to 12"),
        ({"val_steps": np.arange(12) - 1}, "val_steps: .* from 0 to 12"),
        ({"val_steps": np.arange(12) + 2}, "val_steps: .* from 0 to 12"),
        ({"lr": -0.1}, "lr: got -0.1; give one rate"),
        ({"lr": math.nan}, "lr: got nan"),
        ({"lr": np.ones(5)}, "lr: got .* for each of the 12 steps"),
        ({"weight_decay": -1e-4}, "weight_decay: got -0.0001"),
        ({"weight_decay": math.inf}, "weight_decay: got inf"),
        ({"total_steps": 11}, "total_steps: got 11; give a whole number, at least the 12 steps"),
        ({"total_steps": 20.5}, "total_steps: got 20.5"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match="^" + message):
        History(**{"train_loss": np.ones(12), "val_loss": np.ones(12), **change})


def test_only_steps_up_to_the_last_look_are_judged():
    steps = np.arange(5, N // 2 + 1, 5)
    (clue,) = diagnose(History(EVEN, EVEN[steps], val_steps=steps, lr=0.1))
    assert (clue.name, clue.steps) == ("underfitting", (N // 3, N // 2))
    (clue,) = diagnose(History(QUICK, TURNING[steps + 20], val_steps=steps))
    assert (clue.name, clue.steps[1]) == ("overfitting", N // 2)


def test_looks_without_steps_are_spread_evenly_up_to_the_end():
    assert History(np.ones(10), np.ones(4)).val_steps.tolist() == [2, 5, 7, 10]
    assert History(np.ones(4), np.ones(4)).val_steps.tolist() == [1, 2, 3, 4]


# --- real runs, pushed into each state on purpose ---------------------------------------------------------------------


def trained(seed, lr, weight_decay=0.0, n=2000, width=32, flipped=0.0, steps=200):
    """A small network on four clouds of points, some with wrong labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 10, generator=generator)

    def draw(n):
        y = torch.randint(4, (n,), generator=generator)
        return centres[y] + torch.randn(n, 10, generator=generator), y

    (x, y), (val_x, val_y) = draw(n), draw(400)
    wrong = torch.rand(n, generator=generator) < flipped
    y = torch.where(wrong, torch.randint(4, (n,), generator=generator), y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    train_loss, val_loss = [], []
    for step in range(steps):
        batch = torch.randint(n, (32,), generator=generator)
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        train_loss.append(loss.item())
        if step % 5 == 4:
            with torch.no_grad():
                val_loss.append(nn.functional.cross_entropy(model(val_x), val_y).item())
    return {"train_loss": train_loss, "val_loss": val_loss, "lr": lr, "weight_decay": weight_decay}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lr": 0.05}, ["plateau"]),
        ({"lr": 0.05, "weight_decay": 1e-3}, ["plateau"]),
        ({"lr": 1e-4}, ["underfitting"]),
        ({"lr": 1e-7}, ["underfitting"]),
        ({"lr": 0.1, "n": 40, "width": 512, "flipped": 0.3}, ["overfitting"]),
        ({"lr": 300.0}, ["divergence"]),
        ({"lr": 0.1, "weight_decay": 1.0}, ["over-regularisation"]),
    ],
    ids=["good", "some decay", "small rate", "tiny rate", "few samples", "huge rate", "huge decay"],
)
def test_real_runs_pushed_into_each_state(seed, settings, expected):
    assert names(History(**trained(seed, **settings))) == expected
