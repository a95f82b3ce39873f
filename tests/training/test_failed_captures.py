"""Steps that cannot be captured run eagerly, and a failed capture leaves no trace."""

from __future__ import annotations

import warnings
import weakref

import pytest
import torch
from torch import nn

import clrfast
from clrfast.optim import _capture as capture
from clrfast.training import CapturedStep, StepOptions, TrainStep
from clrfast.training import _train_step as train_step_module
from clrfast.training._eager_step import EagerStep
from clrfast.training._graph_cache import WARM_UP_CALLS
from tests.cuda_on_cpu import emulated_graphs
from tests.helpers.train_steps import (
    LOSS,
    assert_same_run,
    batches,
    net,
    run,
    sgd,
)


class Reads(nn.Module):
    """Reads a number of the device in its forward pass."""

    def __init__(self):
        super().__init__()
        self.inner = net(dropout=0.5)

    def forward(self, x):
        return self.inner(x) if float(x.sum()) < 1e9 else x


def test_a_model_that_reads_the_device_runs_eagerly(backend):
    """The emulated capture fails; on a device, the warm-up already notices the wait."""
    captured, eager = (run(kind, batches(8), backend, model=Reads()) for kind in (TrainStep, EagerStep))
    assert_same_run(captured, eager)
    assert any(told in captured[3].eager_reason for told in ("waits for the device", "not permitted when stream"))
    assert captured[3]._graphs._kinds == []  # earlier graphs would keep their memory


@pytest.mark.parametrize("ended", [True, False], ids=["by Python", "by CUDA"])
def test_a_failed_capture_restores_the_state_of_torch(monkeypatch, ended):
    """A capture that CUDA breaks off leaves torch's stream, generator and allocator in capture mode. One that Python
    ended does not, and resetting the generator would detach it from earlier graphs."""
    emulated_graphs.install(monkeypatch)
    before = emulated_graphs.Stream.current

    def fails(model, batch):
        loss = LOSS(model(batch[0]), batch[1])
        if capture.is_capturing([loss.device]):
            raise KeyError("mine") if ended else RuntimeError(float(loss))
        return loss

    model = net()
    step = TrainStep(model, None, sgd(model, "torch"), compute_loss=fails)
    for batch in batches(WARM_UP_CALLS + 1):
        step(batch)
    told = "KeyError: 'mine'" if ended else "RuntimeError: operation not permitted when stream is capturing"
    assert step.eager_reason == f"the capture failed ({told})"
    assert emulated_graphs.Stream.current is before
    assert emulated_graphs.pools == []
    assert emulated_graphs.Generator.put_back == (0 if ended else 1)
    assert emulated_graphs.CUDAGraph.last.was_reset != ended


def test_a_failed_capture_leaves_the_norm_of_the_step_before(monkeypatch):
    emulated_graphs.install(monkeypatch)
    model = net()
    optimizer = clrfast.SGD(model.parameters(), lr=0.1, clip_norm=1.0, backend="torch")
    inputs, targets = batches(1)[0]

    def step():
        LOSS(model(inputs), targets).backward()
        optimizer.step()
        if capture.is_capturing([inputs.device]):
            raise KeyError("mine")

    step()
    before = optimizer.grad_norm
    with pytest.raises(KeyError, match="mine"):
        CapturedStep(step, optimizer)
    assert optimizer.grad_norm is before


@pytest.mark.parametrize("where", ["first", "later"])
def test_a_wait_in_the_warm_up_is_reported_with_file_and_line(monkeypatch, where):
    """torch can warn of waits. Those of the first step may come from libraries that load."""
    emulated_graphs.install(monkeypatch)
    calls = []

    def waits(model, batch):
        calls.append(torch.cuda.get_sync_debug_mode())
        if len(calls) == (1 if where == "first" else WARM_UP_CALLS):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        if calls[-1] == "warn":
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        return LOSS(model(batch[0]), batch[1])

    model = net()
    step = TrainStep(model, None, sgd(model, "torch"), compute_loss=waits)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in batches(WARM_UP_CALLS + 2):
            step(batch)
    assert calls[: WARM_UP_CALLS + 1] == ["default"] * (WARM_UP_CALLS - 1) + ["warn", "default"]
    assert torch.cuda.get_sync_debug_mode() == "default"
    assert len(caught) == (where == "first")  # the other warnings of waits are ours
    if where == "first":
        assert step.eager_reason is None
    else:
        assert "something in the step waits for the device, as .item() does" in step.eager_reason
        assert "test_failed_captures.py:" in step.eager_reason
        assert len(calls) == WARM_UP_CALLS + 2  # nothing was captured


def test_unusual_models_run_eagerly_with_a_reason(monkeypatch):
    emulated_graphs.install(monkeypatch)
    model = net()
    parallel = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(parallel)
    parallel.module = model
    step = TrainStep(parallel, LOSS, sgd(model, "torch"))
    assert "DistributedDataParallel" in step.eager_reason
    monkeypatch.setattr(train_step_module, "devices_of", lambda groups: ("cuda:0", "cuda:1"))
    assert "on several devices" in TrainStep(model, LOSS, sgd(model, "torch")).eager_reason


def test_the_memory_of_a_failed_capture_is_freed_before_the_eager_step(monkeypatch):
    """The device may have no room for both."""
    emulated_graphs.install(monkeypatch)
    activations = []

    class Activation:
        pass

    def fails(model, batch):
        assert all(activation() is None for activation in activations)
        if capture.is_capturing([batch[0].device]):
            activation = Activation()
            activations.append(weakref.ref(activation))
            raise RuntimeError("out of memory")
        return LOSS(model(batch[0]), batch[1])

    model = net()
    step = TrainStep(model, None, sgd(model, "torch"), compute_loss=fails)
    for batch in batches(WARM_UP_CALLS + 2):
        step(batch)
    assert len(activations) == 1


def test_a_failed_capture_changes_nothing(backend):
    """Random numbers, gradients, scaler and schedule continue as without the attempt."""

    def fails(model, batch):
        if capture.is_capturing([next(model.parameters()).device]):
            raise RuntimeError("no capture of me\nplease")
        return LOSS(model(batch[0]), batch[1])

    def scaled(make_step):
        model = net(dropout=0.5)
        optimizer = sgd(model, backend)
        scaler = torch.amp.GradScaler(torch.get_default_device().type)
        options = {"scaler": scaler, "clip_norm": 1.0}
        if make_step is TrainStep:
            step = TrainStep(model, None, optimizer, compute_loss=fails, **options)
        else:
            step = EagerStep(model, fails, optimizer, StepOptions(**options))
        torch.manual_seed(5)
        return [step(batch) for batch in batches(8)], model, optimizer, step

    captured = scaled(TrainStep)
    assert_same_run(captured, scaled(EagerStep))
    assert captured[3].eager_reason == "the capture failed (RuntimeError: no capture of me)"


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_update_that_cannot_be_captured_leaves_no_scale(monkeypatch, clip_norm):
    """GradScaler would multiply the next scale by one that it finds."""
    emulated_graphs.install(monkeypatch)

    def scaled(make_step):
        model = net()
        optimizer = sgd(model, "torch")
        step_now = optimizer.step

        def fails(*args, **kwargs):
            if capture.is_capturing(None):
                raise RuntimeError("no capture of me")
            return step_now(*args, **kwargs)

        optimizer.step = fails
        options = {"scaler": torch.amp.GradScaler("cpu"), "clip_norm": clip_norm}
        if make_step is TrainStep:
            step = TrainStep(model, LOSS, optimizer, **options)
        else:
            step = EagerStep(
                model, lambda model, batch: LOSS(model(batch[0]), batch[1]), optimizer, StepOptions(**options)
            )
        return [step(batch) for batch in batches(6)], model, optimizer, step

    captured = scaled(TrainStep)
    assert_same_run(captured, scaled(EagerStep))
    assert captured[3].eager_reason == "the capture failed (RuntimeError: no capture of me)"


def test_a_parameter_without_a_gradient_is_reported(backend):
    captured = run(TrainStep, batches(5), backend, model=_with_unused())
    assert "a trainable parameter got no gradient" in captured[3].eager_reason
    assert_same_run(captured, run(EagerStep, batches(5), backend, model=_with_unused()))


def _with_unused():
    model = net()
    model.register_module("unused", nn.Linear(2, 2))
    model.forward = lambda x: model[:5](x)
    return model


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda step: step.optimizer.register_step_post_hook(lambda *_: None), "step hooks"),
        (lambda step: step.reset(), "first with batches of this kind"),
    ],
)
def test_the_reason_for_eager_steps_follows_changes(backend, change, told):
    *_, step = run(TrainStep, batches(5), backend)
    assert step.eager_reason is None
    change(step)
    step(batches(1)[0])
    assert told in step.eager_reason


def test_warnings_of_the_model_reach_the_user(backend):
    def warns(model, batch):
        warnings.warn("mind the step", stacklevel=1)
        return LOSS(model(batch[0]), batch[1])

    model = net()
    step = TrainStep(model, None, sgd(model, backend), compute_loss=warns)
    for batch in batches(WARM_UP_CALLS):
        with pytest.warns(UserWarning, match="mind the step"):
            step(batch)
