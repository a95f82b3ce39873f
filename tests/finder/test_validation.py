"""Validation during a range test, compared with measurements by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import range_test
from tests.helpers.problems import blobs, quadratic
from tests.helpers.range_tests import (
    Overflowing,
    batch_norm_net,
    batches_of,
    every_optimizer,
    mean_of_outputs,
)
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


METRICS = {
    "validation loss": (None, nn.CrossEntropyLoss()),
    "accuracy": ("accuracy", lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()),
    "mean_of_outputs": (mean_of_outputs, mean_of_outputs),
}


@every_optimizer
@pytest.mark.parametrize("name", METRICS)
def test_each_validation_is_measured_after_the_update_with_its_rate(name, make):
    metric, expected_metric = METRICS[name]
    batches, loss_fn = batches_of(*[16] * 21), nn.CrossEntropyLoss()
    held_out = batches_of(8, 3, 5, seed=2)  # the third is left out: 20 steps allow two batches
    ramp = {"min_lr": 0.01, "max_lr": 1.0, "steps": 20}
    model = batch_norm_net()
    curve = range_test(
        model,
        loss_fn,
        batches,
        optimizer=make(model.parameters()),
        val_loader=held_out,
        metric=metric,
        val_every=4,
        **ramp,
    )
    assert curve.metric_name == name

    expected, optimizer = [], make(model.parameters())
    for lr, (x, y) in zip(curve.lr, batches, strict=False):
        model.train()
        optimizer.param_groups[0]["lr"] = float(np.float32(lr))
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            expected.append(sum(len(y) * expected_metric(model(x), y).item() for x, y in held_out[:2]) / 11)
    measured = ~np.isnan(curve.metric)
    np.testing.assert_array_equal(np.flatnonzero(measured), [3, 7, 11, 15, 19])
    np.testing.assert_allclose(curve.metric[measured], np.array(expected)[measured], rtol=1e-5)


def test_a_metric_for_custom_batches_takes_the_model_and_the_batch():
    model, batches = batch_norm_net(), [{"x": x, "y": y} for x, y in batches_of(16, 16)]

    def compute_loss(model, batch):
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    def error_rate(model, batch):
        assert not model.training
        assert not torch.is_grad_enabled()
        return (model(batch["x"]).argmax(1) != batch["y"]).float().mean()

    run = {"loader": batches, "compute_loss": compute_loss, "val_loader": batches, "val_every": 1, "steps": 4}
    rates = {"min_lr": 1e-9, "max_lr": 1e-8}  # too low to change the model
    curve = range_test(model, metric=error_rate, **run, **rates)
    assert curve.metric_name == "error_rate"
    assert curve.metric.shape == (4,)
    assert np.isfinite(curve.metric).all()
    losses = range_test(model, **run, **rates).metric
    assert losses[0] != pytest.approx(curve.metric[0])


def test_validation_changes_neither_training_flags_nor_the_training():
    batches, held_out, flags = batches_of(16, 16), batches_of(8, seed=2), []
    model = batch_norm_net()
    model[1].eval()
    before = full_state(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model.register_forward_pre_hook(lambda *_: flags.append([module.training for module in model]))
    plain = range_test(model, nn.CrossEntropyLoss(), batches, steps=6)
    training = [True, False, True, True]
    assert flags == [training] * 7
    flags.clear()
    measured = range_test(model, nn.CrossEntropyLoss(), batches, steps=6, val_loader=held_out, val_every=3)
    assert sorted(flags) == sorted([training] * 7 + [[False] * 4] * 2)
    np.testing.assert_array_equal(plain.loss, measured.loss)
    assert full_state(model, torch.optim.SGD(model.parameters(), lr=0.1)) == before


@pytest.mark.parametrize(("steps", "repeats"), [(2, 1), (10, 1), (38, 1), (91, 1), (98, 1), ("auto", 1), ("auto", 3)])
def test_validation_takes_no_more_forward_passes_than_training(steps, repeats):
    model, loss_fn, loader = quadratic()
    passes = {True: 0, False: 0}
    model.register_forward_pre_hook(lambda module, _: passes.update({module.training: passes[module.training] + 1}))
    # Rates at which the training converges, so that no ramp ends early.
    rates = {"min_lr": 1e-5, "max_lr": 0.1}
    curve = range_test(model, loss_fn, loader, steps=steps, repeats=repeats, val_loader=list(loader) * 9, **rates)
    assert np.isfinite(curve.metric).sum() >= 1
    assert 0 < passes[False] <= passes[True]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"val_loader": 3}, "val_loader: got int"),
        ({"val_loader": []}, "val_loader: it is empty"),
        ({"val_loader": "it", "metric": 3}, "metric: got 3"),
        ({"val_loader": "it", "metric": "auc"}, "metric: got 'auc'"),
        ({"val_loader": "it", "val_every": 0}, "val_every: got 0"),
        ({"val_loader": "it", "val_every": 2.5}, "val_every: got 2.5"),
        ({"metric": "accuracy"}, "metric: .* val_loader"),
        ({"val_every": 3}, "val_every: .* val_loader"),
        ({"val_loader": "it", "metric": "accuracy"}, "'accuracy' needs outputs"),
    ],
)
def test_bad_validation_arguments_are_named(arguments, named):
    model, loss_fn, loader = quadratic()
    if arguments.get("val_loader") == "it":
        arguments = {**arguments, "val_loader": loader}
    with pytest.raises(ValueError, match=named):
        range_test(model, loss_fn, loader, steps=5, **arguments)
    assert model.weight.item() == 1.0


def test_accuracy_of_dict_batches_is_refused_with_a_remedy():
    batches = [{"inputs": x, "targets": y} for x, y in batches_of(8, 8)]

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["inputs"]), batch["targets"])

    with pytest.raises(ValueError, match=r"metric: 'accuracy' needs .* gave a dict; give metric\(model, batch\)"):
        range_test(batch_norm_net(), loader=batches, compute_loss=loss, val_loader=batches, metric="accuracy", steps=5)


def test_a_linear_ramp_with_accuracy_gives_the_bounds_of_a_cyclical_rate():
    """Smith's test: the accuracy over a linear rate begins to rise after step 10 of 50 and is high at step 30."""
    model, loss_fn, loader = quadratic()
    accuracies = iter(np.interp(np.arange(50), [10, 30], [0.2, 0.9]).tolist())
    curve = range_test(
        model,
        loss_fn,
        loader,
        min_lr=0.001,
        max_lr=0.1,
        steps=50,
        spacing="linear",
        val_loader=[next(iter(loader))],
        metric=lambda outputs, targets: next(accuracies),
        val_every=1,
    )
    np.testing.assert_allclose(np.diff(curve.lr), 0.099 / 49)
    answer = curve.suggest("clr_bounds")
    assert curve.lr[9] <= answer.base_lr <= curve.lr[13]
    assert curve.lr[26] <= answer.max_lr <= curve.lr[31]
    with pytest.raises(ValueError, match="needs the validation loss"):
        curve.suggest("steepest", of="metric")
    with pytest.raises(ValueError, match="needs a held-out metric"):
        range_test(model, loss_fn, loader, steps=5).suggest("clr_bounds")


def test_too_few_validations_for_a_suggestion_are_refused():
    batches = batches_of(16, 16)
    curve = range_test(
        batch_norm_net(), nn.CrossEntropyLoss(), batches, val_loader=batches, metric="accuracy", val_every=5, steps=10
    )
    with pytest.raises(clrfast.NoSuggestionError, match=r"measured 2 times up to 10, .* smaller val_every"):
        curve.suggest("clr_bounds")


def test_suggestions_can_come_from_the_validation_loss():
    model = batch_norm_net()
    curve = range_test(
        model, nn.CrossEntropyLoss(), batches_of(*[32] * 10), steps=60, val_loader=batches_of(64, seed=2), val_every=1
    )
    assert curve.suggest("minimum_tenth", of="metric").max_lr < curve.lr[np.nanargmin(curve.metric)]
    with pytest.raises(ValueError, match="one that rises, such as the accuracy"):
        curve.suggest("clr_bounds")


@pytest.mark.usefixtures("host_ahead")
def test_validations_are_counted_by_the_updates_that_were_not_skipped():
    model, loss_fn, loader = quadratic()
    calls = []

    def loss(m, batch):
        return Overflowing.apply(loss_fn(m(batch[0]), batch[1]), calls, {3, 4})

    def position(m, batch):
        return next(m.parameters()).detach().norm()

    arguments = {"loader": loader, "val_loader": loader, "metric": position, "val_every": 2, "max_lr": 1e-3}
    expected = range_test(model, compute_loss=lambda m, b: loss_fn(m(b[0]), b[1]), steps=8, **arguments)
    curve = range_test(model, compute_loss=loss, scaler=torch.amp.GradScaler("cpu"), steps=8, **arguments)
    np.testing.assert_allclose(curve.metric, expected.metric, rtol=1e-6)


def test_the_validation_loss_may_contain_a_derivative():
    model, loss_fn, loader = blobs()

    def penalised(model, batch):
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return loss_fn(model(batch[0]), batch[1]) + slope.square().mean()

    curve = range_test(model, loader=loader, compute_loss=penalised, val_loader=loader, steps=20, max_lr=0.1)
    assert np.isfinite(curve.metric).any()
