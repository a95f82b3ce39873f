import math

import numpy as np
import pytest
import torch

from clrfast import History, NoSuggestionError
from clrfast.recipe import PairTrials, find_pair
from clrfast.recipe._lattice import DECAYS, FIRST_DECAY, LARGE_DECAY, RATE_RATIO, pair_at
from clrfast.recipe._sampler import MIN_TRIALS, PairSampler
from tests.helpers.problems import regression
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL, LOSS_FN, LOADER, VAL = regression(100, 0.1)

# ------------------------------------------------------------ where it goes

START = 9.0
"""The loss before each run."""


def history(loss, steps=100, initial=START):
    """Of a run; one that diverged ends after a tenth of its steps."""
    made = steps if math.isfinite(loss) else steps // 10
    return History(np.ones(made), [initial, loss], [0, made])


def searched(loss, runs=12, initial=START):
    """The trials that the sampler places on ``loss(log10 of the rate, log10 of the decay)``, from the rate 1."""
    sampler = PairSampler(1.0, 100, 100 * runs)
    while (point := sampler.next_point()) is not None:
        sampler.histories[point] = history(loss(*np.log10(pair_at(point, 1.0))), initial=initial)
    return sampler.results


@pytest.mark.parametrize(
    ("rate", "decay"), [(0.0, -3.0), (0.5, -3.0), (1.0, -2.5), (-0.5, -4.0), (-1.5, -2.0), (-1.0, -1.0), (0.5, -4.5)]
)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, -5.0)])
def test_it_comes_near_the_lowest(rate, decay, scale, shift):
    """Within a half decade of the rate and of the decay in 12 runs of 77."""

    def loss(a, b):
        return scale * ((a - rate) ** 2 + 0.3 * (b - decay) ** 2) + shift

    found = searched(loss, initial=scale * START + shift).suggest()
    assert math.log10(found.max_lr) == pytest.approx(rate, abs=0.51)
    assert math.log10(found.weight_decay) == pytest.approx(decay, abs=0.53)


def test_it_follows_a_ridge():
    """The higher the rate the less decay is wanted, as where both shrink the weights."""
    found = searched(lambda a, b: (a + b + 3) ** 2 + 0.1 * (a - 1) ** 2).suggest()
    assert found.max_lr >= 3
    assert found.weight_decay <= 1e-3


def test_it_stays_below_what_diverges():
    found = searched(lambda a, b: math.inf if a > 0.6 else 2 * (a - 0.5) ** 2 + 0.3 * (b + 3) ** 2).suggest()
    assert found.max_lr == pytest.approx(10**0.5)


def test_where_nothing_falls_it_goes_a_decade_lower():
    found = searched(lambda a, b: math.inf if a > -1.6 else 2 + b / 10)
    assert found.max_lr[:3].tolist() == pytest.approx([1.0, 0.1, 0.01])
    assert found.weight_decay[:3].tolist() == [FIRST_DECAY] * 3
    assert np.isfinite(found.loss[2:]).any()


@pytest.mark.parametrize("initial", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_at_the_start_is_no_hindrance(initial):
    found = searched(lambda a, b: math.inf if a > 1 else (a + 0.5) ** 2 + 0.3 * (b + 3) ** 2, initial=initial)
    assert found.suggest().max_lr == pytest.approx(10**-0.5)


@pytest.mark.parametrize("runs", [3, 5, 8])
def test_it_keeps_to_the_steps_allowed(runs):
    found = searched(lambda a, b: (a - 2) ** 2 + (b - 2) ** 2, runs)
    assert len(found.histories) == runs


def test_what_a_run_that_diverged_did_not_make_is_left_for_others():
    found = searched(lambda a, b: math.inf if a > -1.1 else (a + 2) ** 2 + (b + 3) ** 2, 8)
    made = [np.size(run.train_loss) for run in found.histories]
    assert made[:3] == [10, 10, 100]
    assert 700 < sum(made) <= 800
    assert len(made) > 8


def test_it_ends_where_no_more_is_expected():
    found = searched(lambda a, b: (a - 0.5) ** 2 + 0.3 * (b + 3) ** 2, 1000)
    assert MIN_TRIALS < len(found.histories) < 40


def test_no_pair_is_tried_twice_and_all_are_of_the_lattice():
    found = searched(lambda a, b: (a - 0.5) ** 2 + (b + 3) ** 2, 30)
    places = list(zip(found.max_lr, found.weight_decay, strict=True))
    assert len(set(places)) == len(places)
    assert places[0] == (1.0, FIRST_DECAY)
    assert set(found.weight_decay) <= {decay for decay in DECAYS if decay <= LARGE_DECAY}
    steps = np.log(found.max_lr) / math.log(RATE_RATIO)
    assert steps == pytest.approx(np.round(steps), abs=1e-9)


# ------------------------------------------------------------ what is made of the losses


def made(losses, rates=(0.1, 0.1, 0.3)):
    runs = tuple(history(loss, initial=2.0) for loss in losses)
    return PairTrials(np.array(rates), np.array([1e-4, 1e-3, 1e-2]), 100, runs)


def test_the_lowest_is_taken():
    found = made([0.5, math.inf, 0.4])
    pair = found.suggest()
    assert (pair.max_lr, pair.weight_decay, found.best) == (0.3, 1e-2, 2)
    assert pair.reason == (
        "of 3 runs of 100 steps, with rates from 0.1 to 0.3 and weight decays from 0.0001 to 0.01, the one with 0.3 "
        "and 0.01 ends with the lowest validation loss (0.4)"
    )
    assert str(found).count("\n") == 3


def test_what_is_near_a_failing_rate_is_expected_to_fail_with_that_chance():
    found = made([0.5, 0.9, 1.3], rates=(0.2, 0.1, 0.4))  # 2 at the start: above 1.25 it has failed
    assert found.failing_lr.tolist() == pytest.approx([0.4, 0.4, 0.4 * RATE_RATIO])
    assert found.expected_loss.tolist() == pytest.approx([0.5 + 1.5 / 32, 0.9 + 1.1 / 512, 1.3 + 0.7 / 200])
    assert found.best == 0


def test_what_is_above_all_that_was_tried_may_fail():
    found = made([0.5, 0.9, 1.2], rates=(0.2, 0.1, 0.4))
    assert found.failing_lr.tolist() == pytest.approx([0.4 * RATE_RATIO] * 3)
    assert found.expected_loss.tolist() == pytest.approx([0.5 + 1.5 / 16 / 200, 0.9 + 1.1 / 256 / 200, 1.2 + 0.8 / 200])


@pytest.mark.parametrize(
    ("losses", "why"), [([0.8, 0.7, math.inf], "a run failed at 0.4"), ([0.8, 0.9, 0.797], "no higher rate was tried")]
)
def test_a_pair_too_near_to_failure_is_told(losses, why):
    found = made(losses, rates=(0.1, 0.3, 0.4))
    lowest = int(found.loss.argmin())
    assert found.best == 0
    assert found.suggest().reason.endswith(
        "the one with 0.1 and 0.0001 is taken, with a validation loss of 0.8 at the end: with "
        f"{found.max_lr[lowest]:g} and {found.weight_decay[lowest]:g} it is {losses[lowest]}, but {why}, and so "
        "another training may fail there"
    )


@pytest.mark.parametrize("losses", [[2.0, 2.1, 2.0], [2.5, math.inf, math.nan]])
def test_nothing_that_falls_is_no_answer(losses):
    with pytest.raises(NoSuggestionError, match="in no run of 100 steps"):
        made(losses).suggest()


# ------------------------------------------------------------ real runs


def test_few_noisy_samples_want_much_decay():
    """60 samples for 50 weights: least squares fits the noise, and shrinking the weights is most of what helps. Low
    rates help, too, but less: the search goes on to the decay only then."""
    model, loss_fn, loader, val = regression(60, 1.0)
    found = find_pair(model, loss_fn, loader, val_loader=val, max_lr=0.01, steps=100, max_steps=3000)
    assert found.suggest().weight_decay == 1.0
    assert found.loss.min() < 0.97 * found.loss[found.weight_decay <= 0.03].min()


def test_real_runs_leave_all_as_it_was():
    model, loss_fn, loader, val = regression(60, 1.0)
    shown = torch.optim.SGD(model.parameters(), lr=0.1)
    before, order, told = full_state(model, shown), loader.generator.get_state(), []
    found = find_pair(
        *(model, loss_fn, loader),
        val_loader=val,
        max_lr=0.03,
        steps=100,
        max_steps=700,
        progress=lambda *args: told.append(args[:2]),
    )
    assert full_state(model, shown) == before
    assert torch.equal(loader.generator.get_state(), order)
    assert [np.size(run.train_loss) for run in found.histories] == [100] * 7
    for run, lr, decay in zip(found.histories, found.max_lr, found.weight_decay, strict=True):
        assert max(run.lr) == pytest.approx(lr, rel=0.05)
        assert run.weight_decay == decay
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (700, 700)


def test_it_goes_on_from_what_was_found():
    def find(**options):
        model, loss_fn, loader, val = regression(60, 1.0)
        return find_pair(model, loss_fn, loader, val_loader=val, max_lr=0.01, steps=40, **options)

    kept = []
    whole = find(max_steps=280, save=kept.append)
    assert [len(found.histories) for found in kept] == list(range(1, 8))
    assert kept[-1].table() == whole.table()
    assert find(max_steps=280, finished=kept[3]).table() == whole.table()
    assert find(max_steps=280, finished=whole).table() == whole.table()
    assert len(find(max_steps=320, finished=whole).histories) == 8
    with pytest.raises(
        ValueError, match=r"finished: got runs of 40 steps from a max_lr of 0.01 on, where these are 50"
    ):
        find_pair(MODEL, LOSS_FN, LOADER, val_loader=VAL, max_lr=0.01, steps=50, max_steps=400, finished=whole)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_lr": None}, "max_lr: got None; give a finite number above 0"),
        ({"steps": 39}, "steps: got 39; .* at least 40"),
        ({"steps": 50.5}, "steps: got 50.5"),
        ({"max_steps": 119}, "max_steps: got 119; give at least 3 times the 40 steps"),
        ({"max_lr": 0.0}, "max_lr: got 0"),
        ({"val_loader": LOADER}, "val_loader: got the same data"),
        ({"momentum": 1.0}, "momentum: got 1.0"),
    ],
)
def test_bad_input_is_named(options, named):
    given = {"loader": LOADER, "val_loader": VAL, "max_lr": 0.01, "steps": 40, "max_steps": 120, **options}
    with pytest.raises(ValueError, match=named):
        find_pair(MODEL, LOSS_FN, **given)
