"""A capture that CUDA aborts leaves everything as it was."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import clrfast
from clrfast.schedules import Linear
from clrfast.training import CapturedStep, TrainStep
from clrfast.training._eager_step import EagerStep
from tests.helpers.captured import image_batch, static_training
from tests.helpers.optimizers import (
    assert_same,
)

pytestmark = pytest.mark.gpu

CYCLE = clrfast.one_cycle(0.2, 30, weight_decay=Linear(1e-2, 1e-4, 29))


class ReadsWhenCaptured(nn.Module):
    """Waits for the device in a capture, and only there: a warm-up would notice it."""

    def __init__(self, reads):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
        self.reads = reads

    def forward(self, x):
        if self.reads and torch.cuda.is_current_stream_capturing():
            x.sum().item()
        return self.layers(x)


def trained(make_step, reads):
    """The step, and all that came of six batches, random numbers after them included."""
    torch.manual_seed(0)
    net = ReadsWhenCaptured(reads)
    optimizer = clrfast.SGD(net.parameters(), schedule=CYCLE)
    if make_step is TrainStep:
        step = TrainStep(net, nn.functional.cross_entropy, optimizer)
    else:
        step = EagerStep(net, lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]), optimizer)
    losses = [step(image_batch(seed)) for seed in range(6)]
    return step, [*net.parameters(), *losses, optimizer.control.losses, torch.rand(3)]


def test_a_step_goes_on_eagerly_where_cuda_breaks_off_its_capture():
    """And others are captured after it."""
    current = torch.cuda.current_stream()
    broken, of_broken = trained(TrainStep, reads=True)
    assert "operation not permitted when stream is capturing" in broken.eager_reason
    assert torch.cuda.current_stream() == current
    good, of_good = trained(TrainStep, reads=False)
    assert good.eager_reason is None
    _, expected = trained(EagerStep, reads=False)
    assert_same(of_broken, expected)
    assert_same(of_good, expected)


@contextlib.contextmanager
def reading(net):
    """A block in which the model waits for the device in its forward pass."""

    def read(module, inputs):
        inputs[0].sum().item()

    handle = net.register_forward_pre_hook(read)
    try:
        yield
    finally:
        handle.remove()


def test_a_captured_step_that_cuda_breaks_off_leaves_everything_as_it_was():
    """The error is the one that broke it; eager steps, random numbers and another capture go on."""

    def run(broken):
        net, optimizer, step, warm_up, load = static_training(CYCLE)
        warm_up()
        torch.manual_seed(7)
        numbers = [torch.rand(3)]
        if broken:
            current = torch.cuda.current_stream()
            with reading(net), pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
                CapturedStep(step, optimizer)
            assert torch.cuda.current_stream() == current
            assert int(optimizer.control.step) == optimizer.control.host_step == 0
        numbers.append(torch.rand(3))
        losses = []
        for seed in range(6):
            load(seed)
            if broken and seed == 3:
                step = CapturedStep(step, optimizer).replay
            losses.append(step().detach().clone())
        assert optimizer.control.synchronize() == 6
        return [*net.state_dict().values(), *losses, *numbers]

    assert_same(run(True), run(False))


@pytest.mark.hardware
def test_memory_is_reused_after_a_capture_that_cuda_has_broken_off():
    """What a stream still used when it was freed waits for the end of every capture."""
    net, optimizer, step, warm_up, _ = static_training(CYCLE)
    warm_up()
    with reading(net), pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
        CapturedStep(step, optimizer)

    def active():
        return torch.cuda.memory_stats()["active_bytes.all.current"]

    torch.cuda.synchronize()
    before, other = active(), torch.cuda.Stream()
    used = torch.empty(1 << 24, dtype=torch.uint8)
    used.record_stream(other)
    assert active() > before
    del used
    torch.cuda.synchronize()
    torch.empty(1)  # the allocator looks at what has ended when it is asked for memory
    assert active() <= before
