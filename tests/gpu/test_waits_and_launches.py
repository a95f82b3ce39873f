"""On a CUDA device the host never waits for a step, and a step takes few launches."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast.optim._backends import cuda
from tests.helpers.captured import conv_net, image_batch
from tests.helpers.kernels import OPTIMIZERS, every_optimizer
from tests.helpers.optimizers import (
    SHAPES,
    assert_same,
    give_grads,
    make_params,
)

pytestmark = pytest.mark.gpu


@every_optimizer
def test_a_step_runs_on_the_current_stream(rule):
    params, expected = make_params(SHAPES), make_params(SHAPES)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer = OPTIMIZERS[rule](params, schedule=clrfast.one_cycle(0.1, 5), clip_norm=1.0)
        for step in range(4):
            give_grads(params, step)
            torch.cuda._sleep(1_000_000)
            for param in params:
                param.grad.mul_(2)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    reference = OPTIMIZERS[rule](expected, schedule=clrfast.one_cycle(0.1, 5), clip_norm=1.0, backend="torch")
    for step in range(4):
        give_grads(expected, step)
        for param in expected:
            param.grad.mul_(2)
        reference.step()
    assert_same(params, expected)


@pytest.fixture
def no_waiting():
    """Switches torch's own watch on: waiting for the device is an error from then on."""
    torch.cuda.synchronize()
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("backend", ["cuda", "torch"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@every_optimizer
def test_a_scheduled_step_never_waits(no_waiting, backend, scaled, clip_norm, rule):
    params = make_params(SHAPES)
    optimizer = OPTIMIZERS[rule](params, schedule=clrfast.one_cycle(0.1, 50), clip_norm=clip_norm, backend=backend)
    optimizer.control.watch_divergence()
    losses = [torch.tensor(1.0 / (step + 1)) for step in range(20)]
    scale, found_inf = torch.tensor(2.0), torch.tensor(0.0)
    give_grads(params, 0)
    optimizer.step(loss=losses[0])
    no_waiting()
    for loss in losses[1:]:
        if scaled:
            optimizer.grad_scale, optimizer.found_inf = scale, found_inf
        optimizer.step(loss=loss)
        optimizer.control.recorded_losses()
    torch.cuda.set_sync_debug_mode("default")
    assert int(optimizer.control.step) == 20


def test_a_range_test_waits_no_more_often_the_longer_it_is():
    def waits(steps):
        net, data = conv_net(), [image_batch(seed) for seed in range(4)]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                clrfast.range_test(net, nn.functional.cross_entropy, data, max_lr=0.01, steps=steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    assert waits(40) == waits(160)


def test_recorded_losses_are_read_without_waiting(no_waiting):
    params = make_params([(3,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 50))
    optimizer.control.watch_divergence()
    give_grads(params, 0)
    losses = [torch.tensor(2.0), torch.tensor(math.nan), torch.tensor(1.0)]
    no_waiting()
    for loss in losses:
        optimizer.step(loss=loss)
    assert not len(optimizer.control.recorded_losses())  # asks
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    np.testing.assert_array_equal(optimizer.control.recorded_losses(), [2.0, math.nan])


def launched(optimizer):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        optimizer.step()
        torch.cuda.synchronize()
    return [event.name for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]


KINDS = ("advance_kernel", "update_kernel", "sum_kernel", "clip_kernel")


@pytest.mark.hardware
@pytest.mark.parametrize(
    ("rule", "n_tensors", "updates"),
    [("SGD", 1, 1), ("SGD", 1000, 1), ("SGD", 3000, 3), ("AdamW", 1, 1), ("AdamW", 500, 1), ("AdamW", 1500, 3)],
)
@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_step_takes_as_many_launches_as_its_tensors_need(monkeypatch, merged, clip_norm, rule, n_tensors, updates):
    monkeypatch.setattr(cuda, "MAX_MERGED_CHUNKS", n_tensors if merged else 0)
    params = make_params([(7,)] * n_tensors)
    give_grads(params, 0)
    plain = OPTIMIZERS[rule](params, lr=0.1, clip_norm=clip_norm)
    scheduled = OPTIMIZERS[rule](params, schedule=clrfast.one_cycle(0.1, 50), clip_norm=clip_norm)
    clips = [0, 0] if clip_norm is None else [-(-n_tensors // 1013), 1]
    counts = int(rule != "SGD")  # without a schedule, a launch of its own counts the step
    for optimizer, wanted in (
        (plain, [counts, updates, *clips]),
        (scheduled, [0 if merged else 1, updates, *clips]),
    ):
        optimizer.step()
        names = launched(optimizer)
        assert [sum(kind in name for name in names) for kind in KINDS] == wanted
        assert len(names) == sum(wanted)
