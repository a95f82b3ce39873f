"""How a step of a range test is made: rates, accumulation, autocast, scaling and clipping."""

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import range_test
from clrfast.integrations._follow import follow
from tests.helpers.problems import blobs, quadratic
from tests.helpers.range_tests import (
    OPTIMIZERS,
    Overflowing,
    batch_norm_net,
    batches_of,
    every_optimizer,
    scaler_state,
)
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


@every_optimizer
@pytest.mark.parametrize("scaled", [False, True])
def test_groups_keep_their_ratios_with_a_scaler_and_a_rate_of_zero(make, scaled):
    model = batch_norm_net()
    rates = []
    optimizer = make([{"params": model[i].parameters(), "lr": lr} for i, lr in ((0, 0.1), (1, 0.0), (3, 0.4))])
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups]))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
    curve = range_test(
        model, nn.CrossEntropyLoss(), batches_of(16, 16), optimizer=optimizer, scaler=scaler, max_lr=1.0, steps=5
    )
    np.testing.assert_allclose(rates, np.outer(curve.lr, [0.25, 0.0, 1.0]), rtol=1e-6)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0, 0.4]


def test_the_rates_of_all_groups_keep_their_ratios():
    model, loss_fn, loader = blobs()
    rates = []

    def recording(cls, **kwargs):
        class Recording(cls):
            def step(self, *args, **kwargs):
                rates.append([group["lr"] for group in self.param_groups])
                return super().step(*args, **kwargs)

        return Recording(
            [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[4].parameters(), "lr": 0.4}], **kwargs
        )

    for optimizer in (recording(torch.optim.SGD), recording(clrfast.SGD)):
        rates.clear()
        curve = range_test(model, loss_fn, loader, optimizer=optimizer, min_lr=0.01, max_lr=1.0, steps=5)
        np.testing.assert_allclose(rates, np.outer(curve.lr, [0.25, 1.0]), rtol=1e-6)


@every_optimizer
def test_groups_whose_rates_are_all_zero_follow_the_ramp(make):
    model = batch_norm_net()
    rates = []
    optimizer = make([{"params": model[i].parameters(), "lr": 0.0} for i in (0, 1, 3)])
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups]))
    curve = range_test(model, nn.CrossEntropyLoss(), batches_of(16, 16), optimizer=optimizer, max_lr=1.0, steps=5)
    np.testing.assert_allclose(rates, np.outer(curve.lr, [1.0, 1.0, 1.0]), rtol=1e-6)


@every_optimizer
@pytest.mark.parametrize("state", ["new", "following a schedule"])
def test_groups_with_lr_scale_ramp_at_their_fraction(make, state):
    model, rates = batch_norm_net(), []
    optimizer = make([{"params": model[i].parameters(), "lr_scale": scale} for i, scale in ((0, 0.25), (3, 1.0))])
    if state != "new":  # the groups then show rates that contain the scale
        follow(optimizer, clrfast.one_cycle(0.1, 9, momentum=None))
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups]))
    run = {"optimizer": optimizer, "min_lr": 0.01, "max_lr": 1.0, "steps": 5}
    curve = range_test(model, nn.CrossEntropyLoss(), batches_of(16, 16), **run)
    np.testing.assert_allclose(rates, np.outer(curve.lr, [0.25, 1.0]), rtol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), [("clrfast", "torch"), ("clrfast adamw", "adamw")])
def test_optimizers_with_lr_scale_measure_equal_curves(ours, theirs):
    def curve_of(name):
        model = batch_norm_net()
        groups = [{"params": model[i].parameters(), "lr_scale": scale} for i, scale in ((0, 0.25), (3, 1.0))]
        make = torch.optim.AdamW if name == "adamw" else OPTIMIZERS[name]
        return range_test(
            model, nn.CrossEntropyLoss(), batches_of(16, 16), optimizer=make(groups), max_lr=1.0, steps=12
        )

    np.testing.assert_allclose(curve_of(ours).loss, curve_of(theirs).loss, rtol=1e-5)


def test_a_scale_that_is_no_number_is_refused():
    model = batch_norm_net()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "lr_scale": "much"}], lr=0.1)
    with pytest.raises(ValueError, match=r"param_groups\[0\]\['lr_scale'\]: got 'much'"):
        range_test(model, nn.CrossEntropyLoss(), batches_of(16), optimizer=optimizer, max_lr=1.0, steps=5)


@every_optimizer
def test_accumulated_batches_equal_one_larger_batch(make):
    torch.manual_seed(0)
    model = nn.Linear(5, 2)
    small = batches_of(*[4] * 12)
    large = [tuple(torch.cat(parts) for parts in zip(*small[i : i + 3], strict=True)) for i in range(0, 12, 3)]
    rates = {"min_lr": 0.01, "max_lr": 0.5, "steps": 6}
    curves = [
        range_test(model, nn.CrossEntropyLoss(), data, optimizer=make(model.parameters()), accumulate=k, **rates)
        for data, k in ((small, 3), (large, 1))
    ]
    np.testing.assert_allclose(curves[0].loss, curves[1].loss, rtol=1e-5)
    assert curves[0].initial_loss == pytest.approx(curves[1].initial_loss, rel=1e-6)


@every_optimizer
def test_autocast_covers_training_and_validation(make):
    model, dtypes = batch_norm_net(), []

    def loss_fn(outputs, targets):
        dtypes.append((model.training, outputs.dtype))
        return nn.functional.cross_entropy(outputs, targets)

    rates = {"min_lr": 0.01, "max_lr": 0.1, "steps": 4}
    run = {"loss_fn": loss_fn, "loader": batches_of(16, 16), "val_loader": batches_of(8, seed=2), "val_every": 2}
    low = range_test(model, optimizer=make(model.parameters()), autocast=torch.bfloat16, **run, **rates)
    assert sorted(map(str, dtypes)) == sorted(map(str, [(True, torch.bfloat16)] * 5 + [(False, torch.bfloat16)] * 2))
    assert not torch.is_autocast_enabled("cpu")
    full = range_test(model, optimizer=make(model.parameters()), **run, **rates)
    np.testing.assert_allclose(low.loss, full.loss, rtol=0.05)
    assert (low.loss != full.loss).any()
    dtypes.clear()

    def metric(outputs, targets):
        dtypes.append(outputs.dtype)
        return outputs.mean()

    plain = {**run, "loss_fn": nn.CrossEntropyLoss(), "metric": metric}
    range_test(model, optimizer=make(model.parameters()), autocast=torch.bfloat16, **plain, **rates)
    assert dtypes == [torch.bfloat16] * 2


@every_optimizer
@pytest.mark.parametrize("clip_norm", [None, 1e-3])
@pytest.mark.parametrize("used", [False, True])
def test_a_skipped_update_is_repeated_at_its_rate(make, clip_norm, used):
    """All batches are equal, so the losses are those of a ramp without the two skipped updates."""
    model, loss_fn, loader = quadratic()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    if used:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        scaler.scale(model.weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    before, scale = scaler_state(scaler), scaler._scale

    def run(at, scaler):
        calls = []
        curve = range_test(
            model,
            loader=loader,
            compute_loss=lambda m, batch: Overflowing.apply(loss_fn(m(batch[0]), batch[1]), calls, at),
            optimizer=make(model.parameters()),
            min_lr=0.1,
            max_lr=0.5,
            steps=5,
            spacing="linear",
            scaler=scaler,
            clip_norm=clip_norm,
        )
        return curve, len(calls)

    plain, n_plain = run((), None)
    skipped, n_skipped = run((1, 4), scaler)
    assert (n_plain, n_skipped) == (6, 8)
    np.testing.assert_array_equal(skipped.lr, plain.lr)
    np.testing.assert_allclose(skipped.loss, plain.loss, rtol=1e-6)
    assert skipped.initial_loss == plain.initial_loss
    assert scaler_state(scaler) == before
    assert scaler._scale is scale


@every_optimizer
def test_a_scaler_that_skips_every_update_is_reported_and_restored(make):
    model, loss_fn, loader = quadratic()
    optimizer, scaler, calls = make(model.parameters()), torch.amp.GradScaler("cpu", init_scale=8.0), []
    before = full_state(model, optimizer), scaler_state(scaler)
    with pytest.raises(ValueError, match="scaler: it has skipped"):
        range_test(
            model,
            loader=loader,
            compute_loss=lambda m, batch: Overflowing.apply(loss_fn(m(batch[0]), batch[1]), calls, True),
            optimizer=optimizer,
            scaler=scaler,
            steps=5,
        )
    assert (full_state(model, optimizer), scaler_state(scaler)) == before
    assert len(calls) < 50


@pytest.mark.usefixtures("host_ahead")
def test_skipping_every_update_is_noticed_by_a_host_that_is_ahead():
    model, loss_fn, loader = quadratic()
    calls = []

    def loss(m, batch):
        assert len(calls) < 200  # an endless loop ends here
        return Overflowing.apply(loss_fn(m(batch[0]), batch[1]), calls, True)

    with pytest.raises(ValueError, match="scaler: it has skipped"):
        range_test(model, loader=loader, compute_loss=loss, scaler=torch.amp.GradScaler("cpu"), steps=5)


class WithoutHooks(torch.optim.Optimizer):
    """An optimizer that never calls its hooks, like the wrappers of some training frameworks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_an_optimizer_without_hooks_makes_its_updates():
    model, loss_fn, loader = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = {"min_lr": 0.1, "max_lr": 1.0, "steps": 10}
    expected = range_test(model, loss_fn, loader, optimizer=optimizer, **arguments)
    curve = range_test(model, loss_fn, loader, optimizer=WithoutHooks(optimizer), **arguments)
    np.testing.assert_array_equal(curve.loss, expected.loss)


def test_the_loss_may_contain_a_derivative_of_the_model():
    def penalized(model, batch):
        inputs = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    curve = range_test(nn.Linear(5, 1), loader=batches_of(8), compute_loss=penalized, max_lr=1e-3, steps=10)
    assert len(curve.lr) == 10  # the loss after the last update is measured as well


@pytest.mark.parametrize("make", [OPTIMIZERS["clrfast"], OPTIMIZERS["torch"]], ids=["clrfast", "torch"])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_are_clipped_after_unscaling(make, scaled):
    model, loss_fn, loader = quadratic()
    with torch.no_grad():
        model.weight.fill_(10.0)  # the gradient is 10 before clipping
    curve = range_test(
        model,
        loss_fn,
        loader,
        optimizer=make(model.parameters()),
        min_lr=0.1,
        max_lr=0.5,
        steps=5,
        spacing="linear",
        clip_norm=2.0,
        scaler=torch.amp.GradScaler("cpu", init_scale=64.0) if scaled else None,
    )
    w = 10 - 2 * np.cumsum([0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(curve.loss, 0.5 * w**2, rtol=1e-5)
