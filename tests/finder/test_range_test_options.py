"""What a range test may be asked for beside a plain sweep: every mode against the same thing done by hand."""

import copy
import gc
import math
import pickle
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import clrfast
from clrfast import LRCurve, range_test
from tests.helpers.problems import blobs, quadratic
from tests.helpers.state import full_state

OPTIMIZERS = {
    "clrfast": lambda p: clrfast.SGD(p, lr=0.1),
    "torch": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
}

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


pytestmark = pytest.mark.usefixtures("one_thread")


def net(seed=0):
    """Batch norm, so that a look at the wrong moment shows; nothing random, so that a second run is the same."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def batches_of(*sizes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(n, 5, generator=generator) for n in sizes]
    return [(x, (x[:, 0] > 0).long()) for x in inputs]


def frozen(value):
    """Of a scaler: everything, as values that compare with ==."""
    if isinstance(value, dict):
        return {str(key): frozen(entry) for key, entry in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else str(value)


class Overflowing(torch.autograd.Function):
    """The identity, whose gradient is infinite at the given calls."""

    @staticmethod
    def forward(ctx, loss, calls, at):
        calls.append(1)
        ctx.broken = at is True or len(calls) in at
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.inf if ctx.broken else grad, None, None


# Held-out batches


def mean_of_outputs(outputs, targets):
    return outputs[:, 0].mean()


MEASURES = {
    "validation loss": (None, nn.CrossEntropyLoss()),
    "accuracy": ("accuracy", lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()),
    "mean_of_outputs": (mean_of_outputs, mean_of_outputs),
}


@every_optimizer
@pytest.mark.parametrize("name", MEASURES)
def test_held_out_values_are_those_after_the_update_with_their_rate(name, make):
    metric, measure = MEASURES[name]
    batches, loss_fn = batches_of(*[16] * 21), nn.CrossEntropyLoss()
    held_out = batches_of(8, 3, 5, seed=2)  # the third is left out: 20 steps pay for two
    sweep = {"min_lr": 0.01, "max_lr": 1.0, "steps": 20}
    model = net()
    curve = range_test(
        model,
        loss_fn,
        batches,
        optimizer=make(model.parameters()),
        val_loader=held_out,
        metric=metric,
        val_every=4,
        **sweep,
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
            expected.append(sum(len(y) * measure(model(x), y).item() for x, y in held_out[:2]) / 11)
    looked = ~np.isnan(curve.metric)
    np.testing.assert_array_equal(np.flatnonzero(looked), [3, 7, 11, 15, 19])
    np.testing.assert_allclose(curve.metric[looked], np.array(expected)[looked], rtol=1e-5)


def test_a_metric_of_ones_own_takes_the_model_and_the_batch():
    model, batches = net(), [{"x": x, "y": y} for x, y in batches_of(16, 16)]

    def compute_loss(model, batch):
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    def error_rate(model, batch):
        assert not model.training
        assert not torch.is_grad_enabled()
        return (model(batch["x"]).argmax(1) != batch["y"]).float().mean()

    run = {"loader": batches, "compute_loss": compute_loss, "val_loader": batches, "val_every": 1, "steps": 4}
    rates = {"min_lr": 1e-9, "max_lr": 1e-8}  # the model stays as it is
    curve = range_test(model, metric=error_rate, **run, **rates)
    assert curve.metric_name == "error_rate"
    assert curve.metric.shape == (4,)
    assert np.isfinite(curve.metric).all()
    losses = range_test(model, **run, **rates).metric
    assert losses[0] != pytest.approx(curve.metric[0])


def test_looks_leave_flags_and_the_training_alone():
    batches, held_out, flags = batches_of(16, 16), batches_of(8, seed=2), []
    model = net()
    model[1].eval()
    before = full_state(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model.register_forward_pre_hook(lambda *_: flags.append([module.training for module in model]))
    plain = range_test(model, nn.CrossEntropyLoss(), batches, steps=6)
    training = [True, False, True, True]
    assert flags == [training] * 7
    flags.clear()
    looked = range_test(model, nn.CrossEntropyLoss(), batches, steps=6, val_loader=held_out, val_every=3)
    assert sorted(flags) == sorted([training] * 7 + [[False] * 4] * 2)
    np.testing.assert_array_equal(plain.loss, looked.loss)
    assert full_state(model, torch.optim.SGD(model.parameters(), lr=0.1)) == before


@pytest.mark.parametrize(("steps", "repeats"), [(2, 1), (10, 1), (38, 1), (91, 1), (98, 1), ("auto", 1), ("auto", 3)])
def test_looking_takes_no_more_forward_passes_than_training(steps, repeats):
    model, loss_fn, loader = quadratic()
    passes = {True: 0, False: 0}
    model.register_forward_pre_hook(lambda module, _: passes.update({module.training: passes[module.training] + 1}))
    # Highest rates that converge, so that no sweep ends early.
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
def test_bad_held_out_arguments_are_named(arguments, named):
    model, loss_fn, loader = quadratic()
    if arguments.get("val_loader") == "it":
        arguments = {**arguments, "val_loader": loader}
    with pytest.raises(ValueError, match=named):
        range_test(model, loss_fn, loader, steps=5, **arguments)
    assert model.weight.item() == 1.0


def test_accuracy_of_dict_batches_is_refused_with_what_to_give():
    batches = [{"inputs": x, "targets": y} for x, y in batches_of(8, 8)]

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["inputs"]), batch["targets"])

    with pytest.raises(ValueError, match=r"metric: 'accuracy' needs .* gave a dict; give metric\(model, batch\)"):
        range_test(net(), loader=batches, compute_loss=loss, val_loader=batches, metric="accuracy", steps=5)


def test_bounds_of_a_cyclical_rate_from_a_linear_sweep():
    """Smith's test: accuracy over a linear rate; it begins to rise after step 10 and is up at step 30 of 50."""
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


def test_too_few_looks_are_told_as_such():
    batches = batches_of(16, 16)
    curve = range_test(
        net(), nn.CrossEntropyLoss(), batches, val_loader=batches, metric="accuracy", val_every=5, steps=10
    )
    with pytest.raises(clrfast.NoSuggestionError, match=r"looked at 2 times up to 10, .* smaller val_every"):
        curve.suggest("clr_bounds")


def test_a_suggestion_from_the_validation_loss():
    model = net()
    curve = range_test(
        model, nn.CrossEntropyLoss(), batches_of(*[32] * 10), steps=60, val_loader=batches_of(64, seed=2), val_every=1
    )
    assert curve.suggest("minimum_tenth", of="metric").max_lr < curve.lr[np.nanargmin(curve.metric)]
    with pytest.raises(ValueError, match="one that rises, such as the accuracy"):
        curve.suggest("clr_bounds")


# How a step is made


@every_optimizer
@pytest.mark.parametrize("scaled", [False, True])
def test_all_groups_keep_their_ratios(make, scaled):
    model = net()
    rates = []
    optimizer = make([{"params": model[i].parameters(), "lr": lr} for i, lr in ((0, 0.1), (1, 0.0), (3, 0.4))])
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups]))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
    curve = range_test(
        model, nn.CrossEntropyLoss(), batches_of(16, 16), optimizer=optimizer, scaler=scaler, max_lr=1.0, steps=5
    )
    np.testing.assert_allclose(rates, np.outer(curve.lr, [0.25, 0.0, 1.0]), rtol=1e-6)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0, 0.4]


@every_optimizer
def test_accumulation_is_one_batch_that_much_larger(make):
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
def test_autocast_covers_training_and_looks(make):
    model, dtypes = net(), []

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
def test_a_skipped_update_is_tried_again_at_its_rate(make, clip_norm, used):
    """The data do not change: the losses are those of a sweep without the two skipped updates."""
    model, loss_fn, loader = quadratic()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    if used:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        scaler.scale(model.weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    before, scale = frozen(vars(scaler)), scaler._scale

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
    assert frozen(vars(scaler)) == before
    assert scaler._scale is scale


@every_optimizer
def test_a_scaler_that_skips_for_ever_is_told_and_put_back(make):
    model, loss_fn, loader = quadratic()
    optimizer, scaler, calls = make(model.parameters()), torch.amp.GradScaler("cpu", init_scale=8.0), []
    before = full_state(model, optimizer), frozen(vars(scaler))
    with pytest.raises(ValueError, match="scaler: it has skipped"):
        range_test(
            model,
            loader=loader,
            compute_loss=lambda m, batch: Overflowing.apply(loss_fn(m(batch[0]), batch[1]), calls, True),
            optimizer=optimizer,
            scaler=scaler,
            steps=5,
        )
    assert (full_state(model, optimizer), frozen(vars(scaler))) == before
    assert len(calls) < 50


@pytest.fixture
def untold(monkeypatch):
    """As on a CUDA device: the host counts every update as made until it asks."""
    advance = clrfast.StepControl.advance

    def counted(control, *arguments):
        before = control.host_step
        advance(control, *arguments)
        control.host_step = before + 1

    monkeypatch.setattr(clrfast.StepControl, "advance", counted)


@pytest.mark.usefixtures("untold")
def test_skips_for_ever_that_the_host_does_not_see_are_told():
    model, loss_fn, loader = quadratic()
    calls = []

    def loss(m, batch):
        assert len(calls) < 200  # else it went on without end
        return Overflowing.apply(loss_fn(m(batch[0]), batch[1]), calls, True)

    with pytest.raises(ValueError, match="scaler: it has skipped"):
        range_test(model, loader=loader, compute_loss=loss, scaler=torch.amp.GradScaler("cpu"), steps=5)


@pytest.mark.usefixtures("untold")
def test_looks_count_the_updates_that_were_made():
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


class Wrapped(torch.optim.Optimizer):
    """As the wrappers of training frameworks: torch's hooks are none of its business."""

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
    curve = range_test(model, loss_fn, loader, optimizer=Wrapped(optimizer), **arguments)
    np.testing.assert_array_equal(curve.loss, expected.loss)


def test_a_loss_may_hold_a_gradient_of_the_model():
    def penalized(model, batch):
        inputs = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    curve = range_test(nn.Linear(5, 1), loader=batches_of(8), compute_loss=penalized, max_lr=1e-3, steps=10)
    assert len(curve.lr) == 10  # the loss after the last update is measured too


@pytest.mark.parametrize("make", [OPTIMIZERS["clrfast"], OPTIMIZERS["torch"]], ids=["clrfast", "torch"])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_are_clipped_after_unscaling(make, scaled):
    model, loss_fn, loader = quadratic()
    with torch.no_grad():
        model.weight.fill_(10.0)  # a gradient of 10, as long as it is not clipped
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


# What is trained, and on what


class Own(nn.Module):
    """Returns its own loss, as the models of transformers do."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.form = nn.Linear(5, 2), form

    def forward(self, x, labels=None):
        outputs = {"logits": self.net(x)}
        if labels is not None:
            outputs["loss"] = nn.functional.cross_entropy(outputs["logits"], labels)
        return self.form(outputs)


@pytest.mark.parametrize("form", [dict, lambda outputs: SimpleNamespace(**outputs)], ids=["dict", "object"])
def test_models_that_return_their_own_loss(form):
    model = Own(form)
    batches = [{"x": x, "labels": y} for x, y in batches_of(16, 8)]
    curve = range_test(model, loader=batches, steps=6, val_loader=batches, val_every=3)
    pairs = [(batch["x"], batch["labels"]) for batch in batches]
    other = range_test(model.net, nn.CrossEntropyLoss(), pairs, steps=6, val_loader=pairs, val_every=3)
    np.testing.assert_array_equal(curve.loss, other.loss)
    np.testing.assert_array_equal(curve.metric, other.metric)
    with pytest.raises(ValueError, match="without a loss; are the labels in the batch"):
        range_test(model, loader=[{"x": torch.ones(2, 5)}], steps=6)
    with pytest.raises(ValueError, match="the loader gave a tuple"):
        range_test(model, loader=pairs, steps=6)


@pytest.mark.parametrize("swept", ["generator", "critic"])
def test_one_of_two_networks_is_swept(swept):
    torch.manual_seed(0)
    nets = nn.ModuleDict(
        {
            "generator": nn.Linear(3, 5),
            "critic": nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)),
        }
    )
    noise, real = torch.randn(8, 3), [torch.randn(8, 5)] * 2
    resting = next(nets[name] for name in nets if name != swept)
    for param in resting.parameters():
        param.grad = torch.ones_like(param)
    optimizer, weights = torch.optim.Adam(nets[swept].parameters(), lr=0.1), []

    def compute_loss(nets, batch):
        weights.append([param.detach().clone() for param in resting.parameters()])
        fake = nets["generator"](noise)
        if swept == "generator":
            return -nets["critic"](fake).mean()
        return nets["critic"](fake).mean() - nets["critic"](batch).mean()

    before = full_state(nets, optimizer)
    curve = range_test(nets, loader=real, compute_loss=compute_loss, optimizer=optimizer, steps=12)
    assert curve.loss[-1] != curve.initial_loss
    for now in weights:
        assert all(torch.equal(a, b) for a, b in zip(now, weights[0], strict=True))
    assert full_state(nets, optimizer) == before


class Stream(IterableDataset):
    """Has no length, and tells how often it was begun."""

    def __init__(self, n):
        self.n, self.begun = n, 0

    def __iter__(self):
        self.begun += 1
        return iter([(x, y) for x, y in zip(*batches_of(self.n)[0], strict=True)])


def test_streams_start_again_at_their_end():
    stream, model = Stream(32), net()
    curve = range_test(model, nn.CrossEntropyLoss(), DataLoader(stream, batch_size=8), steps=11)
    assert len(curve.loss) == 11
    assert stream.begun == 3  # 12 batches of 4 an epoch
    again = range_test(model, nn.CrossEntropyLoss(), [(x, y) for x, y in DataLoader(stream, batch_size=8)], steps=11)
    np.testing.assert_array_equal(curve.loss, again.loss)


# What is put back, whatever happens


def test_a_snapshot_elsewhere_puts_back_the_same():
    model, loss_fn, loader = blobs()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    loss_fn(model(torch.randn(4, 5)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()
    before = full_state(model, optimizer)
    here = range_test(model, loss_fn, loader, optimizer=optimizer, steps=10)
    there = range_test(model, loss_fn, loader, optimizer=optimizer, steps=10, snapshot_device="cpu")
    np.testing.assert_array_equal(here.loss, there.loss)
    assert full_state(model, optimizer) == before


FAILURES = [ZeroDivisionError, KeyboardInterrupt, torch.cuda.OutOfMemoryError]


@every_optimizer
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("where", ["loss", "backward", "look", "progress", "loader"])
def test_a_failure_anywhere_leaves_nothing_behind(make, failure, where):
    model, _, loader = blobs()
    held_out = DataLoader(
        TensorDataset(torch.randn(16, 5), torch.zeros(16, dtype=torch.long)),
        batch_size=8,
        shuffle=True,
        generator=torch.Generator().manual_seed(4),
    )
    optimizer, scaler = make(model.parameters()), torch.amp.GradScaler("cpu", init_scale=8.0)
    model(torch.randn(4, 5)).sum().backward()
    optimizer.step()
    model[1].eval()
    counts = dict.fromkeys(["loss", "backward", "look", "progress", "loader"], 0)

    def pass_by(here, at):
        counts[here] += 1
        if here == where and counts[here] == at:
            raise failure

    def loss_fn(outputs, targets):
        pass_by("loss", 15)
        if outputs.requires_grad:
            outputs.register_hook(lambda grad: pass_by("backward", 15))
        return nn.functional.cross_entropy(outputs, targets)

    def metric(outputs, targets):
        pass_by("look", 3)
        return outputs.mean()

    class Failing:
        def __iter__(self):
            for batch in loader:
                pass_by("loader", 15)
                yield batch

        generator = loader.generator

    def state():
        return [
            full_state(model, optimizer),
            frozen(vars(scaler)),
            loader.generator.get_state().tolist(),
            held_out.generator.get_state().tolist(),
        ]

    before = state()
    with pytest.raises(failure):
        range_test(
            model,
            loss_fn,
            Failing(),
            optimizer=optimizer,
            scaler=scaler,
            val_loader=held_out,
            metric=metric,
            steps=30,
            progress=lambda *_: pass_by("progress", 2),
        )
    assert counts[where] > 0
    assert state() == before


def test_persistent_workers_of_the_held_out_loader_go_on_where_they_were():
    def epochs(tested):
        model, loss_fn, loader = blobs()
        held_out = DataLoader(
            loader.dataset,
            batch_size=32,
            shuffle=True,
            num_workers=1,
            persistent_workers=True,
            generator=torch.Generator().manual_seed(5),
        )
        next(iter(held_out))
        workers = held_out._iterator
        if tested:
            range_test(model, loss_fn, loader, steps=20, val_loader=held_out)
        assert held_out._iterator is workers
        return [y.tolist() for _, y in held_out]

    assert epochs(tested=True) == epochs(tested=False)


# Curves


def test_repeats_go_on_with_the_next_batches_from_the_same_start():
    model, seen = net(), []
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


def test_repeats_of_two_sweeps_share_the_coarse_one():
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


def test_a_curve_can_be_extended():
    model, batches, loss_fn = net(), batches_of(*[16] * 5), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = full_state(model, optimizer)
    ramp = {"min_lr": 1e-4, "steps": 10}
    run = {"optimizer": optimizer, "accumulate": 2, "val_loader": batches[:1], "metric": "accuracy"}
    curve = range_test(model, loss_fn, batches, max_lr=1e-3, **ramp, **run)
    assert curve.stopped == "completed"
    assert "curve.extended(0.01, model, loss_fn, loader)" in curve.stop_reason
    longer = curve.extended(0.5, model, loss_fn, batches, **run)
    same = range_test(model, loss_fn, batches, max_lr=0.5, **ramp, **run)
    np.testing.assert_array_equal(longer.lr, same.lr)
    np.testing.assert_array_equal(longer.loss, same.loss)
    np.testing.assert_array_equal(longer.metric, same.metric)
    assert longer.metric_name == "accuracy"
    assert longer.extended(1.0, model, loss_fn, batches, **run).lr[-1] == pytest.approx(1.0)
    assert full_state(model, optimizer) == before
    with pytest.raises(ValueError, match=r"max_lr: got 0\.0005"):
        curve.extended(0.0005, model, loss_fn, batches)


def test_a_curve_keeps_neither_model_nor_data_nor_optimizer_alive():
    def measured():
        model, loss_fn = net(), nn.CrossEntropyLoss()
        loader = DataLoader(batches_of(*[16] * 5), batch_size=None)
        optimizer = clrfast.SGD(model.parameters(), lr=0.1)

        def metric(outputs, targets):
            return (outputs * model[3].bias).mean()

        run = {"optimizer": optimizer, "steps": 10, "val_loader": loader, "metric": metric}
        curve = range_test(model, loss_fn, loader, **run)
        return curve, [weakref.ref(each) for each in (model, model[0].weight, loss_fn, loader, optimizer, metric)]

    curve, held = measured()
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)
    assert len(curve.loss) == 10


@pytest.mark.parametrize("way", ["file", "pickle", "copy"])
def test_metric_and_repeats_survive_a_journey(way, tmp_path):
    model, batches = net(), batches_of(*[16] * 5)
    curve = range_test(
        model,
        nn.CrossEntropyLoss(),
        batches,
        min_lr=1e-3,
        max_lr=1.0,
        steps=20,
        val_loader=batches[:2],
        metric=mean_of_outputs,
        repeats=2,
    )
    answer = curve.suggest("minimum_tenth")
    if way == "file":
        curve.save(tmp_path / "curve.json")
        arrived = LRCurve.load(tmp_path / "curve.json")
    else:
        arrived = pickle.loads(pickle.dumps(curve)) if way == "pickle" else copy.deepcopy(curve)
    assert arrived.metric_name == "mean_of_outputs"
    for here, there in zip((curve, *curve.repeats), (arrived, *arrived.repeats), strict=True):
        for name in ("lr", "loss", "metric"):
            np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
            assert getattr(there, name).dtype == np.float64
        assert (there.initial_loss, there.stopped, there.stop_reason) == (
            here.initial_loss,
            here.stopped,
            here.stop_reason,
        )
    assert arrived.suggest("minimum_tenth") == answer
    with pytest.raises(ValueError, match="extended: this curve was loaded from a file or copied"):
        arrived.extended(10.0, model, nn.CrossEntropyLoss(), batches)


# Progress


@pytest.mark.parametrize(("arguments", "total"), [({"steps": 25}, 25), ({"steps": 10, "repeats": 3}, 30), ({}, 74)])
def test_progress_never_goes_back_and_ends_at_its_total(arguments, total):
    model, loss_fn, loader = quadratic()
    told = []
    range_test(model, loss_fn, loader, min_lr=1e-4, max_lr=0.1, progress=lambda *now: told.append(now), **arguments)
    done, totals, shown = zip(*told, strict=True)
    assert set(totals) == {total}
    assert list(done) == sorted(done)
    assert done[-1] == total
    assert all(set(one) == {"lr", "loss"} and 0 < one["lr"] < 0.1001 for one in shown)
    assert all(math.isfinite(one["loss"]) for one in shown)


def test_a_loss_that_falls_from_the_first_step_on_has_not_diverged():
    """Full batches, hence no noise: what comes before the fall is high above the losses that follow."""
    model, loss_fn, loader = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    curve = range_test(model, loss_fn, loader, optimizer=optimizer, min_lr=0.1, max_lr=1e4, steps=40)
    assert curve.initial_loss == 0.5
    assert curve.lr[-1] > 2
    assert curve.loss[-1] > 0.5


def test_progress_is_told_of_the_step_that_diverged():
    model, loss_fn, loader = quadratic()
    told = []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    curve = range_test(
        model,
        loss_fn,
        loader,
        optimizer=optimizer,
        min_lr=0.1,
        max_lr=1e4,
        steps=40,
        progress=lambda *now: told.append(now),
    )
    assert curve.stopped == "diverged"
    assert told[-1][0] == len(curve.lr) + 1
    assert told[-1][2]["loss"] == pytest.approx(curve.loss[-1], rel=1e-6)


def test_progress_as_a_bar(capsys):
    pytest.importorskip("tqdm")
    range_test(*blobs(), steps=5, progress=True)
    assert "range test" in capsys.readouterr().err
    range_test(*blobs(), steps=5, progress=False)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="progress: got 3"):
        range_test(*blobs(), steps=5, progress=3)
