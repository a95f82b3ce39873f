"""Steps captured in a CUDA graph are the eager ones, and a graph neither outlives nor loses what it points at."""

from __future__ import annotations

import gc
import math
import time

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import clrfast
from clrfast.schedules import Linear
from clrfast.training import CapturedStep
from tests.helpers.captured import conv_net, image_batch, static_training
from tests.helpers.kernels import OPTIMIZERS, every_optimizer, kept_by
from tests.helpers.optimizers import (
    assert_same,
    give_grads,
    make_params,
)

pytestmark = pytest.mark.gpu

CYCLE = clrfast.one_cycle(0.2, 30, weight_decay=Linear(1e-2, 1e-4, 29))


def records(optimizer):
    return [optimizer.control.losses, optimizer.control.grad_norms]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True},
        {"dampening": 0.3},
        {"master_weights": True},
        {"clip_norm": 0.1},
        {"make": clrfast.AdamW},
        {"make": clrfast.AdamW, "amsgrad": True},
        {"make": clrfast.AdamW, "master_weights": True, "clip_norm": 0.1},
        {"make": clrfast.Adam},
    ],
    ids=lambda options: ",".join(f"{name}={getattr(value, '__name__', value)}" for name, value in options.items()),
)
def test_a_captured_1cycle_is_the_eager_one(dtype, options):
    """lr, momentum and weight decay all change in the replay, and the numbers are the eager run's, bit for bit."""
    lr, momentum, weight_decay = CYCLE.table()[:, 0].T
    assert min(len(set(values.tolist())) for values in (lr, momentum, weight_decay)) > 5

    def run(captured):
        net, optimizer, step, warm_up, load = static_training(CYCLE, dtype=dtype, **options)
        warm_up()
        losses, shown = [], []
        if captured:
            graph = CapturedStep(step, optimizer)
            assert int(optimizer.control.step) == optimizer.control.host_step == 0
            step = graph.replay
        for seed in range(30):
            load(seed)
            losses.append(step().detach().clone())
            shown.append(optimizer.param_groups[0]["lr"])
        assert optimizer.control.synchronize() == 30
        return [*net.state_dict().values(), *losses, *kept_by(optimizer), *records(optimizer)], shown

    (captured, shown), (eager, expected) = run(True), run(False)
    assert_same(captured, eager)
    assert shown == expected


def test_a_captured_run_stops_where_the_eager_one_does():
    def run(captured):
        net, optimizer, step, warm_up, load = static_training(clrfast.schedules.lr_ramp(1e-3, 1e4, 40))
        optimizer.control.watch_divergence(smoothing=0.5)
        warm_up()
        step = CapturedStep(step, optimizer).replay if captured else step
        for seed in range(40):
            load(seed)
            step()
        assert optimizer.control.stop
        return [*net.parameters(), optimizer.control.losses, optimizer.control.step.float()]

    assert_same(run(True), run(False))


def test_a_range_test_counts_replayed_steps():
    data = [image_batch(seed) for seed in range(8)]
    curve = clrfast.range_test(conv_net(width=8), nn.functional.cross_entropy, data, steps=12, max_lr=0.1)
    assert (curve.update_steps, curve.extra_forward_passes) == (12, 1)


@pytest.mark.hardware
@every_optimizer
def test_without_a_schedule_a_replay_reads_a_rate_that_is_a_tensor(rule):
    lr = torch.tensor(0.1)
    params = make_params([(5,), (4097,)])
    optimizer = OPTIMIZERS[rule](params, lr=lr)
    give_grads(params, 0)
    expected = make_params([(5,), (4097,)])
    reference = OPTIMIZERS[rule](expected, lr=0.1, backend="torch")
    give_grads(expected, 0)
    optimizer.init_state()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for rate in (0.1, 0.05, 0.2):
        lr.fill_(rate)
        graph.replay()
        reference.param_groups[0]["lr"] = torch.tensor(rate)
        reference.step()
    assert_same(params, expected)


@pytest.mark.hardware
@every_optimizer
def test_a_replay_clips_counts_and_skips(rule):
    """A plain graph of the update alone, with gradients and ``found_inf`` in the memory that it reads."""
    params, expected = make_params([(5,), (4097,)]), make_params([(5,), (4097,)])
    schedule = clrfast.one_cycle(0.1, 10)
    optimizer, reference = (
        OPTIMIZERS[rule](those, schedule=schedule, clip_norm=1.0, backend=backend)
        for those, backend in ((params, "cuda"), (expected, "torch"))
    )
    give_grads(params, 0)
    optimizer.init_state()
    optimizer.found_inf = torch.tensor(0.0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in range(5):
        give_grads(expected, step)
        for param, other in zip(params, expected, strict=True):
            param.grad.copy_(other.grad)
        reference.found_inf = torch.tensor(float(step == 1))
        optimizer.found_inf.copy_(reference.found_inf)
        if step == 3:
            params[1].grad[4000] = expected[1].grad[4000] = math.inf
        graph.replay()
        reference.step()
        torch.testing.assert_close(optimizer.grad_norm, reference.grad_norm, rtol=1e-12, atol=0.0)
    assert int(optimizer.control.step) == 3
    assert_same([*params, *kept_by(optimizer)], [*expected, *kept_by(reference)])
    assert_same(records(optimizer), records(reference))


def test_two_graphs_move_one_schedule():
    """Two graphs, for example for two batch sizes, advance the same schedule."""
    net, optimizer, step, warm_up, _ = static_training(CYCLE)
    small, targets = (tensor[:4] for tensor in image_batch(5))

    def small_step():
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(small), targets)
        loss.backward()
        optimizer.step(loss=loss)

    warm_up()
    nn.functional.cross_entropy(net(small), targets)
    captured = [CapturedStep(function, optimizer).replay for function in (step, small_step)]
    eager_net, eager_optimizer, eager_step, eager_warm_up, _ = static_training(CYCLE)
    eager_warm_up()
    nn.functional.cross_entropy(eager_net(small), targets)

    def eager_small_step():
        eager_optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(eager_net(small), targets)
        loss.backward()
        eager_optimizer.step(loss=loss)

    for index in (0, 1, 1, 0, 1, 0):
        captured[index]()
        (eager_step, eager_small_step)[index]()
    assert int(optimizer.control.step) == 6
    assert_same(net.state_dict().values(), eager_net.state_dict().values())


def test_replay_without_its_optimizer_is_an_error():
    net, optimizer, step, warm_up, _ = static_training(CYCLE)
    warm_up()
    captured = CapturedStep(step, optimizer)
    captured.replay()
    before = [param.clone() for param in net.parameters()]
    del optimizer, step, warm_up  # all references to it
    gc.collect()
    with pytest.raises(RuntimeError, match="the optimizer of this captured step is gone"):
        captured.replay()
    assert_same(net.parameters(), before)


def test_replay_of_a_stale_step_is_an_error():
    _, optimizer, step, warm_up, _ = static_training(CYCLE)
    warm_up()
    for change in (lambda: optimizer.load_state_dict(optimizer.state_dict()), lambda: optimizer.set_schedule(CYCLE)):
        captured = CapturedStep(step, optimizer)
        captured.replay()
        change()
        with pytest.raises(RuntimeError, match="capture it again"):
            captured.replay()
        CapturedStep(step, optimizer).replay()


@pytest.mark.hardware
@every_optimizer
def test_a_plain_graph_keeps_what_it_points_at(rule):
    """With torch's own graph, the memory it points at must outlive the optimizer."""
    params = make_params([(1000,)])
    give_grads(params, 0)
    optimizer = OPTIMIZERS[rule](params, schedule=clrfast.one_cycle(0.1, 50), clip_norm=1.0)
    optimizer.init_state()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    step, row = optimizer.control.step, StorageWeakRef(optimizer.control.row.untyped_storage())
    del optimizer
    gc.collect()
    noise = [torch.full((1000,), math.nan) for _ in range(50)]
    graph.replay()
    assert int(step) == 1
    assert params[0].isfinite().all()
    assert all(tensor.isnan().all() for tensor in noise)

    assert not row.expired()
    graph.reset()
    for _ in range(100):  # the driver reports the end on a thread of its own
        if row.expired():
            return
        time.sleep(0.05)
    pytest.fail("the memory of a dead graph is still held")


@pytest.mark.hardware
@every_optimizer
def test_a_step_in_a_capture_without_preparation_is_refused(rule):
    params = make_params([(3,)])
    give_grads(params, 0)
    before = [param.detach().clone() for param in params]
    graph = torch.cuda.CUDAGraph()
    optimizer = OPTIMIZERS[rule](params, lr=0.1)
    with torch.cuda.graph(graph):
        params[0].detach() + 1  # torch warns of an empty graph
        with pytest.raises(RuntimeError, match=r"init_state\(\) before"):
            optimizer.step()
    assert_same(params, before)
