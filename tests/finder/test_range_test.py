import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast import range_test
from tests.helpers.problems import blobs, quadratic
from tests.helpers.state import full_state


def test_each_loss_stands_beside_the_rate_that_led_to_it():
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


def test_sweep_reaches_both_ends():
    curve = range_test(*blobs(), min_lr=1e-4, max_lr=1e-2, steps=20)
    assert len(curve.lr) == len(curve.loss) == len(curve.smoothed) == 20
    assert (curve.lr[0], curve.lr[-1]) == (1e-4, 1e-2)
    assert np.isfinite(curve.loss).all()


def test_a_collapse_that_never_diverges_is_swept_where_it_happens():
    """Of a loss that rests a little below its start from rate 1 on, the fine sweep is not spent on rates of 1,000."""
    model = nn.Linear(1, 1)
    optimizer = clrfast.SGD(model.parameters(), lr=1.0)

    def loss(model, batch):
        at = math.log10(optimizer.param_groups[0]["lr"])
        value = np.interp(at, [-4, -1, 0], [6.0, 3.0, 5.9])
        return 0 * model.weight.sum() + float(value)

    curve = range_test(model, loader=[0], compute_loss=loss, optimizer=optimizer)
    assert curve.stopped == "completed"
    assert 1 < curve.lr[-1] < 20
    assert 0.02 < curve.suggest().max_lr < 0.2


def test_divergence_stops_the_sweep_at_the_right_loss():
    model, loss_fn, loader = quadratic(curvature=10.0)  # diverges above 0.2
    optimizer = clrfast.SGD(model.parameters(), lr=1.0)
    curve = range_test(model, loss_fn, loader, optimizer=optimizer, min_lr=0.01, max_lr=100, steps=100)
    assert curve.stopped == "diverged"
    assert "the loss had diverged" in curve.stop_reason
    losses = np.concatenate(([curve.initial_loss], curve.loss))
    start = losses[0]  # it falls to nothing, and may climb to four times that
    medians = [np.median(losses[max(0, i - 2) : i + 1]) for i in range(len(losses))]
    assert medians[-1] > 4 * start or losses[-1] > 31 * start
    assert max(medians[:-1]) < 4.01 * start
    assert max(losses[:-1]) < 31.1 * start
    assert curve.lr[-1] > 0.2


def test_the_host_looks_no_later_than_the_loss_on_the_cpu():
    """Ten steps at a diverging rate would be ten steps for nothing."""
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


def spectrum(eigenvalues, noise=0.01, seed=0):
    """loss = sum of eigenvalue / 2 * (w - target)^2 with noisy targets, rotated: the largest curvature is known."""
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
def test_the_stability_limit_of_a_quadratic_is_found(eigenvalues, momentum, seed):
    """2 * (1 + momentum) / lambda_max, within a fifth of it."""
    model, compute_loss, loader = spectrum(eigenvalues, seed=seed)
    limit = 2 * (1 + momentum) / max(eigenvalues)
    optimizer = clrfast.SGD(model.parameters(), lr=1.0, momentum=momentum)
    curve = range_test(
        model, loader=loader, compute_loss=compute_loss, optimizer=optimizer, min_lr=1e-6, max_lr=10 * limit
    )
    assert curve.stopped == "diverged"
    assert 0.8 * limit < curve.stability_lr < 1.2 * limit


@pytest.mark.parametrize("name", ["none", "torch", "adam", "clrfast", "scheduled"])
@pytest.mark.parametrize("failure", [None, ZeroDivisionError, KeyboardInterrupt])
def test_nothing_of_the_users_changes(name, failure):
    model, loss_fn, loader = blobs()
    model.eval()
    make = {
        "none": lambda p: torch.optim.SGD(p, lr=0.1),
        "torch": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1),
        "clrfast": lambda p: clrfast.SGD(p, lr=0.1, momentum=0.9),
        "scheduled": lambda p: clrfast.SGD(p, schedule=clrfast.one_cycle(0.1, 30)),
    }[name]
    optimizer = make(model.parameters())
    loss_fn(model(torch.randn(4, 5)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()
    before, order = full_state(model, optimizer), loader.generator.get_state()
    calls = []

    def failing_loss(outputs, targets):
        calls.append(1)
        if failure is not None and len(calls) == 15:
            raise failure
        return loss_fn(outputs, targets)

    options = {"optimizer": None if name == "none" else optimizer, "max_lr": 0.1, "steps": 30}
    if failure is None:
        range_test(model, failing_loss, loader, **options)
    else:
        with pytest.raises(failure):
            range_test(model, failing_loss, loader, **options)
    assert len(calls) == (31 if failure is None else 15)
    assert full_state(model, optimizer) == before
    assert torch.equal(loader.generator.get_state(), order)


def test_groups_keep_their_ratios():
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


def test_submodules_in_eval_mode_stay_there_unless_the_model_is():
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


def test_other_batches_go_through_compute_loss():
    model, loss_fn, _ = blobs()
    batches = [{"x": torch.randn(8, 5), "y": torch.randint(2, (8,)), "name": ["a"] * 8}] * 3
    curve = range_test(model, loader=batches, compute_loss=lambda m, b: loss_fn(m(b["x"]), b["y"]), steps=10)
    assert len(curve.loss) == 10


def test_it_runs_inside_no_grad_and_is_repeatable():
    with torch.no_grad():
        first = range_test(*blobs(), steps=20)
    second = range_test(*blobs(), steps=20)
    np.testing.assert_array_equal(first.loss, second.loss)


def test_it_can_be_run_twice_on_one_model():
    model, loss_fn, loader = blobs()
    np.testing.assert_array_equal(
        range_test(model, loss_fn, loader, steps=20).loss, range_test(model, loss_fn, loader, steps=20).loss
    )


def test_progress_is_told():
    told = []
    curve = range_test(*blobs(), steps=25, max_lr=0.1, progress=lambda *args: told.append(args))
    assert [done for done, *_ in told] == sorted({done for done, *_ in told})
    assert {11, 21, 25} <= {done for done, *_ in told}
    assert {total for _, total, _ in told} == {25}
    shown = next(shown for done, _, shown in told if done == 11)
    assert shown["loss"] == pytest.approx(curve.loss[9])
    assert shown["lr"] == pytest.approx(curve.lr[11])


def test_progress_of_two_sweeps_only_grows():
    """A loss of a tiny size diverges nowhere: the coarse sweep takes all of its steps."""
    model, loss_fn, loader = blobs()
    told = []
    range_test(
        model, lambda o, t: 1e-6 * loss_fn(o, t), loader, repeats=2, progress=lambda *args: told.append(args[:2])
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {52 + 2 * 60}
    assert told[-1][0] == 52 + 2 * 60


def test_held_out_losses_may_hold_a_derivative():
    model, loss_fn, loader = blobs()

    def penalised(model, batch):
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return loss_fn(model(batch[0]), batch[1]) + slope.square().mean()

    curve = range_test(model, loader=loader, compute_loss=penalised, val_loader=loader, steps=20, max_lr=0.1)
    assert np.isfinite(curve.metric).any()


MODEL, LOSS, LOADER = blobs()
ONES = [(torch.ones(4, 5), torch.zeros(4, dtype=torch.long))]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: range_test(MODEL, loader=LOADER), "loss_fn: it was left out, and the loader gave a list"),
        (lambda: range_test(MODEL, LOSS, LOADER, compute_loss=lambda m, b: 0), "got both"),
        (lambda: range_test(MODEL, LOSS), "loader: got NoneType"),
        (lambda: range_test(MODEL, LOSS, []), "loader: it is empty"),
        (lambda: range_test(MODEL, LOSS, iter(ONES * 3), steps=9), "used up after 3 batches"),
        (lambda: range_test(MODEL, LOSS, [torch.ones(2, 5)]), "it gave a Tensor, not .inputs, targets."),
        (lambda: range_test(nn.ReLU(), LOSS, LOADER), "model: it has no trainable parameters"),
        (lambda: range_test(MODEL, nn.CrossEntropyLoss(reduction="none"), ONES), r"loss: got shape \(4,\)"),
        (lambda: range_test(MODEL, lambda o, t: 1.0, ONES), "loss: got 'float'"),
        (lambda: range_test(MODEL, lambda o, t: o.detach().mean(), ONES), "loss: it does not depend on"),
        (lambda: range_test(MODEL, lambda o, t: o.mean() * math.nan, ONES), "the very first loss is nan"),
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


def test_parameters_of_the_loss_and_of_the_optimizer_are_put_back():
    """A loss with a learnable scale, and a second network that only the optimizer knows."""
    model, _, loader = blobs()

    class ScaledLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, outputs, targets):
            self.calls += 1
            return nn.functional.cross_entropy(outputs * self.scale, targets)

    loss_fn, other = ScaledLoss(), nn.Linear(2, 2)
    loss_fn.scale.grad = torch.ones(())
    optimizer = torch.optim.SGD([*model.parameters(), *loss_fn.parameters(), *other.parameters()], lr=0.1)
    before = [p.detach().clone() for p in (*loss_fn.parameters(), *other.parameters())]
    range_test(model, lambda o, t: loss_fn(other(o), t), loader, optimizer=optimizer, steps=20)
    range_test(model, loss_fn, loader, steps=20)
    for param, value in zip((*loss_fn.parameters(), *other.parameters()), before, strict=True):
        assert torch.equal(param, value)
    assert loss_fn.scale.grad == 1
    assert loss_fn.calls == 0


def test_persistent_workers_go_on_where_they_were():
    def first_epochs(tested):
        model, loss_fn, loader = blobs()
        loader = DataLoader(
            loader.dataset,
            batch_size=32,
            shuffle=True,
            num_workers=1,
            persistent_workers=True,
            generator=torch.Generator().manual_seed(5),
        )
        next(iter(loader))
        if tested:
            range_test(model, loss_fn, loader, steps=5)
        return [y.tolist() for _, y in loader]

    assert first_epochs(tested=True) == first_epochs(tested=False)


def suggested(seed, scale=1.0, order=0):
    """What a small classifier gets, its loss multiplied by ``scale``, in the ``order``-th order of the data."""
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
def test_another_unit_of_the_loss_divides_the_rate_by_it(scale):
    plain = [np.log(suggested(seed, order=seed)) for seed in range(4)]
    scaled = [np.log(suggested(seed, scale, order=seed) * scale) for seed in range(4)]
    spread = np.ptp(plain)
    np.testing.assert_allclose(scaled, plain, atol=max(spread, np.log(1.5)))
    assert abs(np.mean(scaled) - np.mean(plain)) < np.log(1.3)


def test_another_order_of_the_data_leaves_the_rate_where_it_is():
    rates = [suggested(0, order=order) for order in range(5)]
    assert max(rates) / min(rates) < 2
    assert len(set(rates)) == 5


@pytest.mark.parametrize("max_lr", np.geomspace(4.0, 40.0, 8))
def test_no_rate_is_above_max_lr_where_the_coarse_sweep_diverges_late(max_lr):
    """Full batches: what the leaps of the coarse sweep blow up, the fine one may pass without divergence."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(178, 13, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 3))
    curve = range_test(model, nn.CrossEntropyLoss(), [(x, x[:, :3].argmax(1))], max_lr=max_lr)
    assert curve.lr[-1] <= max_lr * (1 + 1e-6)


# --- the judgement of data --------------------------------------------------------------------------------------------


def easy(order):
    """Four blobs far apart, which a small network fits within a sweep."""
    generator = torch.Generator().manual_seed(0)
    centres, y = 2 * torch.randn(4, 10, generator=generator), torch.randint(0, 4, (640,), generator=generator)
    data = TensorDataset(centres[y] + torch.randn(640, 10, generator=generator), y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    loader = DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(order))
    return model, nn.CrossEntropyLoss(), loader


def test_data_that_are_soon_fitted_have_one_rate_whatever_their_order():
    curves = [range_test(*easy(order)) for order in range(10)]
    rates = [curve.suggest().max_lr for curve in curves]
    assert 0.02 < min(rates) < max(rates) < 0.8
    assert max(rates) < 10 * min(rates)
    fitted = [curve for curve in curves if "fitted the data at" in curve.stop_reason]
    assert fitted
    for curve in fitted:
        assert curve.stopped != "completed"
        assert (np.diff(curve.lr) > 0).all()


def test_text_and_picture_name_one_rate_of_divergence():
    curve = range_test(*blobs(), max_lr=1e4, steps=100)
    assert curve.divergence_lr < curve.lr[-1]
    assert curve.stop_reason.startswith(f"diverged at {curve.divergence_lr:.3g}")


def test_a_completed_sweep_that_climbs_does_not_say_that_it_never_diverged():
    model = nn.Linear(1, 1)
    optimizer = clrfast.SGD(model.parameters(), lr=1.0)

    def loss(model, batch):
        at = math.log10(optimizer.param_groups[0]["lr"])
        return 0 * model.weight.sum() + float(np.interp(at, [-4, -1, 0], [6.0, 3.0, 9.0]))

    curve = range_test(model, loader=[0], compute_loss=loss, optimizer=optimizer, min_lr=1e-4, max_lr=1.0, steps=60)
    assert curve.stopped == "completed"
    assert f"diverged at {curve.divergence_lr:.3g}" in curve.stop_reason
    assert "without diverging" not in curve.stop_reason
