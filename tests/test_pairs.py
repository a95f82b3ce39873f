import math

import numpy as np
import pytest
import torch

from clrfast import History, NoSuggestionError
from clrfast.recipe import Pairs, find_pair
from clrfast.recipe.pairs import LINE, RATE_STEP, _climb, _line, _Made

from .test_restore import everything
from .test_weight_decay import LOADER, LOSS_FN, MODEL, VAL, regression

pytestmark = pytest.mark.usefixtures("one_thread")

# ------------------------------------------------------------ where it goes


def searched(loss, max_steps=10_000, steps=100):
    """The search on ``loss(log10 of the rate, log10 of the decay)``, from the rate 1."""
    made = _Made(1.0, max_steps)

    def run(place, decay, of):
        end = loss(place * math.log10(RATE_STEP), math.log10(decay))
        return made.add(place, decay, of, History(np.ones(of), [9.0, end], [0, of]))

    decay, towards = _line(made, run, steps // 2, steps)
    _climb(made, run, steps, decay, towards)
    return made.pairs()


@pytest.mark.parametrize(
    ("rate", "decay"), [(0.0, -3.0), (0.5, -3.0), (1.0, -2.5), (-0.5, -4.0), (0.25, -2.0), (-1.0, -1.0), (0.75, -3.5)]
)
def test_it_ends_at_the_lowest_neighbour(rate, decay):
    found = searched(lambda a, b: (a - rate) ** 2 + (b - decay) ** 2).suggest()
    assert math.log10(found.max_lr) == pytest.approx(rate)
    assert math.log10(found.weight_decay) == pytest.approx(decay, abs=0.03)  # 3e-4 is not quite 10 ** -3.5


def test_it_follows_a_ridge():
    """The higher the rate the less decay is wanted, as where both shrink the weights."""
    found = searched(lambda a, b: (a + b + 3) ** 2 + 0.1 * (a - 1) ** 2).suggest()
    assert found.max_lr >= 5
    assert found.weight_decay <= 3e-4


def test_it_stays_below_what_diverges():
    found = searched(lambda a, b: math.inf if a > 1.1 else 2 * (a - 0.5) ** 2 + (b + 3) ** 2).suggest()
    assert found.max_lr == pytest.approx(10**0.5)


@pytest.mark.parametrize("edge", [0.2, 0.3, 0.6])
def test_it_goes_back_from_the_edge_where_little_is_gained_there(edge):
    """From 1 the loss falls slowly with the rate; it is 9 at the start."""
    found = searched(lambda a, b: math.inf if a > edge else 1 - 0.1 * a + (b + 3) ** 2)
    failing = found.max_lr[np.isinf(found.loss)].min()
    assert found.suggest().max_lr <= failing / 10
    assert found.suggest().weight_decay == 1e-3
    assert found.loss.argmin() != found.best


@pytest.mark.parametrize("max_steps", [250, 300, 349, 500, 800])
def test_it_keeps_to_the_steps_allowed(max_steps):
    found = searched(lambda a, b: (a - 2) ** 2 + (b - 2) ** 2, max_steps)
    assert max_steps - 100 < found.steps.sum() <= max_steps
    assert found.steps.max() == 100  # at least one is of full length


def test_no_pair_is_tried_twice_and_the_first_are_half_as_long():
    found = searched(lambda a, b: (a - 0.5) ** 2 + (b + 3) ** 2)
    places = list(zip(found.max_lr, found.weight_decay, found.steps, strict=True))
    assert len(set(places)) == len(places)
    assert found.steps.tolist() == [50] * 3 + [100] * (len(places) - 3)
    assert found.weight_decay[:3].tolist() == list(LINE)


# ------------------------------------------------------------ what is made of the losses


def made(losses, steps, rates=(0.1, 0.1, 0.3)):
    runs = tuple(
        History(np.ones(of), [2.0, loss], [0, of], lr=np.ones(of)) for loss, of in zip(losses, steps, strict=True)
    )
    return Pairs(np.array(rates), np.array([1e-4, 1e-3, 1e-3]), np.array(steps), runs)


def test_only_the_longest_count():
    found = made([0.5, 1.2, 1.1], [50, 100, 100])
    pair = found.suggest()
    assert (pair.max_lr, pair.weight_decay) == (0.3, 1e-3)
    assert pair.reason == (
        "of 2 runs of 100 steps, with rates from 0.1 to 0.3 and weight decays from 0.001 to 0.001, the one with 0.3 "
        "and 0.001 ends with the lowest validation loss (1.1)"
    )
    assert str(found).count("\n") == 3


def test_what_is_near_a_failing_rate_is_expected_to_fail_with_that_chance():
    found = made([0.5, 0.9, 1.3], [100] * 3, rates=(0.2, 0.1, 0.4))  # 2 at the start: above 1.25 it has failed
    assert found.failing_lr.tolist() == [0.4, 0.4, math.inf]
    assert found.expected.tolist() == pytest.approx([0.5 + 1.5 / 8, 0.9 + 1.1 / 32, 1.3])
    assert found.best == 0
    assert made([0.5, 0.9, 1.2], [100] * 3, rates=(0.2, 0.1, 0.4)).expected.tolist() == [0.5, 0.9, 1.2]


def test_a_pair_too_near_to_failure_is_told():
    found = made([0.8, 0.7, math.inf], [100, 100, 50], rates=(0.1, 0.3, 0.4))
    assert found.best == 0
    assert found.suggest().reason.endswith(
        "the one with 0.1 and 0.0001 is taken, with a validation loss of 0.8 at the end: with 0.3 and 0.001 it is 0.7, "
        "but a run failed at 0.4, and so near to that another training may"
    )


@pytest.mark.parametrize("losses", [[0.5, 2.1, 2.0], [0.5, math.inf, math.nan]])
def test_nothing_that_falls_is_no_answer(losses):
    with pytest.raises(NoSuggestionError, match="in no run of 100 steps"):
        made(losses, [50, 100, 100]).suggest()


# ------------------------------------------------------------ real runs


def test_few_noisy_samples_want_much_decay():
    """60 samples for 50 weights: least squares fits the noise, and shrinking the weights is most of what helps."""
    model, loss_fn, loader, val = regression(60, 1.0)
    shown = torch.optim.SGD(model.parameters(), lr=0.1)
    before, order, told = everything(model, shown), loader.generator.get_state(), []
    found = find_pair(
        *(model, loss_fn, loader),
        val_loader=val,
        max_lr=0.03,
        steps=100,
        max_steps=700,
        progress=lambda *args: told.append(args[:2]),
    )
    assert everything(model, shown) == before
    assert torch.equal(loader.generator.get_state(), order)
    assert found.suggest().weight_decay >= 0.03
    assert [np.size(run.train_loss) for run in found.runs] == found.steps.tolist()
    for run, lr, decay in zip(found.runs, found.max_lr, found.weight_decay, strict=True):
        assert max(run.lr) == pytest.approx(lr, rel=0.05)
        assert run.weight_decay == decay
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (found.steps.sum(), 700)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_lr": None}, "max_lr: got None; give a finite number above 0"),
        ({"steps": 39}, "steps: got 39; .* at least 40"),
        ({"steps": 50.5}, "steps: got 50.5"),
        ({"max_steps": 99}, "max_steps: got 99; give at least 2.5 times the 40 steps"),
        ({"max_lr": 0.0}, "max_lr: got 0"),
        ({"val_loader": LOADER}, "val_loader: got the same data"),
        ({"momentum": 1.0}, "momentum: got 1.0"),
    ],
)
def test_bad_input_is_named(options, named):
    given = {"loader": LOADER, "val_loader": VAL, "max_lr": 0.01, "steps": 40, "max_steps": 100, **options}
    with pytest.raises(ValueError, match=named):
        find_pair(MODEL, LOSS_FN, **given)
