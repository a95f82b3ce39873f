"""What only a CUDA device can show: against torch's own SGD there, streams, synchronisation, launches and graphs.

That the kernels' numbers are the reference's is tested in test_native.py and cuda_on_cpu/test_kernels.py, whose tests
run on a device too. `pytest -m gpu` runs all of them.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import clrfast
from clrfast.optim._backends import cuda
from clrfast.schedules import Linear
from clrfast.training import CapturedStep, TrainStep
from clrfast.training._eager_step import EagerStep
from tests.helpers.captured import conv_net, image_batch, static_training
from tests.helpers.optimizers import (
    DTYPES,
    OPTIONS,
    assert_near,
    assert_same,
    give_grads,
    make_params,
    option_id,
    randn,
    run_steps,
)

pytestmark = pytest.mark.gpu

SHAPES = [(3, 4), (5,), (), (0,), (4097,), (70_001,)]


@pytest.fixture(autouse=True)
def _deterministic():
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


# ------------------------------------------------------------ against torch and other backends


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpp_backends_numbers(options, dtype):
    def on(device, backend):
        torch.set_default_device(device)
        params, _ = run_steps(lambda p: clrfast.SGD(p, lr=0.01, backend=backend, **options), 4, SHAPES, dtype)
        return [param.detach().cpu() for param in params]

    assert_same(on("cuda:0", "cuda"), on("cpu", "cpp"))


@pytest.mark.parametrize("implementation", ["foreach", "fused"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.5}])
def test_torchs_numbers_over_100_steps_of_a_model(implementation, options):
    nets = conv_net(), conv_net()
    ours = clrfast.SGD(nets[0].parameters(), lr=0.05, weight_decay=1e-3, backend="cuda", **options)
    theirs = torch.optim.SGD(nets[1].parameters(), lr=0.05, weight_decay=1e-3, **{implementation: True}, **options)
    for step in range(100):
        inputs, targets = image_batch(step)
        ours.zero_grad()
        nn.functional.cross_entropy(nets[0](inputs), targets).backward()
        # The same gradients for both: what is compared is the update, not how far training carries a rounding.
        for own, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            other.grad = own.grad.clone()
        ours.step()
        theirs.step()
    assert_near(nets[0].parameters(), nets[1].parameters(), steps=100)


@pytest.mark.parametrize("overflow", [(0,), (3,), (0, 1, 5)])
@pytest.mark.parametrize("scheduled", [False, True])
def test_grad_scaler_with_overflows(overflow, scheduled):
    def run(make, advance=None):
        net = conv_net()
        optimizer = make(net.parameters())
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        for step in range(8):
            inputs, targets = image_batch(step)
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(inputs), nn.functional.one_hot(targets, 10).float())
            scaler.scale(loss).backward()
            if step in overflow:
                next(net.parameters()).grad[0] = math.inf
            scaler.step(optimizer)
            scaler.update()
        return list(net.parameters()), optimizer

    options = {"momentum": 0.9, "weight_decay": 1e-3}
    if not scheduled:
        theirs, _ = run(lambda p: torch.optim.SGD(p, lr=0.01, **options))
        assert_near(run(lambda p: clrfast.SGD(p, lr=0.01, **options))[0], theirs, steps=8)
        return
    schedule = clrfast.one_cycle(0.05, 10, weight_decay=1e-3)
    results = [run(lambda p, b=b: clrfast.SGD(p, schedule=schedule, backend=b)) for b in ("cuda", "torch")]
    for _, optimizer in results:
        assert optimizer.control.synchronize() == 8 - len(overflow)
    assert_same(results[0][0], results[1][0])


def test_master_weights_follow_a_float32_run():
    exact, rounded = (
        run_steps(
            lambda p: clrfast.SGD(p, lr=1e-3, momentum=0.9, master_weights=True), 50, [(4097,), (33,)], dtype=dtype
        )[1]
        for dtype in (torch.float32, torch.bfloat16)
    )
    for param, other in zip(exact.param_groups[0]["params"], rounded.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(rounded.state[other]["master_param"], param, rtol=0.01, atol=0.02)
        assert_same([other], [rounded.state[other]["master_param"].bfloat16()])


# ------------------------------------------------------------ the host never waits, and launches little


def test_a_step_on_another_stream():
    params, expected = make_params(SHAPES), make_params(SHAPES)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 5))
        for step in range(4):
            give_grads(params, step)
            torch.cuda._sleep(1_000_000)
            for param in params:
                param.grad.mul_(2)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    reference = clrfast.SGD(expected, schedule=clrfast.one_cycle(0.1, 5), backend="torch")
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
def test_a_scheduled_step_never_waits(no_waiting, backend, scaled):
    params = make_params(SHAPES)
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 50), backend=backend)
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
        optimizer.control.recorded()
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


def test_recorded_losses_are_seen_without_waiting(no_waiting):
    params = make_params([(3,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 50))
    optimizer.control.watch_divergence()
    give_grads(params, 0)
    losses = [torch.tensor(2.0), torch.tensor(math.nan), torch.tensor(1.0)]
    no_waiting()
    for loss in losses:
        optimizer.step(loss=loss)
    assert not len(optimizer.control.recorded())  # asks
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    np.testing.assert_array_equal(optimizer.control.recorded(), [2.0, math.nan])


def launched(optimizer):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        optimizer.step()
        torch.cuda.synchronize()
    return [event.name for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]


@pytest.mark.hardware
@pytest.mark.parametrize(("n_tensors", "updates"), [(1, 1), (1000, 1), (3000, 3)])
@pytest.mark.parametrize("merged", [True, False])
def test_kernel_launches_of_a_step(monkeypatch, merged, n_tensors, updates):
    monkeypatch.setattr(cuda, "MERGED_CHUNKS", n_tensors if merged else 0)
    params = make_params([(7,)] * n_tensors)
    give_grads(params, 0)
    plain = clrfast.SGD(params, lr=0.1, momentum=0.9)
    scheduled = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 50))
    for optimizer, wanted in ((plain, [0, updates]), (scheduled, [0 if merged else 1, updates])):
        optimizer.step()
        names = launched(optimizer)
        assert [sum(kind in name for name in names) for kind in ("advance_kernel", "update_kernel")] == wanted
        assert len(names) == sum(wanted)


# ------------------------------------------------------------ graphs


CYCLE = clrfast.one_cycle(0.2, 30, weight_decay=Linear(1e-2, 1e-4, 29))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.3}, {"master_weights": True}])
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
        return [*net.state_dict().values(), *losses, optimizer.control.losses], shown

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


@pytest.mark.hardware
def test_without_a_schedule_a_rate_that_is_a_tensor_lives_on():
    lr = torch.tensor(0.1)
    params = make_params([(5,), (4097,)])
    optimizer = clrfast.SGD(params, lr=lr, momentum=0.9)
    give_grads(params, 0)
    expected = make_params([(5,), (4097,)])
    reference = clrfast.SGD(expected, lr=0.1, momentum=0.9, backend="torch")
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


def test_two_graphs_over_one_optimizer():
    """Of two batch sizes, say; both move the one schedule on."""
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
    del optimizer, step, warm_up  # all that refers to it
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
def test_a_plain_graph_keeps_what_it_points_at():
    """Nothing of ours stands between the user and torch's own graph: its memory must outlive the optimizer."""
    params = make_params([(1000,)])
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 50))
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
    for _ in range(100):  # the driver tells of the end on a thread of its own
        if row.expired():
            return
        time.sleep(0.05)
    pytest.fail("the memory of a dead graph is still held")


@pytest.mark.hardware
def test_a_step_in_a_capture_without_preparation_is_refused():
    params = make_params([(3,)])
    give_grads(params, 0)
    before = [param.detach().clone() for param in params]
    graph = torch.cuda.CUDAGraph()
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9)
    with torch.cuda.graph(graph):
        params[0].detach() + 1  # torch warns of an empty graph
        with pytest.raises(RuntimeError, match=r"init_state\(\) before"):
            optimizer.step()
    assert_same(params, before)


# ------------------------------------------------------------ captures that CUDA breaks off


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
    assert "operation not permitted when stream is capturing" in broken.why_eager
    assert torch.cuda.current_stream() == current
    good, of_good = trained(TrainStep, reads=False)
    assert good.why_eager is None
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


# ------------------------------------------------------------ several devices


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_parameters_on_two_devices():
    schedule = clrfast.one_cycle(0.1, 10)

    def run(devices):
        params = [nn.Parameter(value.to(device)) for value, device in zip(randn([(5,)] * 4, 0), devices, strict=True)]
        optimizer = clrfast.SGD(params, schedule=schedule)
        for step in range(6):
            for param, value in zip(params, randn([(5,)] * 4, step), strict=True):
                param.grad = value.to(param.device)
            optimizer.found_inf = torch.tensor(1.0 if step == 2 else 0.0)
            optimizer.step(loss=torch.tensor(1.0))
        assert {int(control.step) for control in optimizer.controls.values()} == {5}
        return [param.detach().cpu() for param in params]

    assert_same(run(["cuda:0", "cuda:1"] * 2), run(["cuda:0"] * 4))


# ------------------------------------------------------------ the subset that compute-sanitizer watches, see gpu.sh


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sanitized_updates(dtype):
    results = []
    for backend in ("cuda", "torch"):
        params = make_params(SHAPES, dtype)
        offset = [nn.Parameter(value[1:]) for value in make_params([(4098,), (18,)], dtype, seed=1)]
        optimizer = clrfast.SGD([*params, *(p.detach().requires_grad_() for p in offset)], backend=backend)
        optimizer.set_schedule(clrfast.one_cycle(0.1, 5, weight_decay=0.01))
        all_params = optimizer.param_groups[0]["params"]
        for step, found_inf in enumerate((1.0, 0.0, 0.0)):
            give_grads(all_params, step)
            optimizer.found_inf = torch.tensor(found_inf)
            optimizer.step(loss=torch.tensor(1.0))
        results.append(all_params)
    assert_same(*results)


@pytest.mark.parametrize(
    ("momentum", "dampening", "mastered"), list(itertools.product((0.0, 0.9), (0.0, 0.5), (False, True)))
)
def test_sanitized_full_entries(momentum, dampening, mastered):
    results = []
    for backend in ("cuda", "torch"):
        params = make_params(SHAPES, torch.bfloat16)
        options = {"momentum": momentum, "dampening": dampening, "master_weights": mastered}
        optimizer = clrfast.SGD(params, lr=0.1, weight_decay=0.01, backend=backend, **options)
        for step in range(3):
            give_grads(params, step)
            optimizer.step()
        results.append(params)
    assert_same(*results)
