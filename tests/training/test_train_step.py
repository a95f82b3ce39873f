"""A TrainStep equals an EagerStep bit for bit, with graphs emulated on the CPU and, marked ``gpu``, on a device."""

from __future__ import annotations

import copy

import pytest
import torch

import clrfast
from clrfast.training import TrainStep
from clrfast.training._eager_step import EagerStep
from clrfast.training._graph_cache import WARM_UP_CALLS
from tests.helpers.train_steps import (
    LOSS,
    OPTIMIZERS,
    assert_same_losses,
    assert_same_run,
    batches,
    n_replays,
    net,
    run,
    sgd,
)

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


@every_optimizer
def test_a_captured_1cycle_equals_the_eager_one(backend, optimizer):
    """The learning rate, the momentum and the weight decay all change in the replays."""
    data = batches(12)
    eager, captured = (run(kind, data, backend, optimizer=optimizer) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert captured[3].eager_reason is None
    assert n_replays(captured[3]) in (None, [12 - WARM_UP_CALLS])
    shown = [
        {name: value for name, value in one[2].param_groups[0].items() if name != "params"} for one in (captured, eager)
    ]
    assert shown[0] == shown[1]


def test_random_numbers_continue_in_the_replays(backend):
    data = batches(8)
    eager, captured = (run(kind, data, backend, model=net(dropout=0.5)) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert torch.equal(torch.rand(3), _rand_after(data, backend))
    assert captured[3].eager_reason is None


def _rand_after(data, backend):
    run(EagerStep, data, backend, model=net(dropout=0.5))
    return torch.rand(3)


def test_no_later_step_overwrites_a_loss(backend):
    losses, *_ = run(TrainStep, batches(8), backend)
    assert len({float(loss) for loss in losses}) == 8
    assert len({loss.data_ptr() for loss in losses}) == 8


def test_a_replay_does_not_train_what_is_frozen_later(backend):
    def freeze(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        model[0].requires_grad_(False)
        return losses + [step(batch) for batch in batches(4, seed=2)], model, optimizer, step

    assert_same_run(freeze(TrainStep), freeze(EagerStep))


@every_optimizer
def test_accumulation_and_clipping_give_the_eager_gradients(backend, optimizer):
    data = [batches(2, seed=seed) for seed in range(6)]
    options = {"accumulate": 2, "clip_norm": 0.05}
    eager, captured = (run(kind, data, backend, optimizer=optimizer, **options) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert captured[2].control.grad_norms[:6].isfinite().all()
    assert torch.equal(captured[2].grad_norm, eager[2].grad_norm)
    for a, b in zip(captured[1].parameters(), eager[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    with pytest.raises(ValueError, match="batches: got 1, and accumulate is 2"):
        captured[3](data[0][0])


def test_gradients_are_those_of_the_last_step_for_every_graph(backend):
    captured = run(TrainStep, [batches(1, size)[0] for size in (8, 8, 8, 5, 5, 5)], backend)
    reference = run(EagerStep, [batches(1, size)[0] for size in (8, 8, 8, 5, 5, 5)], backend)
    for one in (captured, reference):
        one[2].zero_grad(set_to_none=True)  # a habit of many loops
        one[3](batches(1, 8, seed=9)[0])
    for a, b in zip(captured[1].parameters(), reference[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_gradients_are_those_of_the_last_step_when_the_first_parameter_is_frozen(backend):
    def frozen(make_step):
        model = net()
        model[0].requires_grad_(False)
        losses, model, optimizer, step = run(make_step, batches(4, 8), backend, model=model)
        optimizer.zero_grad(set_to_none=True)
        losses.append(step(batches(1, 8, seed=9)[0]))
        return losses, model, optimizer, step

    captured, eager = frozen(TrainStep), frozen(EagerStep)
    assert captured[3].eager_reason is None
    assert captured[1][0].weight.grad is None
    for a, b in zip(captured[1][4].parameters(), eager[1][4].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@every_optimizer
def test_skipped_updates_do_not_advance_the_schedule(backend, optimizer):
    """The loss of one batch overflows, and the replay skips its update as the eager step does."""
    data = batches(9)
    data[5] = (data[5][0] * 1e38, data[5][1])
    device = torch.get_default_device().type
    runs = [
        run(kind, data, backend, optimizer=optimizer, scaler=torch.amp.GradScaler(device))
        for kind in (EagerStep, TrainStep)
    ]
    for (_, a), b in zip(runs[1][1].state_dict().items(), runs[0][1].state_dict().values(), strict=True):
        assert torch.equal(a, b) or (a.isnan() | b.isnan()).any()  # statistics of batch normalisation
    assert [one[2].control.synchronize() for one in runs] == [8, 8]
    assert torch.equal(*(one[2].control.losses[:8].isfinite() for one in runs))
    assert torch.equal(*(one[1][0].weight for one in runs))
    assert runs[0][3].scaler.get_scale() == runs[1][3].scaler.get_scale() == 2.0**15
    assert runs[1][3].eager_reason is None


def test_a_captured_training_stops_at_the_step_of_the_eager_one(backend):
    def diverging(make_step):
        model = net()
        schedule = clrfast.lr_ramp(1e-2, 1e6, 30)
        optimizer = sgd(model, backend, schedule)
        optimizer.control.watch_divergence(smoothing=0.5)
        step = TrainStep(model, LOSS, optimizer)
        if make_step is EagerStep:
            step = EagerStep(model, step._compute_loss, optimizer)
        losses = [step(batch) for batch in batches(30)]
        assert optimizer.control.stop
        return losses, model, optimizer, step

    captured, eager = diverging(TrainStep), diverging(EagerStep)
    assert_same_losses(captured, eager)
    assert int(captured[2].control.step) == int(eager[2].control.step) < 29
    for a, b in zip(captured[1].parameters(), eager[1].parameters(), strict=True):
        assert torch.equal(a, b)


@every_optimizer
def test_a_range_test_is_the_same_with_and_without_a_graph(backend, optimizer):
    def curve(graph):
        model = net(dropout=0.2)
        before = copy.deepcopy(model.state_dict())
        torch.manual_seed(3)
        found = clrfast.range_test(
            model,
            LOSS,
            batches(6),
            optimizer=OPTIMIZERS[optimizer](model, backend, None),
            steps=30,
            min_lr=1e-3,
            graph=graph,
        )
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
        return found

    captured, eager = curve("auto"), curve(False)
    assert captured.loss.tolist() == eager.loss.tolist()
    assert captured.stop_reason == eager.stop_reason


def test_on_the_cpu_a_train_step_is_eager():
    model = net()
    step = TrainStep(model, LOSS, clrfast.SGD(model.parameters(), lr=0.1))
    assert "the model is on cpu, and only CUDA devices have graphs" in step.eager_reason
    step(batches(1)[0])
    assert "only CUDA devices have graphs" in step.eager_reason


def test_steps_of_other_optimizers_are_eager(backend):
    model = net()
    step = TrainStep(model, LOSS, torch.optim.AdamW(model.parameters()))
    before = model[0].weight.detach().clone()
    step(batches(1)[0])
    assert "the optimizer is torch.optim.adamw.AdamW, whose rates a graph would freeze" in step.eager_reason
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("make", [clrfast.SGD, torch.optim.AdamW])
def test_an_optimizer_of_another_model_is_refused(make):
    optimizer = make(net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer: it has no trainable parameter of the model"):
        TrainStep(net(), LOSS, optimizer)
    partly = net()
    optimizer.add_param_group({"params": partly[0].parameters()})
    TrainStep(partly, LOSS, optimizer)
