"""The range test as a whole: what it measures, what it takes, and what it reports."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import clrfast
from clrfast import range_test
from tests.helpers.problems import blobs, quadratic
from tests.helpers.range_tests import (
    batch_norm_net,
    batches_of,
)
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_loss_is_measured_after_the_update_with_its_rate():
    """On the quadratic, w <- (1 - lr) * w, so the whole curve is known."""
    model, loss_fn, loader = quadratic()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for optimizer in (sgd, clrfast.SGD(model.parameters(), lr=0.1)):
        curve = range_test(
            model, loss_fn, loader, optimizer=optimizer, min_lr=0.1, max_lr=0.9, steps=5, spacing="linear"
        )
        w = np.cumprod(1 - np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
        np.testing.assert_allclose(curve.lr, [0.1, 0.3, 0.5, 0.7, 0.9])
        np.testing.assert_allclose(curve.loss, 0.5 * w**2, rtol=1e-5)
        assert curve.initial_loss == 0.5
        assert curve.stopped == "completed"


def test_on_the_cpu_a_diverged_loss_is_noticed_at_once():
    """Up to ten steps at a diverging rate would be wasted."""
    model, loss_fn, loader = quadratic(curvature=10.0)
    calls = []
    optimizer = clrfast.SGD(model.parameters(), lr=1.0)
    curve = range_test(
        model,
        lambda o, t: calls.append(1) or loss_fn(o, t),
        loader,
        optimizer=optimizer,
        min_lr=0.01,
        max_lr=100,
        steps=100,
    )
    assert len(calls) <= len(curve.loss) + 3


def spectrum(eigenvalues, noise=0.01, seed=0):
    """loss = sum of eigenvalue / 2 * (w - target)^2 with noisy targets, rotated, with a known largest curvature."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(eigenvalues)
    rotation = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator))[0]
    model = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        start = torch.randn(1, len(values), generator=generator)
        model.weight.copy_(start.sign() * (1 + start.abs()) @ rotation.T)
    targets = noise * torch.randn(64, len(values), generator=generator)

    def compute_loss(model, batch):
        return 0.5 * (values * ((model.weight @ rotation) - batch[0]).square()).sum(1).mean()

    return model, compute_loss, DataLoader(TensorDataset(targets), batch_size=8, shuffle=True, generator=generator)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    "eigenvalues", [[1.0], [100.0, 1.0], [1e4, 3e3, 10.0, 1.0], [0.01, 0.009, 0.001]], ids=["one", "two", "high", "low"]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_stability_lr_is_the_stability_limit_of_a_quadratic(eigenvalues, momentum, seed):
    """The estimate is within a fifth of 2 * (1 + momentum) / lambda_max."""
    model, compute_loss, loader = spectrum(eigenvalues, seed=seed)
    limit = 2 * (1 + momentum) / max(eigenvalues)
    optimizer = clrfast.SGD(model.parameters(), lr=1.0, momentum=momentum)
    curve = range_test(
        model, loader=loader, compute_loss=compute_loss, optimizer=optimizer, min_lr=1e-6, max_lr=10 * limit
    )
    assert curve.stopped == "diverged"
    assert 0.8 * limit < curve.stability_lr < 1.2 * limit


def test_submodules_in_eval_mode_stay_in_it_if_the_model_is_in_training_mode():
    model, loss_fn, loader = blobs()
    seen = set()
    model[1].register_forward_hook(lambda module, *_: seen.add(module.training))
    model.train()
    model[1].eval()
    range_test(model, loss_fn, loader, steps=3)
    assert seen == {False}
    seen.clear()
    model.eval()
    range_test(model, loss_fn, loader, steps=3)
    assert seen == {True}


def test_compute_loss_takes_batches_of_any_kind():
    model, loss_fn, _ = blobs()
    batches = [{"x": torch.randn(8, 5), "y": torch.randint(2, (8,)), "name": ["a"] * 8}] * 3
    curve = range_test(model, loader=batches, compute_loss=lambda m, b: loss_fn(m(b["x"]), b["y"]), steps=10)
    assert len(curve.loss) == 10


def test_it_runs_inside_no_grad_with_the_same_result():
    with torch.no_grad():
        first = range_test(*blobs(), steps=20)
    second = range_test(*blobs(), steps=20)
    np.testing.assert_array_equal(first.loss, second.loss)


def test_progress_gets_the_steps_and_the_latest_loss():
    reports = []
    curve = range_test(*blobs(), steps=25, max_lr=0.1, progress=lambda *args: reports.append(args))
    assert [done for done, *_ in reports] == sorted({done for done, *_ in reports})
    assert {11, 21, 25} <= {done for done, *_ in reports}
    assert {total for _, total, _ in reports} == {25}
    shown = next(shown for done, _, shown in reports if done == 11)
    assert shown["loss"] == pytest.approx(curve.loss[9])
    assert shown["lr"] == pytest.approx(curve.lr[11])


def test_progress_never_falls_over_coarse_and_fine_ramps():
    """A tiny loss never diverges, so the coarse ramp takes all of its steps."""
    model, loss_fn, loader = blobs()
    reports = []
    range_test(
        model,
        lambda o, t: 1e-6 * loss_fn(o, t),
        loader,
        repeats=2,
        trials=False,
        progress=lambda *args: reports.append(args[:2]),
    )
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert {total for _, total in reports} == {52 + 2 * 60}
    assert reports[-1][0] == 52 + 2 * 60


MODEL, LOSS, LOADER = blobs()


ONES = [(torch.ones(4, 5), torch.zeros(4, dtype=torch.long))]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: range_test(MODEL, loader=LOADER), "loss_fn: it was left out, and the loader gave a list"),
        (lambda: range_test(MODEL, LOSS, LOADER, compute_loss=lambda m, b: 0), "got both"),
        (lambda: range_test(MODEL, LOSS), "loader: got NoneType"),
        (lambda: range_test(MODEL, LOSS, []), "loader: it is empty"),
        (lambda: range_test(MODEL, LOSS, [torch.ones(2, 5)]), "it gave a Tensor, not .inputs, targets."),
        (lambda: range_test(nn.ReLU(), LOSS, LOADER), "model: it has no trainable parameters"),
        (lambda: range_test(MODEL, nn.CrossEntropyLoss(reduction="none"), ONES), r"loss: got shape \(4,\)"),
        (lambda: range_test(MODEL, lambda o, t: 1.0, ONES), "loss: got 'float'"),
        (lambda: range_test(MODEL, lambda o, t: o.detach().mean(), ONES), "loss: it does not depend on"),
        (
            lambda: range_test(MODEL, lambda o, t: o.mean() * math.nan, ONES),
            "the very first loss is nan.* any state that it keeps between calls",
        ),
        (lambda: range_test(MODEL, LOSS, LOADER, steps=1), "steps: got 1;"),
        (lambda: range_test(MODEL, LOSS, LOADER, steps="10"), "steps: got '10'"),
        (lambda: range_test(MODEL, LOSS, LOADER, steps=2.5), "steps: got 2.5"),
        (lambda: range_test(MODEL, LOSS, LOADER, min_lr="a"), "min_lr, max_lr: got 'a'"),
        (lambda: range_test(MODEL, LOSS, LOADER, max_lr=1e39), "min_lr, max_lr: got 1e-07 and 1e"),
        (lambda: range_test(MODEL, LOADER, LOSS), "loss_fn: got DataLoader, which cannot be called"),
        (lambda: range_test(MODEL, nn.MSELoss, LOADER), r"loss_fn: got the class MSELoss; give .* MSELoss\(\)"),
        (lambda: range_test(MODEL, LOSS, 3), "loader: got int"),
        (lambda: range_test("model", LOSS, LOADER), "model: got str"),
        (lambda: range_test(MODEL, LOSS, LOADER, optimizer="sgd"), "optimizer: got 'sgd'"),
        (lambda: range_test(MODEL, LOSS, LOADER, optimizer=torch.optim.SGD), "optimizer: got <class"),
        (lambda: range_test(MODEL, LOSS, LOADER, optimizer=torch.optim.LBFGS(MODEL.parameters())), "optimizer: LBFGS"),
        (
            lambda: range_test(MODEL, LOSS, LOADER, optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)),
            "optimizer: it has no trainable parameter of the model",
        ),
        (lambda: range_test(nn.LazyLinear(2), LOSS, LOADER), "model: it has parameters without a shape yet"),
        (lambda: range_test(MODEL, LOSS, LOADER, min_lr=1, max_lr=0.1), "min_lr, max_lr: got 1 and 0.1"),
        (lambda: range_test(MODEL, LOSS, LOADER, spacing="log"), "spacing: got 'log'"),
        (lambda: range_test(MODEL, LOSS, LOADER, stop_factor=0.5), "stop_factor: got 0.5"),
        (lambda: range_test(MODEL, LOSS, LOADER, repeats=0), "repeats: got 0"),
        (lambda: range_test(MODEL, LOSS, LOADER, min_lr=20), "min_lr: got 20, and max_lr is"),
        (lambda: range_test(MODEL, LOSS, LOADER, accumulate=0), "accumulate: got 0"),
        (lambda: range_test(MODEL, LOSS, LOADER, autocast=torch.float64), "autocast: got torch.float64"),
        (lambda: range_test(MODEL, LOSS, LOADER, scaler="yes"), "scaler: got str"),
        (lambda: range_test(MODEL, LOSS, LOADER, clip_norm=0), "clip_norm: got 0"),
        (lambda: range_test(MODEL, LOSS, LOADER, progress=3), "progress: got 3"),
        (lambda: range_test(MODEL, LOSS, LOADER, val_loader=[]), "val_loader: it is empty"),
        (lambda: range_test(MODEL, LOSS, LOADER, val_loader=3), "val_loader: got int"),
        (lambda: range_test(MODEL, LOSS, LOADER, val_loader=ONES, metric="f1"), "metric: got 'f1'"),
        (lambda: range_test(MODEL, LOSS, LOADER, metric="accuracy"), "metric: got 'accuracy' and no val_loader"),
        (lambda: range_test(MODEL, LOSS, LOADER, val_loader=ONES, val_every=0), "val_every: got 0"),
        (lambda: range_test(MODEL, LOSS, LOADER, graph=True), "graph: got True; give 'auto' or False"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(call, named):
    before = [p.detach().clone() for p in MODEL.parameters()]
    with pytest.raises(ValueError, match=named):
        call()
    for param, value in zip(MODEL.parameters(), before, strict=True):
        assert torch.equal(param, value)


def suggested_lr(seed, scale=1.0, order=0):
    """The suggestion for a small classifier whose loss is multiplied by ``scale``; ``order`` shuffles the data."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(512, 10, generator=generator)
    y = (x @ torch.randn(10, 4, generator=generator)).argmax(1)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    loader = DataLoader(
        TensorDataset(x, y), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(order)
    )

    def loss_fn(outputs, targets):
        return scale * nn.functional.cross_entropy(outputs, targets)

    return range_test(model, loss_fn, loader).suggest().max_lr


@pytest.mark.parametrize("scale", [1 / 50, 32.0, 1000.0])
def test_multiplying_the_loss_divides_the_suggested_rate(scale):
    plain = [np.log(suggested_lr(seed, order=seed)) for seed in range(4)]
    scaled = [np.log(suggested_lr(seed, scale, order=seed) * scale) for seed in range(4)]
    spread = np.ptp(plain)
    np.testing.assert_allclose(scaled, plain, atol=max(spread, np.log(1.5)))
    assert abs(np.mean(scaled) - np.mean(plain)) < np.log(1.3)


def test_another_order_of_the_data_changes_the_rate_by_less_than_two():
    rates = [suggested_lr(0, order=order) for order in range(5)]
    assert max(rates) / min(rates) < 2
    assert len(set(rates)) == 5


class ReturnsLoss(nn.Module):
    """A model that returns its loss, like those of transformers."""

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
def test_models_that_return_their_loss_need_no_loss_function(form):
    model = ReturnsLoss(form)
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


@pytest.mark.parametrize("trained", ["generator", "critic"])
def test_one_of_two_networks_is_trained_and_both_are_restored(trained):
    torch.manual_seed(0)
    nets = nn.ModuleDict(
        {
            "generator": nn.Linear(3, 5),
            "critic": nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)),
        }
    )
    noise, real = torch.randn(8, 3), [torch.randn(8, 5)] * 2
    resting = next(nets[name] for name in nets if name != trained)
    for param in resting.parameters():
        param.grad = torch.ones_like(param)
    optimizer, weights = torch.optim.Adam(nets[trained].parameters(), lr=0.1), []

    def compute_loss(nets, batch):
        weights.append([param.detach().clone() for param in resting.parameters()])
        fake = nets["generator"](noise)
        if trained == "generator":
            return -nets["critic"](fake).mean()
        return nets["critic"](fake).mean() - nets["critic"](batch).mean()

    before = full_state(nets, optimizer)
    curve = range_test(nets, loader=real, compute_loss=compute_loss, optimizer=optimizer, steps=12)
    assert curve.loss[-1] != curve.initial_loss
    for now in weights:
        assert all(torch.equal(a, b) for a, b in zip(now, weights[0], strict=True))
    assert full_state(nets, optimizer) == before


class Stream(IterableDataset):
    """A dataset without a length that counts how often it is iterated."""

    def __init__(self, n):
        self.n, self.begun = n, 0

    def __iter__(self):
        self.begun += 1
        return iter([(x, y) for x, y in zip(*batches_of(self.n)[0], strict=True)])


def test_a_stream_shorter_than_the_ramp_starts_again():
    stream, model = Stream(32), batch_norm_net()
    curve = range_test(model, nn.CrossEntropyLoss(), DataLoader(stream, batch_size=8), steps=11)
    assert len(curve.loss) == 11
    assert stream.begun == 3  # 12 batches, 4 per epoch
    again = range_test(model, nn.CrossEntropyLoss(), [(x, y) for x, y in DataLoader(stream, batch_size=8)], steps=11)
    np.testing.assert_array_equal(curve.loss, again.loss)


@pytest.mark.parametrize(
    ("arguments", "total"), [({"steps": 25}, 25), ({"steps": 10, "repeats": 3}, 30), ({"trials": False}, 74)]
)
def test_progress_ends_at_its_total(arguments, total):
    model, loss_fn, loader = quadratic()
    reports = []
    range_test(model, loss_fn, loader, min_lr=1e-4, max_lr=0.1, progress=lambda *now: reports.append(now), **arguments)
    done, totals, shown = zip(*reports, strict=True)
    assert set(totals) == {total}
    assert list(done) == sorted(done)
    assert done[-1] == total
    assert all(set(one) == {"lr", "loss"} and 0 < one["lr"] < 0.1001 for one in shown)
    assert all(math.isfinite(one["loss"]) for one in shown)


def test_an_iterator_gives_a_warning_that_its_batches_are_used_up():
    batches = iter(ONES * 30)
    with pytest.warns(UserWarning, match="loader: got a list_iterator, .* an iterable that starts again") as caught:
        range_test(MODEL, LOSS, batches, steps=9)
    assert caught[0].filename == __file__
    assert len(list(batches)) == 20
    generator = (batch for batch in ONES * 3)
    with pytest.warns(UserWarning, match="got a generator"), pytest.raises(ValueError, match="used up after 3 batches"):
        range_test(MODEL, LOSS, generator, steps=9)


def test_progress_gets_the_step_that_diverged():
    model, loss_fn, loader = quadratic()
    reports = []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    curve = range_test(
        model,
        loss_fn,
        loader,
        optimizer=optimizer,
        min_lr=0.1,
        max_lr=1e4,
        steps=40,
        progress=lambda *now: reports.append(now),
    )
    assert curve.stopped == "diverged"
    assert reports[-1][0] == len(curve.lr) + 1
    assert reports[-1][2]["loss"] == pytest.approx(curve.loss[-1], rel=1e-6)


def test_progress_can_be_a_bar(capsys):
    pytest.importorskip("tqdm")
    range_test(*blobs(), steps=5, progress=True)
    assert "range test" in capsys.readouterr().err
    range_test(*blobs(), steps=5, progress=False)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="progress: got 3"):
        range_test(*blobs(), steps=5, progress=3)
