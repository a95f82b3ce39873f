"""Failures of other learning-rate finders, as reported by their users, do not happen here."""

import math
import os
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast import LRCurve, NoSuggestionError, range_test
from clrfast.training._batches import move_batch
from tests.helpers.problems import blobs, quadratic
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


def recorded(lr, loss, **changes):
    fields = {"initial_loss": float(loss[0]), "stopped": "completed", "stop_reason": "reached the highest rate"}
    return LRCurve(np.asarray(lr, dtype=float), np.asarray(loss, dtype=float), **{**fields, **changes})


def inputs_and_targets(n=32, batch_size=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=generator)
    return [(x[i : i + batch_size], (x[i : i + batch_size, 0] > 0).long()) for i in range(0, n, batch_size)]


# davidtvs/pytorch-lr-finder


def test_the_validation_loss_is_measured_on_the_same_batches_every_time():
    """pytorch-lr-finder #59: the validation iterator was used up after one pass, and its loss stayed constant."""
    model, loss_fn, loader = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    curve = range_test(
        model, loss_fn, loader, optimizer=optimizer, min_lr=0.1, max_lr=0.9, steps=9, val_loader=loader, val_every=1
    )
    np.testing.assert_allclose(curve.metric, curve.loss, rtol=1e-5)  # on the same data, after the same updates
    assert (np.diff(curve.metric) < 0).all()


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.net = nn.Embedding(4, 3), nn.Linear(8, 2)

    def forward(self, x, kind):
        return self.net(torch.cat((x, self.embedding(kind)), 1))


def test_models_may_take_several_inputs():
    """pytorch-lr-finder #61: forward(x, x_embds) needed a wrapper around the model and another around the loader."""
    model, ((x, y), *_) = TwoInputs(), inputs_and_targets()
    loader = DataLoader(TensorDataset(x, torch.arange(8) % 4, y), batch_size=4)

    def compute_loss(model, batch):
        x, kind, y = batch
        return nn.functional.cross_entropy(model(x, kind), y)

    curve = range_test(model, loader=loader, compute_loss=compute_loss, steps=60)
    assert curve.loss.min() < curve.initial_loss
    with pytest.raises(ValueError, match=r"it gave a list, not \(inputs, targets\); .* compute_loss\(model, batch\)"):
        range_test(model, nn.CrossEntropyLoss(), loader)


@pytest.mark.parametrize("form", [lambda x, y: [x, y], lambda x, y: {"img": x, "target": y}], ids=["list", "dict"])
def test_batches_may_be_of_any_kind(form):
    """pytorch-lr-finder #71: "list indices must be integers", from an adapter that took list batches for dicts."""
    model, pairs = nn.Linear(5, 2), inputs_and_targets()
    batches = [form(x, y) for x, y in pairs]
    if isinstance(batches[0], list):
        curve = range_test(model, nn.CrossEntropyLoss(), batches, steps=10)
    else:
        curve = range_test(
            model,
            loader=batches,
            compute_loss=lambda m, batch: nn.functional.cross_entropy(m(batch["img"]), batch["target"]),
            steps=10,
        )
    np.testing.assert_array_equal(curve.loss, range_test(model, nn.CrossEntropyLoss(), pairs, steps=10).loss)


class Encoding(UserDict):
    """What tokenizers return: a mapping that is not a dict."""

    def to(self, device):
        return Encoding({name: tensor.to(device) for name, tensor in self.data.items()})


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(5, 2)

    def forward(self, input_ids, attention_mask, labels):
        logits = self.net(input_ids * attention_mask)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("kind", [dict, Encoding])
def test_transformers_take_dict_batches(kind):
    """pytorch-lr-finder #73: dict batches for BERT raised a ValueError, with or without TrainDataLoaderIter."""
    model, pairs = Classifier(), inputs_and_targets()
    batches = [kind({"input_ids": x, "attention_mask": torch.ones(len(x), 1), "labels": y}) for x, y in pairs]
    curve = range_test(model, loader=batches, steps=10)
    np.testing.assert_array_equal(curve.loss, range_test(model.net, nn.CrossEntropyLoss(), pairs, steps=10).loss)
    assert all(tensor.is_meta for tensor in move_batch(batches[0], torch.device("meta")).values())


def test_models_may_have_several_outputs_and_losses():
    """pytorch-lr-finder #78: with several losses from forward, the loss wrapper's None was divided by an int."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.heads = nn.ModuleList([nn.Linear(5, 2), nn.Linear(5, 1)])

        def forward(self, batch):
            kind, size = (head(batch["x"]) for head in self.heads)
            return nn.functional.cross_entropy(kind, batch["y"]), size.square().mean()

    model = Heads()
    batches = [{"x": x, "y": y} for x, y in inputs_and_targets()]
    curve = range_test(
        model, loader=batches, compute_loss=lambda model, batch: sum(model(batch)), accumulate=2, steps=10
    )
    with torch.no_grad():
        first = [sum(model(batch)).item() for batch in batches[:2]]
    assert curve.initial_loss == pytest.approx(sum(first) / 2)
    with pytest.raises(ValueError, match="loss: got 'NoneType'"):
        range_test(model, loader=batches, compute_loss=lambda model, batch: None)


def test_a_single_tensor_is_optimized_without_data():
    """pytorch-lr-finder #80: to optimize one input tensor through a frozen network, a DataLoader had to be faked."""
    torch.manual_seed(0)
    network = nn.Linear(5, 1).requires_grad_(False)
    image = nn.ParameterList([torch.ones(5)])
    curve = range_test(image, loader=[None], compute_loss=lambda image, _: network(image[0]).square().mean())
    assert curve.loss.min() < curve.initial_loss / 2
    assert torch.equal(image[0], torch.ones(5))
    assert network.weight.grad is None


def test_weights_are_restored_without_a_reset():
    """pytorch-lr-finder #11: the range test changed the weights unless reset() was called."""
    model, loss_fn, loader = blobs()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    before = full_state(model, optimizer)
    range_test(model, loss_fn, loader, optimizer=optimizer)
    assert full_state(model, optimizer) == before


def test_each_rate_is_recorded_with_its_own_loss():
    """pytorch-lr-finder #42: rates were recorded after the scheduler's step, so losses stood at the next rate."""
    model, loss_fn, loader = quadratic()
    rates = []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    curve = range_test(model, loss_fn, loader, optimizer=optimizer, min_lr=0.1, max_lr=0.5, steps=5)
    np.testing.assert_allclose(curve.lr, rates, rtol=1e-6)
    np.testing.assert_allclose(curve.lr[[0, -1]], [0.1, 0.5])
    np.testing.assert_allclose(curve.loss, 0.5 * np.cumprod(1 - curve.lr) ** 2, rtol=1e-5)


def test_a_curve_without_a_suggestion_can_be_drawn():
    """pytorch-lr-finder #88, #52: with fewer than 17 points plot() returned another type or a blank picture."""
    pytest.importorskip("matplotlib")
    curve = recorded([1e-3, 1e-2, 1e-1], [1.0, 1.0, 1.0])
    with pytest.raises(NoSuggestionError, match="only 3 finite points"):
        curve.suggest()
    axes = curve.plot()
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), curve.lr)


def test_a_missing_suggestion_is_an_error_with_a_reason():
    """pytorch-lightning #13844: suggestion() returned None, which was set as the learning rate."""
    with pytest.raises(NoSuggestionError, match="never falls"):
        recorded(np.geomspace(1e-6, 1, 100), np.ones(100)).suggest()


# fastai


def test_negative_losses_do_not_stop_a_ramp():
    """fastai #962: any negative loss stopped the finder, because 4 * best is then below best."""
    model, loss_fn, loader = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run = {"loader": loader, "optimizer": optimizer, "min_lr": 1e-3, "max_lr": 100.0, "steps": 60}
    plain = range_test(model, loss_fn, **run)
    for offset in (-0.25, -8.0):
        lower = range_test(model, lambda outputs, targets, by=offset: loss_fn(outputs, targets) + by, **run)
        assert (lower.stopped, len(lower.lr)) == ("diverged", len(plain.lr))
        np.testing.assert_allclose(lower.loss - offset, plain.loss, rtol=1e-3, atol=1e-5)
        assert lower.suggest().max_lr == pytest.approx(plain.suggest().max_lr, rel=1e-3)
    assert plain.lr[-1] > 2


def test_a_second_call_gives_the_same_curve():
    """fastai #3295: each call of lr_find on one learner gave another suggestion."""
    model, loss_fn, loader = blobs()
    loader = DataLoader(loader.dataset, batch_size=32, shuffle=True)  # ordered by torch's global generator
    curves = [range_test(model, loss_fn, loader) for _ in range(2)]
    np.testing.assert_array_equal(curves[0].lr, curves[1].lr)
    np.testing.assert_array_equal(curves[0].loss, curves[1].loss)
    assert curves[0].suggest() == curves[1].suggest()


def test_training_continues_as_without_a_range_test():
    """fastai #3013, pytorch-lightning #12670: a finder before the training changed the training."""

    def trained(tested):
        model, loss_fn, loader = blobs()
        loader = DataLoader(loader.dataset, batch_size=32, shuffle=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=16)
        rates = []
        for epoch in range(2):
            if tested:
                range_test(model, loss_fn, loader, optimizer=optimizer, steps=20)
            for x, y in loader:
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
                scheduler.step()
                rates.append((epoch, scheduler.get_last_lr(), optimizer.param_groups[0]["momentum"]))
        return rates, [param.tolist() for param in model.parameters()], [b.tolist() for b in model.buffers()]

    assert trained(tested=True) == trained(tested=False)


def test_accumulated_gradients_are_averaged():
    """fastai #3023: gradients were summed over the batches, so the suggestion was too low."""
    model, loss_fn, loader = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run = {"optimizer": optimizer, "min_lr": 0.01, "max_lr": 100.0, "steps": 40}
    one, four = (range_test(model, loss_fn, loader, accumulate=k, **run) for k in (1, 4))
    np.testing.assert_allclose(one.loss, four.loss, rtol=1e-4)


def test_a_range_test_writes_no_files(tmp_path, monkeypatch):
    """fastai #1751, #3240, pytorch-lightning #9574: weights went through a file, which may be read-only or shared."""
    (tmp_path / "locked").mkdir()
    monkeypatch.chdir(tmp_path / "locked")
    monkeypatch.setattr(torch, "save", lambda *_, **__: pytest.fail("something was saved"))
    monkeypatch.setattr("tempfile.mkstemp", lambda *_, **__: pytest.fail("a temporary file was made"))
    range_test(*blobs(), steps=15).suggest("minimum_tenth")
    assert os.listdir(tmp_path / "locked") == []


# Lightning


@pytest.mark.parametrize("kind", ["torch", "clrfast"])
def test_a_trained_model_gets_a_whole_curve_and_a_suggestion(kind):
    """pytorch-lightning #4846: after an epoch of training, the finder reported divergence at once."""
    model, loss_fn, loader = blobs()
    make = {"torch": torch.optim.SGD, "clrfast": clrfast.SGD}[kind]
    optimizer = make(model.parameters(), lr=0.02, momentum=0.9)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    before = full_state(model, optimizer)
    curve = range_test(model, loss_fn, loader, optimizer=optimizer)
    assert curve.lr[0] < 1e-5
    assert curve.lr[-1] > 0.1
    assert len(curve.lr) > 60
    assert 1e-4 < curve.suggest().max_lr < 10
    assert full_state(model, optimizer) == before


def test_smoothing_has_no_bias_at_the_first_rates():
    """pytorch-lightning #14167: a running mean that begins at 0 makes the loss seem to rise over the first rates."""
    lr = np.geomspace(1e-7, 10, 100)
    np.testing.assert_allclose(recorded(lr, np.full(100, 5.0)).smoothed, 5.0, rtol=1e-12)
    falling = recorded(lr, 5.0 - 4.0 / (1 + (1e-2 / lr) ** 2)).smoothed
    assert falling[0] == pytest.approx(5.0, rel=1e-3)
    assert (np.diff(falling) <= 1e-9).all()


@pytest.mark.parametrize("method", ["edge", "steepest", "minimum_tenth"])
def test_noise_does_not_change_the_suggestion_by_orders_of_magnitude(method):
    """pytorch-lightning #21141: with noise, slopes over the rate instead of its logarithm lead to the lowest rates."""
    lr, x = np.geomspace(1e-8, 1.0, 100), np.linspace(-50, 50, 100)
    loss = (-(x**2) - 30 * x + 4000) / 1000  # from the report: it falls faster and faster up to the last rate
    plain = recorded(lr, loss).suggest(method).max_lr
    assert plain > 0.01
    for seed in range(5):
        noisy = loss + np.random.default_rng(seed).uniform(-0.1, 0.1, 100)
        assert 0.4 < recorded(lr, noisy).suggest(method).max_lr / plain < 2.5


def test_a_loader_shorter_than_the_ramp_is_not_a_divergence():
    """pytorch-lightning #5044, ignite #1357: fewer batches than steps were reported as divergence."""
    model, loss_fn, loader = quadratic()
    curve = range_test(model, loss_fn, list(loader)[:2], min_lr=1e-4, max_lr=1e-2, steps=31)
    assert (curve.stopped, len(curve.loss)) == ("completed", 31)
    assert "without diverging" in curve.stop_reason


# ignite


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite_end_the_ramp(bad):
    """ignite #1482: the run continued with a loss of nan, and the suggestion came from the rest."""
    model, loss_fn, loader = quadratic()
    calls = []

    def breaking(outputs, targets):
        calls.append(1)
        return loss_fn(outputs, targets) * (bad if len(calls) > 40 else 1.0)

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run = {"optimizer": optimizer, "min_lr": 1e-3, "steps": 100}
    curve = range_test(model, breaking, loader, max_lr=10.0, **run)
    evaluations = 1 + 3  # of the batch and of others on the initial weights, which show that the data are good
    assert (curve.stopped, len(curve.loss), len(calls)) == ("non-finite", 40, 41 + evaluations)
    assert f"the loss became {bad}" in curve.stop_reason
    assert np.isfinite(curve.loss[:-1]).all()
    assert curve.lr[0] < curve.suggest("minimum_tenth").max_lr < curve.lr[-1]
    assert curve.divergence_lr == curve.lr[-1]
    assert torch.isfinite(model.weight).all()


@pytest.mark.parametrize("kind", ["torch", "clrfast"])
def test_groups_with_different_rates_keep_their_ratios(kind):
    """ignite #2703: all groups were trained with one rate and got one suggestion."""
    model, _, _ = blobs()
    make = {"torch": torch.optim.SGD, "clrfast": clrfast.SGD}[kind]
    optimizer = make(
        [{"params": model[0].parameters(), "lr": 1.0}, {"params": model[4].parameters(), "lr": 0.1}], lr=3e-4
    )
    rates = []
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups]))
    curve = range_test(model, nn.CrossEntropyLoss(), inputs_and_targets(), optimizer=optimizer, steps=6)
    np.testing.assert_allclose(rates, np.outer(curve.lr, [1.0, 0.1]), rtol=1e-6)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.1]
