"""``clip_norm`` of a step: an optimizer of clrfast clips on the device, and any other by torch's function."""

from __future__ import annotations

import math

import pytest
import torch

import clrfast
from clrfast.training import StepOptions, TrainStep
from clrfast.training._eager_step import EagerStep
from clrfast.training._optimizer_list import join_optimizers
from tests.helpers.optimizers import BACKENDS
from tests.helpers.range_tests import Overflowing
from tests.helpers.train_steps import LOSS, batches, n_replays, net, run

PAIRS = {
    "sgd": (clrfast.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (clrfast.Adam, torch.optim.Adam, {"lr": 0.01}),
    "adamw": (clrfast.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def trained(kind, n=6, clip_norm=0.05, scaler=None, accumulate=1, **options):
    """Return the model, the optimizer and the losses of ``n`` clipped steps."""
    model = net()
    optimizer = kind(model.parameters(), **options)
    step = TrainStep(model, LOSS, optimizer, clip_norm=clip_norm, scaler=scaler, accumulate=accumulate)
    data = batches(n * accumulate)
    losses = [step(*data[i * accumulate : (i + 1) * accumulate]) for i in range(n)]
    return model, optimizer, losses


@every_pair
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_clipped_training_equals_that_with_torchs_optimizer(pair, backend, scaled, accumulate):
    ours, theirs, options = pair
    runs = [
        trained(
            kind,
            scaler=torch.amp.GradScaler("cpu", init_scale=64.0) if scaled else None,
            accumulate=accumulate,
            **options,
            **more,
        )
        for kind, more in ((ours, {"backend": backend}), (theirs, {}))
    ]
    torch.testing.assert_close(runs[0][2], runs[1][2], rtol=1e-5, atol=1e-6)
    others = dict(runs[1][0].named_parameters())
    for name, param in runs[0][0].named_parameters():
        if name != "0.bias":  # its gradient is rounding, because batch normalization follows
            torch.testing.assert_close(param, others[name], rtol=1e-4, atol=1e-6)


@every_pair
def test_the_optimizer_measures_the_norm_and_keeps_the_gradients_and_has_no_clip_norm_afterwards(pair):
    ours, _, options = pair
    model, optimizer, _ = trained(ours, **options, schedule=clrfast.constant(0.01, 6))
    norm = torch.cat([param.grad.flatten() for param in model.parameters()]).norm()
    assert norm > 0.05
    assert float(optimizer.grad_norm) == pytest.approx(float(norm), rel=1e-5)
    assert float(optimizer.control.grad_norms[5]) == pytest.approx(float(norm), rel=1e-5)
    assert optimizer.control.grad_norms.isfinite().all()
    assert optimizer.clip_norm is None
    assert optimizer.defaults["clip_norm"] is None


def test_the_optimizers_own_clip_norm_is_used_and_may_be_repeated_in_the_options():
    runs = [
        _trained_with(own, by_step)
        for own, by_step in ((0.05, None), (None, 0.05), (0.05, 0.05), (0.05, torch.tensor(0.05, dtype=torch.float64)))
    ]
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))


def _trained_with(own, by_step):
    model = net()
    step = TrainStep(model, LOSS, clrfast.AdamW(model.parameters(), clip_norm=own), clip_norm=by_step)
    return [step(batch) for batch in batches(4)]


@pytest.mark.parametrize(
    "make",
    [
        lambda model, optimizer, options: TrainStep(model, LOSS, optimizer, options=options),
        lambda model, optimizer, options: EagerStep(model, LOSS, optimizer, options),
        lambda model, optimizer, options: clrfast.range_test(
            model, LOSS, batches(4), optimizer=optimizer, options=options
        ),
    ],
    ids=["TrainStep", "EagerStep", "range_test"],
)
@pytest.mark.parametrize("several", [False, True])
def test_another_clip_norm_than_the_optimizers_is_an_error_that_names_both(make, several):
    model = net()
    parts = [model[0], model[4]] if several else [model]
    optimizer = [clrfast.AdamW(part.parameters(), clip_norm=0.5) for part in parts]
    with pytest.raises(ValueError, match=r"clip_norm: got 2 for the step, and the optimizer has a clip_norm of 0\.5"):
        make(model, join_optimizers(optimizer), StepOptions(clip_norm=2.0))


def test_a_clip_norm_of_one_step_is_checked_before_anything_changes():
    model = net()
    optimizer = clrfast.SGD(model.parameters(), lr=0.1, clip_norm=0.5)
    before = [param.detach().clone() for param in model.parameters()]
    LOSS(model(batches(1)[0][0]), batches(1)[0][1]).backward()
    with pytest.raises(ValueError, match="clip_norm: got 1 for the step"):
        optimizer.step(clip_norm=1.0)
    with pytest.raises(ValueError, match="clip_norm: got 0; give a finite number above 0"):
        optimizer.step(clip_norm=0)
    assert all(map(torch.equal, before, model.parameters()))


def test_joined_optimizers_are_clipped_by_the_norm_of_all():
    runs = []
    for kinds in ([clrfast.SGD] * 2, [torch.optim.SGD] * 2):
        model = net()
        optimizer = [kind(part.parameters(), lr=0.1) for kind, part in zip(kinds, (model[0], model[4]), strict=True)]
        curve = clrfast.range_test(
            model, LOSS, batches(4), optimizer=optimizer, clip_norm=0.05, steps=10, min_lr=0.1, max_lr=1.0
        )
        runs.append(torch.tensor(curve.loss))
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


def test_a_captured_step_with_another_clip_norm_is_captured_again(backend):
    def changed(make_step):
        losses, model, optimizer, step = run(make_step, batches(5), backend, clip_norm=0.05, optimizer="adamw")
        step.clip_norm = 0.5
        return losses + [step(batch) for batch in batches(5, seed=2)], model, optimizer, step

    captured, eager = changed(TrainStep), changed(EagerStep)
    assert all(map(torch.equal, captured[0], eager[0]))
    assert n_replays(captured[3]) in (None, [3, 3])


def test_the_norm_after_a_replay_is_that_of_its_step(backend):
    """Also after a step of another kind, which is eager and measures a norm of its own."""
    norms = []
    for make_step in (TrainStep, EagerStep):
        *_, optimizer, step = run(make_step, batches(5), backend, clip_norm=0.05, optimizer="adamw")
        norms.append([])
        for batch in (batches(1, size=7, seed=3)[0], batches(1, seed=4)[0]):
            step(batch)
            norms[-1].append(optimizer.grad_norm.clone())
    assert all(map(torch.equal, *norms))


@every_pair
def test_a_range_test_clips_and_gives_the_optimizer_back_without(pair):
    ours, theirs, options = pair
    curves = []
    for kind in (ours, theirs):
        model = net()
        optimizer = kind(model.parameters(), **options)
        curves.append(
            clrfast.range_test(
                model, LOSS, batches(6), optimizer=optimizer, clip_norm=0.05, steps=30, min_lr=1e-3, max_lr=0.1
            )
        )
        if kind is ours:
            assert optimizer.clip_norm is None
            assert optimizer.grad_norm is None
            assert optimizer.schedule is None
    torch.testing.assert_close(*(torch.tensor(curve.loss) for curve in curves), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_a_range_test_whose_norms_are_never_finite_ends_with_an_error_that_names_the_cause(own):
    model, calls = net(), []
    with pytest.raises(
        ValueError, match=r"clip_norm: it has skipped .* updates in a row; the gradients are not finite"
    ):
        clrfast.range_test(
            model,
            loader=batches(4),
            compute_loss=lambda m, batch: Overflowing.apply(LOSS(m(batch[0]), batch[1]), calls, True),
            optimizer=clrfast.SGD(model.parameters(), lr=0.1, clip_norm=1.0 if own else None),
            **({} if own else {"clip_norm": 1.0}),
        )
    assert len(calls) < 60


def test_an_update_whose_norm_is_not_finite_is_made_with_the_next_batch():
    model, calls = net(), []
    curve = clrfast.range_test(
        model,
        loader=batches(4),
        compute_loss=lambda m, batch: Overflowing.apply(LOSS(m(batch[0]), batch[1]), calls, (3, 7)),
        clip_norm=1.0,
        steps=10,
        min_lr=1e-3,
        max_lr=0.1,
    )
    assert len(curve.loss) == 10
    assert all(map(math.isfinite, curve.loss))
    assert len(calls) == 13  # ten updates, two without, and the last loss
