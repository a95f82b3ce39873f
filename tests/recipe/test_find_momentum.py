"""``find_momentum``: its answers, the trials of the cycle and its arguments."""

import numpy as np
import pytest
import torch
from torch import nn

from clrfast import History, MomentumTrials, NoSuggestionError, find_momentum, one_cycle
from tests.helpers.problems import regression
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


class Point(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.at = nn.Parameter(start)


def quadratic(curvature, noise, start):
    """A quadratic bowl whose gradient has noise in training, and none in validation."""
    curvature = torch.as_tensor(curvature)

    def compute_loss(model, batch):
        return 0.5 * (curvature * model.at**2).sum() + (batch * model.at).sum()

    generator = torch.Generator().manual_seed(0)
    batches = [noise * torch.randn(len(start), generator=generator) for _ in range(500)]
    return {
        "model": Point(torch.as_tensor(start)),
        "loader": batches,
        "val_loader": [torch.zeros(len(start))],
        "compute_loss": compute_loss,
    }


def test_a_stiff_quadratic_gets_a_large_momentum():
    """At a rate that the steep direction allows, the flat direction needs momentum to make progress."""
    found = find_momentum(**quadratic([1.0, 1e4], 0.0, [1.0, 1e-3]), max_lr=1e-4)
    assert found.suggest().value == 0.99
    assert found.cycle == (0.99, 0.85)
    assert (np.diff(found.loss.mean(axis=1)) < 0).all()


def test_a_noisy_quadratic_gets_a_small_momentum():
    """A few steps reach the minimum; after that the noise of each step persists for 1 / (1 - momentum) steps."""
    found = find_momentum(**quadratic([1.0] * 50, 1.0, [1.0] * 50), max_lr=0.1)
    assert found.suggest().value == 0.9
    assert found.cycle == (0.9, 0.85)
    assert (np.diff(found.loss.mean(axis=1)) > 0).all()


def test_the_cycle_is_tried_and_fits_into_a_schedule():
    found = find_momentum(**quadratic([1.0] * 50, 1.0, [1.0] * 50), max_lr=0.1, steps=60)
    assert len(found.cyclical) == 2
    assert f"with a cycle from {found.cycle[0]:g} to 0.85 it is " in found.suggest().reason
    schedule = one_cycle(0.1, 10, momentum=found.cycle)
    assert schedule.momentum([0, 4]).tolist() == pytest.approx(found.cycle)


@pytest.mark.parametrize(
    ("values", "losses", "chosen", "cycle"),
    [
        ((0.9, 0.95, 0.99), (1.0, 1.2, 1.4), 0.9, (0.9, 0.85)),
        ((0.9, 0.95, 0.99), (1.2, 1.0, 1.4), 0.95, (0.95, 0.85)),
        ((0.8, 0.85, 0.99), (1.2, 1.0, 1.4), 0.85, (0.85, 0.8)),
        ((0.5, 0.7), (1.0, 1.2), 0.5, (0.5, 0.5)),
        ((0.9, 0.95, 0.99), (1.0, 1.0, 1.4), 0.95, (0.95, 0.85)),  # equally good: the default
        ((0.9, 0.95, 0.99), (1.0, 1.0, 1.0), 0.95, (0.95, 0.85)),
        ((0.5, 0.8, 0.9), (1.0, 1.0, 1.0), 0.9, (0.9, 0.85)),  # equally good: the nearest to the default
    ],
)
def test_the_best_momentum_is_suggested_with_its_cycle(values, losses, chosen, cycle):
    runs = tuple(tuple(History(np.ones(20), [2.0, loss], [0, 20]) for _ in range(2)) for loss in losses)
    found = MomentumTrials(np.array(values), runs, 0.1)
    assert found.suggest().value == chosen
    assert found.cycle == cycle


def test_trials_without_a_suggestion_are_returned():
    """Far beyond the edge of stability the loss never falls."""
    found = find_momentum(**quadratic([1.0], 0.0, [1.0]), max_lr=1e4, steps=20)
    assert found.cyclical == ()
    assert len(found.histories) == 4
    with pytest.raises(NoSuggestionError, match="in no trial with a rate"):
        found.suggest()


def test_a_trial_equals_a_training_by_torch_with_its_momentum_and_weight_decay():
    model, loss_fn, loader, val = regression(100, 0.5, features=10)
    batches, held = list(loader), list(val)
    found = find_momentum(
        model, loss_fn, batches, val_loader=held, values=(0.5, 0.9), weight_decay=0.1, max_lr=0.05, steps=20
    )
    own = nn.Linear(10, 1)
    own.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(own.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    for step, lr in enumerate(one_cycle(0.05, 20).lr(range(20))):
        x, y = batches[step % len(batches)]
        optimizer.param_groups[0]["lr"] = float(lr)
        optimizer.zero_grad()
        loss_fn(own(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        assert found.loss[1, 0] == pytest.approx(float(loss_fn(own(held[0][0]), held[0][1])), rel=1e-4)


def test_everything_is_restored_and_a_second_search_gives_the_same():
    model, loss_fn, loader, val = regression(100, 0.5)
    shown = torch.optim.SGD(model.parameters(), lr=0.1)
    before, order = full_state(model, shown), loader.generator.get_state()
    first, again = (find_momentum(model, loss_fn, loader, val_loader=val, steps=20) for _ in range(2))
    assert full_state(model, shown) == before
    assert torch.equal(loader.generator.get_state(), order)
    np.testing.assert_array_equal(first.loss, again.loss)
    assert [run.val_loss.tolist() for run in first.cyclical] == [run.val_loss.tolist() for run in again.cyclical]


def test_progress_covers_the_trials_of_the_cycle():
    told = []
    options = {"max_lr": 0.1, "steps": 20, "progress": lambda *args: told.append(args[:2])}
    find_momentum(**quadratic([1.0] * 5, 0.1, [1.0] * 5), **options)
    assert told[-1][0] == told[-1][1] == 5 * 2 * 20


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"values": ()}, r"values: got \[\]; give at least two"),
        ({"values": (0.9, 1.0)}, r"values: got 1.0 among them; give numbers in \[0, 1\)"),
        ({"values": (0.9, -0.1)}, "values: got -0.1"),
        ({"values": 0.9}, "values: got 0.9; give several"),
        ({"weight_decay": -1e-4}, "weight_decay: got -0.0001"),
        ({"weight_decay": None}, "weight_decay: got None"),
        ({"val_loader": None}, "val_loader: got None"),
        ({"steps": 5}, "steps: got 5"),
    ],
)
def test_a_bad_argument_is_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        find_momentum(**{**quadratic([1.0], 0.0, [1.0]), "max_lr": 0.1, **options})
