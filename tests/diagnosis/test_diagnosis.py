import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from clrfast import History, diagnose
from clrfast.diagnosis._diagnosis import (
    JOINT_RISE_FRAC,
    LEVEL_FRAC,
    MIN_DECAY_EXPONENT,
    MIN_VAL_LOSSES,
    PLATEAU_FRAC,
    SLOW_FALL_FRAC,
    STUCK_FRAC,
    UPTURN_FRAC,
)

N, M = 300, 60


T = np.linspace(0, 1, N)


def curve(*points):
    """A loss that is linear between points ``(fraction of the steps, loss)``, ``[N]``."""
    return np.interp(T, *zip(*points, strict=True))


def history(train, val=None, noise=0.0, seed=0, **settings):
    """A history with ``val`` (None: ``train``) at every fifth step, and Gaussian noise on both losses."""
    random = np.random.default_rng(seed)
    val_steps = np.arange(N // M, N + 1, N // M)
    val = (train if val is None else val)[val_steps - 1]
    return History(
        train + noise * random.normal(size=N), val + noise * random.normal(size=M), val_steps=val_steps, **settings
    )


def names(of):
    return [diagnosis.name for diagnosis in diagnose(of)]


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
def test_handmade_curves_get_their_diagnosis(train, val, expected, noise):
    assert names(history(train, val, noise)) == expected


@pytest.mark.parametrize("noise", [0.05, 0.2])
@pytest.mark.parametrize(("train", "val", "expected"), [case[1:] for case in CASES if case[3]])
def test_louder_noise_at_most_hides_a_diagnosis(train, val, expected, noise):
    found = names(history(train, val, noise))
    assert found in (expected, [])
    assert found or noise == 0.2


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("offset", [0.0, -2.3, -50.0])  # to zero, or below
@pytest.mark.parametrize(("train", "val", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_diagnoses_depend_on_neither_unit_nor_offset_of_the_loss(train, val, expected, scale, offset):
    plain, moved = (
        diagnose(history(train * k + b * k, val * k + b * k, 0.02 * k)) for k, b in ((1, 0), (scale, offset))
    )
    assert [diagnosis.name for diagnosis in moved] == expected
    assert [diagnosis.steps for diagnosis in moved] == [diagnosis.steps for diagnosis in plain]
    assert [diagnosis.size for diagnosis in moved] == pytest.approx([diagnosis.size for diagnosis in plain])


@pytest.mark.parametrize("n_validations", [MIN_VAL_LOSSES, 30, N])
def test_pure_noise_is_underfitting_or_over_regularisation(n_validations):
    random = np.random.default_rng(0)
    found = []
    for _ in range(100):
        found += names(History(2 + 0.2 * random.normal(size=N), 2 + 0.2 * random.normal(size=n_validations)))
    assert set(found) <= {"underfitting", "over-regularisation"}
    assert found.count("underfitting") >= 94


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
        (history(late_fall(1.2 * SLOW_FALL_FRAC)), history(late_fall(0.9 * SLOW_FALL_FRAC)), "underfitting"),
        (history(drift(0.8 * LEVEL_FRAC)), history(drift(1.25 * LEVEL_FRAC)), "plateau"),
        (history(horizontal(PLATEAU_FRAC + 0.04)), history(horizontal(PLATEAU_FRAC - 0.04)), "plateau"),
        (history(QUICK, turned(1.2 * UPTURN_FRAC)), history(QUICK, turned(0.8 * UPTURN_FRAC)), "overfitting"),
        (history(together(1.1 * JOINT_RISE_FRAC)), history(together(0.9 * JOINT_RISE_FRAC)), "over-regularisation"),
        (history(stopped(1.05 * STUCK_FRAC)), history(stopped(0.95 * STUCK_FRAC)), "over-regularisation"),
        (
            history(stopped(0.8), lr=0.1, weight_decay=1.1 * MIN_DECAY_EXPONENT / (0.1 * N)),
            history(stopped(0.8), lr=0.1, weight_decay=0.9 * MIN_DECAY_EXPONENT / (0.1 * N)),
            "over-regularisation",
        ),
    ],
    ids=[
        "SLOW_FALL_FRAC",
        "LEVEL_FRAC",
        "PLATEAU_FRAC",
        "UPTURN_FRAC",
        "JOINT_RISE_FRAC",
        "STUCK_FRAC",
        "MIN_DECAY_EXPONENT",
    ],
)
def test_each_diagnosis_begins_at_its_threshold(above, below, name):
    assert name in names(above)
    assert name not in names(below)


def test_a_change_within_the_noise_is_no_evidence():
    rise = turned(3 * UPTURN_FRAC)
    assert names(history(QUICK, rise, noise=0.01)) == ["overfitting"]
    assert "overfitting" not in names(history(QUICK, rise, noise=0.2))


def test_too_few_validations_are_refused_unless_the_run_diverged():
    few = np.linspace(2, 1, MIN_VAL_LOSSES)
    assert names(History(few, few)) == ["underfitting"]
    with pytest.raises(
        ValueError, match=rf"^val_loss: got {MIN_VAL_LOSSES - 1} values, and at least {MIN_VAL_LOSSES} are"
    ):
        diagnose(History(few, few[1:]))
    assert names(History([2.0, math.nan], [2.0])) == ["divergence"]


ANNEALED = np.interp(T, [0, 0.6, 0.7, 1], [1.0, 1.0, 0.1, 0.0])


def test_a_loss_that_falls_only_as_the_rate_anneals_is_not_underfitting():
    rewarded = curve((0, 2.3), (0.1, 0.9), (0.72, 0.9), (0.85, 0.3), (1, 0.3))
    assert names(history(rewarded)) == ["underfitting"]
    (diagnosis,) = diagnose(history(rewarded, lr=ANNEALED))
    assert diagnosis.name == "plateau"
    assert diagnosis.steps[1] == pytest.approx(0.65 * N, abs=0.02 * N)
    assert names(history(curve((0, 2.3), (0.7, 0.3), (1, 0.3)), lr=ANNEALED)) == ["underfitting"]


def test_a_run_whose_rate_decays_at_once_is_judged_in_its_first_half():
    # After a tenth of the steps this rate has halved, and every loss still falls.
    (diagnosis,) = diagnose(history(QUICK, lr=np.exp(-7 * T)))
    assert (diagnosis.name, diagnosis.steps[1]) == ("plateau", N // 2)


def test_the_loss_may_still_fall_at_the_beginning_of_a_longer_training():
    beginning = 0.3 + 2 * np.exp(-1.5 * T)
    assert names(history(beginning, total_steps=N)) == ["underfitting"]
    # Fall of an exponential in its last third: 0.19 with 1.5 decay times, 0.13 with 2.25, 0.09 with 3.
    assert names(history(beginning, total_steps=N * 3 // 2)) == ["underfitting"]
    assert names(history(beginning, total_steps=2 * N)) == []
    assert names(history(EVEN, total_steps=10 * N)) == ["underfitting"]


@pytest.mark.parametrize(("weight_decay", "name"), [(0.0, "underfitting"), (1.0, "over-regularisation")])
def test_a_loss_that_never_falls_is_underfitting_or_with_strong_decay_over_regularisation(weight_decay, name):
    assert names(history(FLAT, lr=0.1, weight_decay=weight_decay)) == [name]


def test_high_losses_are_over_regularisation_only_if_neither_moves():
    train, val = 1.8 + 0.5 * np.exp(-20 * T), curve((0, 2.3), (0.2, 1.8), (1, 2.3))
    assert names(history(train, train, 0.01)) == ["over-regularisation"]
    assert names(history(train, val, 0.01)) == ["overfitting"]


def test_evidence_and_advice_name_the_numbers():
    (diagnosis,) = diagnose(history(QUICK, TURNING, lr=0.1, weight_decay=1e-4))
    assert diagnosis.steps[1] == N
    assert 0.2 * N <= diagnosis.steps[0] <= 0.35 * N
    assert diagnosis.size == pytest.approx((0.83 - 0.3) / 2, abs=0.02)  # 0.83 at two thirds
    assert "lowest, 0.3" in diagnosis.evidence
    assert "(lr 0.1)" in diagnosis.evidence
    assert "weight decay of 0.0003" in diagnosis.advice
    (diagnosis,) = diagnose(history(EVEN, lr=0.01))
    assert diagnosis.steps == (2 * N // 3, N)
    assert diagnosis.size == pytest.approx(1 / 3, abs=0.02)
    assert re.search("3[23]% of its whole fall", diagnosis.evidence)
    assert "such as 0.03" in diagnosis.advice
    (diagnosis,) = diagnose(history(stopped(0.8), lr=0.1, weight_decay=0.1))
    assert diagnosis.size == pytest.approx(0.8, abs=0.01)
    assert "exp(3)" in diagnosis.evidence
    assert "0.01 instead of 0.1" in diagnosis.advice


def changed(loss, at, value):
    return np.concatenate((loss[:at], [value], loss[at + 1 :]))


@pytest.mark.parametrize(
    ("train", "val", "step", "seen"),
    [
        (changed(QUICK, 100, math.nan), QUICK, 100, "the training loss is nan at step 100 (lr 1)"),
        (changed(QUICK, 100, -math.inf), QUICK, 100, "the training loss is -inf at step 100 (lr 1)"),
        (
            QUICK,
            changed(QUICK, 99, math.inf),
            100,
            "the validation loss is inf at step 100 (lr 1)",
        ),  # after 100 updates
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
def test_divergence_is_the_only_diagnosis_of_a_run_that_diverged(train, val, step, seen):
    (diagnosis,) = diagnose(history(train, val, lr=1.0))
    assert diagnosis.name == "divergence"
    assert diagnosis.steps == (step, step)
    assert diagnosis.evidence.startswith(seen)
    assert diagnosis.size > 1
    assert "below 0.33" in diagnosis.advice
    assert "a third of the rate" in diagnose(history(train, val))[0].advice


def test_a_climb_short_of_the_limit_is_not_divergence():
    assert "divergence" not in names(history(curve((0, 2.3), (0.5, 0.3), (1, 8.0))))  # the limit is 2.3 + 3 * 2
    assert names(history(curve((0, 2.3), (0.5, 0.3), (1, 8.6)))) == ["divergence"]


def test_only_steps_up_to_the_last_validation_are_judged():
    steps = np.arange(5, N // 2 + 1, 5)
    (diagnosis,) = diagnose(History(EVEN, EVEN[steps], val_steps=steps, lr=0.1))
    assert (diagnosis.name, diagnosis.steps) == ("underfitting", (N // 3, N // 2))
    (diagnosis,) = diagnose(History(QUICK, TURNING[steps + 20], val_steps=steps))
    assert (diagnosis.name, diagnosis.steps[1]) == ("overfitting", N // 2)


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
def test_real_runs_get_the_diagnosis_that_their_settings_provoke(seed, settings, expected):
    assert names(History(**trained(seed, **settings))) == expected
