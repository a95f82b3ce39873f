"""Single ramps, coarse and fine ramps, and repeats, combined into one curve."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast import range_test
from clrfast.finder._ramp_curves import measure_curves
from clrfast.finder._ramp_plan import plan_ramps
from clrfast.finder._scheduled_run import RunRecord, compute_rates
from tests.helpers.problems import blobs, quadratic
from tests.helpers.range_tests import (
    batch_norm_net,
    batches_of,
)
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_ramp_includes_both_end_points():
    curve = range_test(*blobs(), min_lr=1e-4, max_lr=1e-2, steps=20)
    assert len(curve.lr) == len(curve.loss) == len(curve.smoothed) == 20
    assert (curve.lr[0], curve.lr[-1]) == (1e-4, 1e-2)
    assert np.isfinite(curve.loss).all()


def test_the_fine_ramp_covers_a_collapse_that_does_not_diverge():
    """The loss stays a little below its start from rate 1 on; the fine ramp does not measure rates of 1,000."""
    model = nn.Linear(1, 1)
    optimizer = clrfast.SGD(model.parameters(), lr=1.0)

    def loss(model, batch):
        at = math.log10(optimizer.param_groups[0]["lr"])
        value = np.interp(at, [-4, -1, 0], [6.0, 3.0, 5.9])
        return 0 * model.weight.sum() + float(value)

    curve = range_test(model, loader=[0], compute_loss=loss, optimizer=optimizer)
    assert curve.stopped == "completed"
    assert 1 < curve.lr[-1] < 20
    assert 0.02 < curve.suggest("edge").max_lr < 0.2


def test_a_fine_ramp_that_begins_above_the_edge_is_repeated_below_it():
    """The loss hardly falls, so the coarse ramp, whose threshold is higher, passes over its rise to 5."""
    starts = []

    def run(ramp, *, stop_factor, **_):
        lr = compute_rates(ramp, ramp.total_steps)
        starts.append(float(lr[0]))
        losses = np.interp(np.log10(lr), [-3, -2, -1.8, 1.5, 1.6], [2.3, 2.2, 5.0, 5.0, 200.0])
        limit = 100.0 if len(starts) == 1 else 4.0
        n = int((losses > limit).argmax()) + 1
        return RunRecord(np.concatenate(([2.3], losses[:n])), diverged=True, update_steps=n)

    (curve,) = measure_curves(plan_ramps(1e-7, None, "auto", "exponential", 1), run, 4.0, 98)
    assert len(starts) == 3
    assert starts[1] > 0.01 > starts[2]
    assert len(curve.lr) > 40
    assert curve.lr[-1] < 0.02


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize(("spared", "steps"), [(0, 56), (1, 57), (4, 60), (20, 60)])
def test_the_planned_steps_suffice_for_a_fine_ramp_that_is_repeated(repeats, spared, steps):
    """A fine ramp that diverges at its 4th update is shortened by what the coarse ramp has not spared."""
    plan, lengths = plan_ramps(1e-7, 10.0, "auto", "exponential", repeats), []

    def run(ramp, **_):
        lengths.append(ramp.total_steps)
        coarse, repeated = len(lengths) == 1, len(lengths) > 2
        n = ramp.total_steps - spared if coarse else ramp.total_steps if repeated else 4
        return RunRecord(np.linspace(2.0, 1.0, n + 1), diverged=n < ramp.total_steps, update_steps=n)

    measure_curves(plan, run, 4.0, plan.total_steps)
    assert lengths == [38, 60, *[steps] * repeats]
    assert lengths[0] - spared + 4 + sum(lengths[2:]) <= plan.total_steps


def test_a_ramp_stops_at_the_first_diverged_loss():
    model, loss_fn, loader = quadratic(curvature=10.0)  # diverges above 0.2
    optimizer = clrfast.SGD(model.parameters(), lr=1.0)
    curve = range_test(model, loss_fn, loader, optimizer=optimizer, min_lr=0.01, max_lr=100, steps=100)
    assert curve.stopped == "diverged"
    assert "the loss had diverged" in curve.stop_reason
    losses = np.concatenate(([curve.initial_loss], curve.loss))
    start = losses[0]  # the loss falls to nothing and may climb to four times its start
    medians = [np.median(losses[max(0, i - 2) : i + 1]) for i in range(len(losses))]
    assert medians[-1] > 4 * start or losses[-1] > 31 * start
    assert max(medians[:-1]) < 4.01 * start
    assert max(losses[:-1]) < 31.1 * start
    assert curve.lr[-1] > 0.2


def test_a_loss_that_falls_from_the_first_step_on_has_not_diverged():
    """Full batches have no noise: the losses before the fall are high above the losses after it."""
    model, loss_fn, loader = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    curve = range_test(model, loss_fn, loader, optimizer=optimizer, min_lr=0.1, max_lr=1e4, steps=40)
    assert curve.initial_loss == 0.5
    assert curve.lr[-1] > 2
    assert curve.loss[-1] > 0.5


@pytest.mark.parametrize("own", [True, False], ids=["clrfast", "torch"])
def test_loss_that_becomes_nan_ends_the_curve(own):
    model, _, loader = quadratic()
    seen = []

    def compute_loss(model, batch):
        seen.append(1)
        loss = model(batch[0]).square().mean()
        return loss * math.nan if len(seen) == 4 else loss

    optimizer = None if own else torch.optim.SGD(model.parameters(), lr=0.1)
    curve = range_test(model, loader=loader, compute_loss=compute_loss, optimizer=optimizer, steps=50)
    assert curve.stopped == "non-finite"
    assert len(curve.loss) == 3
    assert math.isnan(curve.loss[-1])
    assert "became nan" in curve.stop_reason


@pytest.mark.parametrize("max_lr", np.geomspace(4.0, 40.0, 8))
def test_no_rate_exceeds_max_lr_if_the_coarse_ramp_diverges_late(max_lr):
    """With full batches the fine ramp may pass rates at which the large steps of the coarse ramp diverged."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(178, 13, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 3))
    curve = range_test(model, nn.CrossEntropyLoss(), [(x, x[:, :3].argmax(1))], max_lr=max_lr)
    assert curve.lr[-1] <= max_lr * (1 + 1e-6)


def test_repeats_start_from_the_same_weights_and_continue_with_the_next_batches():
    model, seen = batch_norm_net(), []
    batches = batches_of(*[16] * 50)
    numbers = {id(x): i for i, (x, _) in enumerate(batches)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = full_state(model, optimizer)

    def compute_loss(model, batch):
        seen.append(numbers[id(batch[0])])
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    rates = {"min_lr": 0.001, "max_lr": 1.0, "steps": 15}
    curve = range_test(model, loader=batches, compute_loss=compute_loss, optimizer=optimizer, repeats=3, **rates)
    assert seen == list(range(48))
    assert full_state(model, optimizer) == before
    assert len(curve.repeats) == 2
    for i, one in enumerate((curve, *curve.repeats)):
        alone = range_test(model, nn.CrossEntropyLoss(), batches[16 * i :], optimizer=optimizer, **rates)
        np.testing.assert_array_equal(one.lr, alone.lr)
        np.testing.assert_array_equal(one.loss, alone.loss)
    answers = [one.suggest("minimum_tenth").max_lr for one in (curve, *curve.repeats)]
    assert curve.suggest("minimum_tenth").high <= max(answers) * 1.3


def test_repeats_share_the_coarse_ramp():
    model, loss_fn, loader = blobs()
    curve = range_test(model, loss_fn, loader, repeats=2)
    other = curve.repeats[0]
    np.testing.assert_array_equal(curve.loss[:20], other.loss[:20])
    n = min(len(curve.lr), len(other.lr))
    np.testing.assert_array_equal(curve.lr[:n], other.lr[:n])
    assert (curve.loss[n - 20 : n] != other.loss[n - 20 : n]).all()
    answer = curve.suggest()
    assert answer.low <= answer.max_lr <= answer.high


@pytest.mark.parametrize("repeats", [0, 1.5, True, "2"])
def test_bad_repeats_are_named(repeats):
    with pytest.raises(ValueError, match="repeats: got"):
        range_test(*blobs(), repeats=repeats)


def soon_fitted(order):
    """Four clusters far apart, which a small network fits within a ramp."""
    generator = torch.Generator().manual_seed(0)
    centres, y = 2 * torch.randn(4, 10, generator=generator), torch.randint(0, 4, (640,), generator=generator)
    data = TensorDataset(centres[y] + torch.randn(640, 10, generator=generator), y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    loader = DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(order))
    return model, nn.CrossEntropyLoss(), loader


def test_data_that_are_soon_fitted_get_similar_rates_in_any_order():
    curves = [range_test(*soon_fitted(order)) for order in range(10)]
    rates = [curve.suggest().max_lr for curve in curves]
    assert 0.02 < min(rates) < max(rates) < 0.8
    assert max(rates) < 10 * min(rates)
    fitted = [curve for curve in curves if "fitted the data at" in curve.stop_reason]
    assert fitted
    for curve in fitted:
        assert curve.stopped != "completed"
        assert (np.diff(curve.lr) > 0).all()


def test_the_stop_reason_names_the_divergence_lr():
    curve = range_test(*blobs(), max_lr=1e4, steps=100)
    assert curve.divergence_lr < curve.lr[-1]
    assert curve.stop_reason.startswith(f"diverged at {curve.divergence_lr:.3g}")


def test_a_completed_ramp_whose_loss_climbs_names_the_divergence():
    model = nn.Linear(1, 1)
    optimizer = clrfast.SGD(model.parameters(), lr=1.0)

    def loss(model, batch):
        at = math.log10(optimizer.param_groups[0]["lr"])
        return 0 * model.weight.sum() + float(np.interp(at, [-4, -1, 0], [6.0, 3.0, 9.0]))

    curve = range_test(model, loader=[0], compute_loss=loss, optimizer=optimizer, min_lr=1e-4, max_lr=1.0, steps=60)
    assert curve.stopped == "completed"
    assert f"diverged at {curve.divergence_lr:.3g}" in curve.stop_reason
    assert "without diverging" not in curve.stop_reason
