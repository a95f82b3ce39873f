import math

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import LRCurve, NoSuggestionError, Trials, trial_cycles
from clrfast.finder._trial_cycles import _next_place
from tests.helpers.problems import blobs
from tests.helpers.state import full_state

LR = np.geomspace(1e-7, 10, 100)
CURVE = LRCurve(LR, 2.0 - 1 / (1 + (1e-2 / LR) ** 2) + LR**4, 2.0, "completed", "made by hand")
AROUND = CURVE.suggest().max_lr


def trials(losses, first=-2, initial=2.0):
    places = np.arange(first, first + len(losses))
    return Trials(AROUND * 2.0**places, np.array(losses), initial, CURVE)


def test_the_suggestion_is_the_middle_of_the_rates_as_good_as_the_best():
    # The limit is 1.1, half way between the trials: low = around * 2 ** -1.5, high = around * 2 ** 0.5.
    suggestion = trials([1.2, 1.0, 1.0, 1.2, 2.0]).suggest()
    assert suggestion.max_lr == pytest.approx(AROUND * 2**-0.5 / 1.2)
    assert suggestion.low == pytest.approx(AROUND * 2**-1.5 / 1.2)
    assert suggestion.high == pytest.approx(AROUND * 2**0.5 / 1.2)
    assert suggestion.base_lr <= suggestion.max_lr / 4
    assert suggestion.method == "trials"


def test_rates_beyond_half_way_to_a_diverged_trial_count_as_diverged():
    suggestion = trials([1.5, 1.2, 1.0, math.inf]).suggest()
    assert suggestion.high == pytest.approx(AROUND * 2**0.5 / 1.2)


def test_the_suggestion_is_at_most_a_fifth_above_that_of_the_range_test():
    suggestion = trials([2.0, 1.8, 1.6, 1.4, 1.0, 1.5], first=-1).suggest()
    assert suggestion.max_lr == pytest.approx(1.2 * AROUND)
    assert "is the most" in suggestion.reason


def test_trials_that_do_not_lower_the_loss_are_refused():
    with pytest.raises(NoSuggestionError, match="none of 3 short runs"):
        trials([2.0, math.inf, math.inf]).suggest()


@pytest.mark.parametrize(
    ("losses", "place"),
    [
        ({}, 0),
        ({0: 1.0}, -1),
        ({0: 1.0, -1: 1.0}, 1),
        ({0: 1.0, -1: 2.0, 1: 0.5}, 2),
        ({0: 1.0, -1: 0.5, 1: 2.0}, -2),
        ({0: 1.0, -1: 2.0, 1: 0.5, 2: 0.4}, 3),
        ({0: 1.0, -1: 2.0, 1: 0.5, 2: 0.7}, 3),  # one neighbour above, two below
        ({0: 0.5, -1: 2.0, 1: math.inf}, -2),  # equally many neighbours on both sides: the lower rate
    ],
)
def test_the_next_trial_is_on_the_side_where_the_best_has_fewer_neighbours(losses, place):
    assert _next_place(losses) == place


@pytest.mark.parametrize("optimizer", [None, "sgd", "adam"])
def test_trials_restore_model_optimizer_and_data(optimizer):
    model, loss_fn, loader = blobs()
    made = {
        None: lambda: None,
        "sgd": lambda: clrfast.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=1e-3),
    }[optimizer]()
    shown = made or torch.optim.SGD(model.parameters(), lr=0.1)
    before, order = full_state(model, shown), loader.generator.get_state()
    found = trial_cycles(model, loss_fn, loader, optimizer=made, trial_steps=20, n_trials=3)
    assert full_state(model, shown) == before
    assert torch.equal(loader.generator.get_state(), order)
    assert len(found.lr) == len(found.loss) == 3
    np.testing.assert_allclose(found.lr, found.curve.suggest().max_lr * 2.0 ** np.arange(-1, 2))
    assert found.loss.min() < found.initial_loss
    assert 1e-4 < found.suggest().max_lr < 10


def trained_and_evaluated_batches(batches, **options):
    """The batches that were trained on, and those that were only evaluated; all inputs of batch i are i."""
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    trained, evaluated = [], []

    def compute_loss(model, batch):
        (trained if model.training else evaluated).append(float(batch[0][0, 0]))
        return nn.functional.cross_entropy(model(batch[0] / 100), batch[1])

    generator = torch.Generator().manual_seed(0)
    data = [(torch.full((8, 5), float(i)), torch.randint(2, (8,), generator=generator)) for i in range(batches)]
    torch.manual_seed(0)
    curve = LRCurve(CURVE.lr, CURVE.loss, 2.0, "completed", "")
    import clrfast.finder._trial_cycles as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "range_test", lambda *_, **__: curve)
        trial_cycles(model, loader=data, compute_loss=compute_loss, trial_steps=20, n_trials=3, **options)
    return trained, evaluated


def test_batches_held_out_of_a_short_loader_are_never_trained_on():
    trained, evaluated = trained_and_evaluated_batches(14)
    assert len(set(evaluated)) == 2  # a tenth of 20 steps
    assert not set(trained) & set(evaluated)
    assert set(trained) | set(evaluated) == set(range(14))


def test_batches_held_out_of_a_long_loader_are_its_next_ones():
    trained, evaluated = trained_and_evaluated_batches(200)
    assert set(evaluated) == {0, 1}
    assert not set(trained) & set(evaluated)
    assert len(trained) == 3 * 21


def test_a_val_loader_replaces_held_out_batches():
    own = [(torch.full((8, 5), 99.0), torch.zeros(8, dtype=torch.int64))]
    trained, evaluated = trained_and_evaluated_batches(14, val_loader=own)
    assert set(evaluated) == {99.0}
    assert set(trained) == set(range(14))


def test_a_single_batch_is_both_trained_on_and_evaluated():
    trained, evaluated = trained_and_evaluated_batches(1)
    assert set(trained) == set(evaluated) == {0.0}


def test_progress_covers_the_range_test_and_the_trials():
    reports = []
    model, loss_fn, loader = blobs()
    trial_cycles(model, loss_fn, loader, trial_steps=20, n_trials=3, progress=lambda *args: reports.append(args[:2]))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert {total for _, total in reports} == {52 + 60 + 60}
    assert reports[-1][0] == 52 + 60 + 60


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"trial_steps": 5}, "trial_steps: got 5"),
        ({"n_trials": 2}, "n_trials: got 2"),
        ({"val_loader": []}, "val_loader: it is empty"),
        ({"accumulate": 0}, "accumulate: got 0"),
        ({"val_loader": blobs()[2], "metric": "accuracy"}, "metric: got 'accuracy'; trials are judged by the loss"),
        ({"val_loader": blobs()[2], "val_every": 2}, "val_every: got 2; trials are judged by the loss"),
    ],
)
def test_bad_arguments_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        trial_cycles(*blobs(), **options)
