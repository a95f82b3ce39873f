import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import LRCurve, NoSuggestionError, one_cycle, range_test
from clrfast.finder import _trial_runs
from tests.helpers.problems import blobs


def test_trials_follow_the_default_ramps_and_decide_the_suggestion():
    curve = range_test(*blobs())
    (trials, *_) = curve.trials
    assert trials.steps == 20
    assert len(trials.lr) >= 3
    assert np.isfinite(curve.probe_loss).sum() > 5
    assert curve.suggest().method == "trials"
    assert curve.suggest("edge").method == "edge"


@pytest.mark.parametrize(
    ("options", "has_trials"),
    [
        ({"steps": 20}, False),
        ({"spacing": "linear", "max_lr": 0.1}, False),
        ({"trials": False}, False),
        ({"steps": 20, "trials": True}, True),
        ({"spacing": "linear", "max_lr": 0.1, "trials": True}, True),
    ],
)
def test_trials_follow_by_default_only_where_the_steps_are_automatic(options, has_trials):
    curve = range_test(*blobs(), **options)
    assert bool(curve.trials) == has_trials
    assert (curve.probe_loss is not None) == has_trials


def test_thorough_makes_trials_of_two_lengths():
    curve = range_test(*blobs(), steps=20, trials="thorough")
    assert [trials.steps for trials in curve.trials[:2]] == [20, 80]


def test_all_trials_train_on_the_same_batches_and_are_judged_on_others():
    model = nn.Linear(5, 2)
    trained, probed = [], []

    def loss_fn(outputs, targets):
        (trained if torch.is_grad_enabled() else probed).append(int(targets[0]))
        return outputs.pow(2).mean()

    loader = [(torch.full((100, 5), 0.1), torch.full((100,), i)) for i in range(300)]
    curve = range_test(model, loss_fn, loader, steps=20, max_lr=0.01, trials=True)
    assert set(probed) == set(range(6))  # 512 samples
    n_trials = sum(len(trials.lr) for trials in curve.trials if trials.steps == 20)
    in_trials = trained[21:]
    assert in_trials[:21] == in_trials[21:42] == list(range(27, 48))
    assert len(in_trials) >= 21 * n_trials
    assert set(probed).isdisjoint(trained)


def test_max_steps_ends_the_trials():
    done = []
    curve = range_test(*blobs(), steps=20, trials="thorough", max_steps=85, progress=lambda *now: done.append(now[0]))
    assert sum(len(trials.lr) * trials.steps for trials in curve.trials) == 60
    assert max(done) == 80


def test_no_trial_exceeds_the_highest_rate_of_the_range_test():
    curve = range_test(*blobs(), max_lr=1e-3)
    assert max(trials.lr.max() for trials in curve.trials) <= 1e-3 * (1 + 1e-6)


@pytest.mark.parametrize(("options", "wanted"), [({}, 52 + 60 + 1820), ({"max_steps": 500}, 500)])
def test_the_progress_of_trials_has_one_total_until_it_ends(options, wanted):
    done, totals = [], []

    def progress(steps, total, shown):
        done.append(steps)
        totals.append(total)

    curve = range_test(*blobs(), trials="thorough", progress=progress, **options)
    assert [trials.steps for trials in curve.trials[:2]] == [20, 80]
    assert done == sorted(done)
    assert set(totals[:-1]) == {wanted}
    assert done[-1] == totals[-1] <= wanted


def test_a_model_that_no_rate_changes_has_no_answer():
    model = nn.Linear(5, 2)
    curve = range_test(model, lambda outputs, _: 0 * outputs.sum() + 1, blobs()[2])
    with pytest.raises(NoSuggestionError, match="changes the loss: check that gradients reach the parameters"):
        curve.suggest()


def test_trials_of_a_loss_that_is_always_zero_give_no_warning():
    model = nn.Linear(5, 2)
    curve = range_test(model, lambda outputs, _: 0 * outputs.sum(), blobs()[2], steps=20, trials=True, max_steps=80)
    assert [trials.loss.tolist() for trials in curve.trials] == [[0.0] * 3]


@pytest.mark.parametrize("constant", [-0.5, -3.0])
def test_a_loss_that_is_or_becomes_negative_has_the_answer_of_a_positive_one(constant):
    """The value of such a loss, a negative log-likelihood for example, does not tell how well the model fits."""
    model, loss_fn, loader = blobs()
    positive = range_test(model, loss_fn, loader).suggest()
    negative = range_test(model, lambda outputs, targets: loss_fn(outputs, targets) + constant, loader).suggest()
    assert negative.max_lr == pytest.approx(positive.max_lr)


def test_the_answer_scales_with_the_loss():
    """SGD at the rate lr on c * loss trains as at c * lr on loss."""
    model, loss_fn, loader = blobs()
    rates = []
    for factor in (1.0, 2.0**-6):

        def scaled(outputs, targets, factor=factor):
            return factor * loss_fn(outputs, targets)

        curve = range_test(model, scaled, loader, min_lr=1e-7 / factor, max_lr=10 / factor)
        rates.append(curve.suggest().max_lr * factor)
    assert rates[0] == pytest.approx(rates[1])


def test_a_saved_curve_gives_the_same_answer(tmp_path):
    curve = range_test(*blobs())
    curve.save(tmp_path / "curve.json")
    loaded = LRCurve.load(tmp_path / "curve.json")
    assert loaded.suggest() == curve.suggest()
    np.testing.assert_array_equal(loaded.trials[0].loss, curve.trials[0].loss)


def test_a_curve_without_trials_says_how_to_get_them():
    curve = range_test(*blobs(), trials=False)
    with pytest.raises(ValueError, match="'trials' needs trials, and none were made; call range_test with trials=True"):
        curve.suggest("trials")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"trials": "long"}, "trials: got 'long'; give True, False, 'thorough' or 'auto'"),
        ({"trials": 3}, "trials: got 3"),
        (
            {"max_steps": 50, "steps": 60},
            "max_steps: got 50; give a whole number, at least the 60 updates of",
        ),
        ({"max_steps": 1.5}, "max_steps: got 1.5"),
        (
            {"max_steps": 150},
            r"max_steps: got 150; .*, at least the \d+ updates of the ramps and three trials, or trials=False",
        ),
    ],
)
def test_bad_arguments_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        range_test(*blobs(), **options)


@pytest.mark.parametrize(("own", "momenta"), [(True, {None}), (False, {0.95})])
def test_the_momentum_cycles_in_trials_unless_the_user_gives_an_optimizer(own, momenta, monkeypatch):
    made = []

    def recorded(*args, **options):
        made.append(one_cycle(*args, **options))
        return made[-1]

    monkeypatch.setattr(_trial_runs, "one_cycle", recorded)
    model, loss_fn, loader = blobs()
    optimizer = clrfast.SGD(model.parameters(), lr=0.1, momentum=0.5) if own else None
    range_test(model, loss_fn, loader, optimizer=optimizer, steps=20, trials=True)
    assert {None if each.momentum is None else float(each.momentum(0)) for each in made} == momenta
