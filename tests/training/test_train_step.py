"""TrainStep, with graphs emulated on the CPU and, marked ``gpu``, with real ones: the same tests."""

from __future__ import annotations

import contextlib
import copy
import gc
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import clrfast
from clrfast.optim import _capture as capture
from clrfast.schedules import Linear
from clrfast.training import StepOptions, TrainStep
from clrfast.training import _fingerprint as fingerprint_module
from clrfast.training import _guarded_replay as guarded_replay_module
from clrfast.training import _train_step as train_step_module
from clrfast.training._eager_step import EagerStep
from clrfast.training._graph_cache import MAX_GRAPHS, WARM_UP_CALLS
from tests.cuda_on_cpu import emulated_graphs
from tests.helpers.optimizers import COMPARES_QUICKLY, past_the_end

DEVICES = ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)]
CYCLE = clrfast.one_cycle(0.2, 12, weight_decay=Linear(1e-2, 1e-4, 11))
LOSS = nn.CrossEntropyLoss()


@pytest.fixture(params=DEVICES)
def backend(request, monkeypatch):
    """Of the optimizer; the default device of the test is the one that has graphs."""
    if request.param == "cuda":
        return "cuda"
    emulated_graphs.install(monkeypatch)
    return "torch"


def net(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3)
    return nn.Sequential(*layers).train()


def batches(n, size=16, seed=1):
    """On the CPU, as a loader gives them."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "device": "cpu"}
    return [(torch.randn(size, 6, **options), torch.randint(3, (size,), **options)) for _ in range(n)]


def sgd(model, backend, schedule=CYCLE, **options):
    return clrfast.SGD(model.parameters(), lr=0.1, momentum=0.9, schedule=schedule, backend=backend, **options)


def run(make_step, data, backend, *, model=None, schedule=CYCLE, **options):
    """Losses, model, optimizer and step after training on ``data``."""
    model = net() if model is None else model
    optimizer = sgd(model, backend, schedule)
    if make_step is EagerStep:
        step = EagerStep(model, lambda model, batch: LOSS(model(batch[0]), batch[1]), optimizer, StepOptions(**options))
    else:
        step = TrainStep(model, LOSS, optimizer, **options)
    torch.manual_seed(5)
    losses = [step(*(batch if isinstance(batch, list) else [batch])) for batch in data]
    return losses, model, optimizer, step


def assert_same_run(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        assert torch.equal(a, b)
    for (name, a), b in zip(one[1].state_dict().items(), other[1].state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    if one[2].control is not None:
        assert_same_losses(one, other)
        assert one[2].control.synchronize() == other[2].control.synchronize()


def assert_same_losses(one, other):
    """NaN where none was recorded."""
    torch.testing.assert_close(one[2].control.losses, other[2].control.losses, rtol=0, atol=0, equal_nan=True)


def n_replays(step):
    """Only with emulated graphs."""
    graphs = [kind.graph._captured._graph._graph for kind in step._graphs._kinds if kind.graph is not None]
    return [graph.replays for graph in graphs] if all(hasattr(graph, "replays") for graph in graphs) else None


def test_a_captured_1cycle_is_the_eager_one(backend):
    """lr, momentum and weight decay all change in the replays."""
    data = batches(12)
    eager, captured = (run(kind, data, backend) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert captured[3].eager_reason is None
    assert n_replays(captured[3]) in (None, [12 - WARM_UP_CALLS])
    assert captured[2].param_groups[0]["lr"] == eager[2].param_groups[0]["lr"]


def test_random_numbers_go_on_in_the_replays(backend):
    data = batches(8)
    eager, captured = (run(kind, data, backend, model=net(dropout=0.5)) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert torch.equal(torch.rand(3), _rand_after(data, backend))
    assert captured[3].eager_reason is None


def _rand_after(data, backend):
    run(EagerStep, data, backend, model=net(dropout=0.5))
    return torch.rand(3)


def test_losses_are_tensors_of_their_own(backend):
    losses, *_ = run(TrainStep, batches(8), backend)
    assert len({float(loss) for loss in losses}) == 8
    assert len({loss.data_ptr() for loss in losses}) == 8


def test_each_kind_of_batch_has_its_graph(backend):
    sizes = [16, 16, 7, 16, 7, 7, 16, 7, 16, 16, 7]
    data = [batches(1, size, seed)[0] for seed, size in enumerate(sizes)]
    eager, captured = (run(kind, data, backend) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert n_replays(captured[3]) in (None, [6 - WARM_UP_CALLS, 5 - WARM_UP_CALLS])


def test_kinds_beyond_the_bound_run_eagerly(backend):
    data = [batches(1, size)[0] for size in range(3, 3 + MAX_GRAPHS + 1)]
    eager, captured = (run(kind, data, backend) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert f"batches of {MAX_GRAPHS} other kinds came first" in captured[3].eager_reason


def test_train_and_eval_mode_have_graphs_of_their_own(backend):
    def modes(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        model[1].eval()  # batch normalisation with the statistics as they are
        losses += [step(batch) for batch in batches(4, seed=2)]
        model.train()
        return losses + [step(batch) for batch in batches(2, seed=3)], model, optimizer, step

    captured = modes(TrainStep)
    assert_same_run(captured, modes(EagerStep))
    assert n_replays(captured[3]) in (None, [4, 2])


def test_an_autocast_block_around_the_step_is_another_kind(backend):
    def casting(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
            losses += [step(batch) for batch in batches(4, seed=2)]
        return losses, model, optimizer, step

    captured = casting(TrainStep)
    assert_same_run(captured, casting(EagerStep))
    assert n_replays(captured[3]) in (None, [2, 2])


def test_what_is_frozen_later_is_not_trained_by_a_replay(backend):
    def freeze(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        model[0].requires_grad_(False)
        return losses + [step(batch) for batch in batches(4, seed=2)], model, optimizer, step

    assert_same_run(freeze(TrainStep), freeze(EagerStep))


def test_accumulation_clipping_and_gradients(backend):
    data = [batches(2, seed=seed) for seed in range(6)]
    options = {"accumulate": 2, "clip_norm": 0.05}
    eager, captured = (run(kind, data, backend, **options) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    for a, b in zip(captured[1].parameters(), eager[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    with pytest.raises(ValueError, match="batches: got 1, and accumulate is 2"):
        captured[3](data[0][0])


def test_gradients_are_those_of_the_last_step_whichever_graph_it_was(backend):
    captured = run(TrainStep, [batches(1, size)[0] for size in (8, 8, 8, 5, 5, 5)], backend)
    reference = run(EagerStep, [batches(1, size)[0] for size in (8, 8, 8, 5, 5, 5)], backend)
    for one in (captured, reference):
        one[2].zero_grad(set_to_none=True)  # a habit of many loops
        one[3](batches(1, 8, seed=9)[0])
    for a, b in zip(captured[1].parameters(), reference[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_gradients_are_those_of_the_last_step_where_the_first_parameter_is_frozen(backend):
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


def test_updates_that_a_scaler_skips_do_not_move_the_schedule(backend):
    """A loss that overflows for one batch: the replay skips its update as the eager step does."""
    data = batches(9)
    data[5] = (data[5][0] * 1e38, data[5][1])
    device = torch.get_default_device().type
    runs = [run(kind, data, backend, scaler=torch.amp.GradScaler(device)) for kind in (EagerStep, TrainStep)]
    for (_, a), b in zip(runs[1][1].state_dict().items(), runs[0][1].state_dict().values(), strict=True):
        assert torch.equal(a, b) or (a.isnan() | b.isnan()).any()  # statistics of batch normalisation
    assert [one[2].control.synchronize() for one in runs] == [8, 8]
    assert torch.equal(*(one[2].control.losses[:8].isfinite() for one in runs))
    assert torch.equal(*(one[1][0].weight for one in runs))
    assert runs[0][3].scaler.get_scale() == runs[1][3].scaler.get_scale() == 2.0**15
    assert runs[1][3].eager_reason is None


def test_a_captured_run_stops_where_the_eager_one_does(backend):
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


def test_a_range_test_is_the_same_with_and_without_a_graph(backend):
    def curve(graph):
        model = net(dropout=0.2)
        before = copy.deepcopy(model.state_dict())
        torch.manual_seed(3)
        found = clrfast.range_test(
            model, LOSS, batches(6), optimizer=sgd(model, backend, None), steps=30, min_lr=1e-3, graph=graph
        )
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
        return found

    captured, eager = curve("auto"), curve(False)
    assert captured.loss.tolist() == eager.loss.tolist()
    assert captured.stop_reason == eager.stop_reason


# ------------------------------------------------------------ what cannot be captured


class Reads(nn.Module):
    """Waits for the device in its forward pass."""

    def __init__(self):
        super().__init__()
        self.inner = net(dropout=0.5)

    def forward(self, x):
        return self.inner(x) if float(x.sum()) < 1e9 else x


def test_a_model_that_reads_the_device_runs_eagerly(backend):
    """On the CPU the capture notices it, on a device already the warm-up."""
    captured, eager = (run(kind, batches(8), backend, model=Reads()) for kind in (TrainStep, EagerStep))
    assert_same_run(captured, eager)
    assert any(told in captured[3].eager_reason for told in ("waits for the device", "not permitted when stream"))
    assert captured[3]._graphs._kinds == []  # what was captured before would hold its memory


@pytest.mark.parametrize("ended", [True, False], ids=["by Python", "by CUDA"])
def test_after_a_failed_capture_torch_is_as_before(monkeypatch, ended):
    """Where CUDA broke it, torch leaves stream, generator and allocator amid the capture. Where it was ended, another
    state would part the generator from the graphs that were captured before."""
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


@pytest.mark.parametrize("where", ["first", "later"])
def test_a_wait_in_the_warm_up_is_told_by_its_place(monkeypatch, where):
    """torch warns of waits if it is asked to. In the first step libraries may wait for themselves."""
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
    assert len(caught) == (where == "first")  # the others were asked for here
    if where == "first":
        assert step.eager_reason is None
    else:
        assert "something in the step waits for the device, as .item() does" in step.eager_reason
        assert "test_train_step.py:" in step.eager_reason
        assert len(calls) == WARM_UP_CALLS + 2  # nothing was captured


def test_graphs_share_their_memory_and_a_bound(monkeypatch):
    emulated_graphs.install(monkeypatch)
    used = []
    captured_step = train_step_module.CapturedStep
    monkeypatch.setattr(
        train_step_module,
        "CapturedStep",
        lambda *args, **options: used.append((options["pool"], options["stream"])) or captured_step(*args, **options),
    )
    model = net()
    step = TrainStep(model, LOSS, sgd(model, "torch"), max_graphs=2)
    for size in (8, 5, 3) * (WARM_UP_CALLS + 1):
        step(batches(1, size)[0])
    assert len(used) == 2
    assert used[0] == used[1]
    assert None not in used[0]
    assert "batches of 2 other kinds came first" in step.eager_reason


@pytest.mark.parametrize("max_graphs", [0, -1, 1.5])
def test_a_bound_that_is_none_is_named(max_graphs):
    model = net()
    with pytest.raises(ValueError, match=f"max_graphs: got {max_graphs}; give a whole number"):
        TrainStep(model, LOSS, sgd(model, "torch"), max_graphs=max_graphs)


def test_what_is_seldom_in_a_model_is_known(monkeypatch):
    emulated_graphs.install(monkeypatch)
    model = net()
    parallel = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(parallel)
    parallel.module = model
    step = TrainStep(parallel, LOSS, sgd(model, "torch"))
    assert "DistributedDataParallel" in step.eager_reason
    monkeypatch.setattr(train_step_module, "devices_of", lambda groups: ("cuda:0", "cuda:1"))
    assert "on several devices" in TrainStep(model, LOSS, sgd(model, "torch")).eager_reason


class Weighted(nn.Module):
    """A loss with a buffer, and another one in eval mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(3))

    def forward(self, outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets, weight=self.weight)
        return loss if self.training else 2 * loss


def test_a_loss_that_is_a_module_is_part_of_the_kind_and_watched(backend):
    model, loss_fn = net(), Weighted()
    step = TrainStep(model, loss_fn, sgd(model, backend))
    batch = batches(1)[0]
    for _ in range(4):
        step(batch)
    assert step.eager_reason is None
    loss_fn.eval()
    step(batch)
    assert "first with batches of this kind" in step.eager_reason
    loss_fn.train()
    loss_fn.weight = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(RuntimeError, match="a parameter or buffer was moved, or replaced"):
        step(batch)


@past_the_end
def test_dtype_layout_and_type_of_a_value_make_a_kind(backend):
    """Copied into memory of another kind, a batch would be another one."""

    def total(model, batch):
        return model(batch["x"].float()).square().mean() * (2.0 if batch["scale"] is True else 1.0)

    model = net()
    step = TrainStep(model, None, sgd(model, backend), compute_loss=total, max_graphs=8)
    x = torch.randn(8, 6, device="cpu")
    for value in ({"x": x}, {"x": x.double()}, {"x": x.t().contiguous().t()}, {"x": x, "scale": 1}):
        for _ in range(3):
            step({"scale": True, **value})
        assert step.eager_reason is None
    assert len(step._graphs._kinds) == 4
    step({"x": x.clone().requires_grad_(), "scale": True})  # its gradient is wanted, and a copy's would not be it
    assert "something else than tensors and plain values" in step.eager_reason


def test_the_memory_of_a_failed_capture_is_free_before_the_step_runs_eagerly(monkeypatch):
    """It may have been too large for both."""
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


@pytest.mark.parametrize("fails", [False, True])
def test_the_warm_up_is_in_order_with_the_current_stream(monkeypatch, fails):
    """Also after an error: what was launched before it still writes to the model."""
    emulated_graphs.install(monkeypatch)
    current, aside = emulated_graphs.Stream.current, []

    def loss(model, batch):
        aside.append(torch.cuda.current_stream())
        if fails:
            raise ValueError("mine")
        return LOSS(model(batch[0]), batch[1])

    model = net()
    step = TrainStep(model, None, sgd(model, "torch"), compute_loss=loss)
    with pytest.raises(ValueError, match="mine") if fails else contextlib.nullcontext():
        step(batches(1)[0])
    assert aside[0] is not current
    assert emulated_graphs.Stream.waits == [(aside[0], current), (current, aside[0])]
    assert torch.cuda.current_stream() is current


def test_a_failed_capture_leaves_nothing_behind(backend):
    """Random numbers, gradients, scaler and schedule go on as if nothing had been tried."""

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
def test_an_update_that_cannot_be_captured_leaves_no_scale_behind(monkeypatch, clip_norm):
    """GradScaler multiplies the next scale by one that it finds."""
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


def test_a_parameter_without_a_gradient_is_told(backend):
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
def test_what_changes_on_the_way_is_told(backend, change, told):
    *_, step = run(TrainStep, batches(5), backend)
    assert step.eager_reason is None
    change(step)
    step(batches(1)[0])
    assert told in step.eager_reason


def test_other_batches_run_eagerly(backend):
    model = net()
    optimizer = sgd(model, backend)
    step = TrainStep(model, None, optimizer, compute_loss=lambda model, batch: model(batch.inputs).square().mean())

    class Batch:
        def __init__(self):
            self.inputs = torch.randn(4, 6)

    for _ in range(4):
        step(Batch())
    assert "something else than tensors and plain values" in step.eager_reason


def test_plain_values_in_a_batch_are_part_of_its_kind(backend):
    def weighted(model, batch):
        return batch["weight"] * LOSS(model(batch["inputs"]), batch["targets"])

    def weights(kind):
        model = net()
        optimizer = sgd(model, backend)
        if kind is TrainStep:
            step = TrainStep(model, None, optimizer, compute_loss=weighted)
        else:
            step = EagerStep(model, weighted, optimizer)
        losses = []
        for index, (inputs, targets) in enumerate(batches(10)):
            losses.append(step({"inputs": inputs, "targets": targets, "weight": 1.0 + index % 2}))
        return losses, model, optimizer, step

    captured = weights(TrainStep)
    assert_same_run(captured, weights(EagerStep))
    assert n_replays(captured[3]) in (None, [3, 3])


def test_warnings_of_the_model_reach_the_user(backend):
    def warns(model, batch):
        warnings.warn("mind the step", stacklevel=1)
        return LOSS(model(batch[0]), batch[1])

    model = net()
    step = TrainStep(model, None, sgd(model, backend), compute_loss=warns)
    for batch in batches(WARM_UP_CALLS):
        with pytest.warns(UserWarning, match="mind the step"):
            step(batch)


def test_on_the_cpu_it_is_the_eager_step():
    model = net()
    step = TrainStep(model, LOSS, clrfast.SGD(model.parameters(), lr=0.1))
    assert "the model is on cpu, and only CUDA devices have graphs" in step.eager_reason
    step(batches(1)[0])
    assert "only CUDA devices have graphs" in step.eager_reason


def test_other_optimizers_step_eagerly(backend):
    model = net()
    step = TrainStep(model, LOSS, torch.optim.AdamW(model.parameters()))
    before = model[0].weight.detach().clone()
    step(batches(1)[0])
    assert "the optimizer is AdamW" in step.eager_reason
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("make", [clrfast.SGD, torch.optim.AdamW])
def test_an_optimizer_of_another_model_is_refused(make):
    optimizer = make(net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer: it has no trainable parameter of the model"):
        TrainStep(net(), LOSS, optimizer)
    partly = net()
    optimizer.add_param_group({"params": partly[0].parameters()})
    TrainStep(partly, LOSS, optimizer)


# ------------------------------------------------------------ changes after the capture

CHANGES = {
    "dtype": (
        lambda model, optimizer: model.double(),
        "dtype has changed from torch.float32 to torch.float64",
    ),
    "moved": (lambda model, optimizer: _moved(model[0].weight), "model: a parameter or buffer was moved, or replaced"),
    "statistics moved": (
        lambda model, optimizer: _moved(model[1].running_mean),
        "model: a parameter or buffer was moved, or replaced",
    ),
    "statistics in other memory": (
        lambda model, optimizer: model[1].running_var.set_(model[1].running_var.clone()),
        "model: a parameter or buffer was moved, or replaced",
    ),
    "one dtype": (
        lambda model, optimizer: setattr(model[1], "running_var", model[1].running_var.double()),
        "dtype has changed from torch.float32 to torch.float64",
    ),
    "another dict of buffers": (
        lambda model, optimizer: setattr(model[1], "_buffers", copy.deepcopy(model[1]._buffers)),
        "model: a parameter or buffer was moved, or replaced",
    ),
    "parameter lost": (lambda model, optimizer: setattr(model[4], "bias", None), "got or lost parameters"),
    "replaced": (
        lambda model, optimizer: setattr(model[4], "weight", nn.Parameter(torch.zeros(3, 12))),
        "model: a parameter or buffer was moved, or replaced",
    ),
    "module": (
        lambda model, optimizer: model.__setitem__(4, nn.Linear(12, 3)),
        "model: it has got other modules",
    ),
    "module inside of a leaf": (
        lambda model, optimizer: model[2].add_module("more", nn.ReLU()),
        "model: it has got other modules",
    ),
    "another dict of modules": (
        lambda model, optimizer: setattr(model, "_modules", copy.deepcopy(model._modules)),
        "model: it has got other modules",
    ),
    "buffers": (
        lambda model, optimizer: optimizer.state[model[0].weight].update(momentum_buffer=torch.zeros(12, 6)),
        "optimizer: it has got other momentum buffers",
    ),
    "buffers moved": (
        lambda model, optimizer: _moved(optimizer.state[model[0].weight]["momentum_buffer"]),
        "optimizer: it has got other momentum buffers",
    ),
    "state replaced": (
        lambda model, optimizer: setattr(optimizer, "state", copy.deepcopy(optimizer.state)),
        "optimizer: it has got other momentum buffers",
    ),
    "no buffers": (lambda model, optimizer: optimizer.state.clear(), "optimizer: it has got other momentum buffers"),
    "grown": (lambda model, optimizer: model[0].register_buffer("more", torch.zeros(1)), "got or lost parameters"),
    "group": (
        lambda model, optimizer: optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]}),
        "optimizer: it has got or lost a parameter group",
    ),
    "schedule": (
        lambda model, optimizer: optimizer.set_schedule(clrfast.one_cycle(0.1, 5)),
        "optimizer: it has got another schedule",
    ),
    "option": (
        lambda model, optimizer: optimizer.param_groups[0].update(dampening=0.5),
        "optimizer: it has got another option in a parameter group",
    ),
    "state": (
        lambda model, optimizer: optimizer.load_state_dict(optimizer.state_dict()),
        "optimizer: it has loaded a state",
    ),
}


def _moved(tensor):
    tensor.data = tensor.detach().clone()


def _only_slowly(patch):
    """As without the native module."""
    for module in (train_step_module, guarded_replay_module, fingerprint_module):
        patch.setattr(module, "_native", SimpleNamespace(why_missing="clrfast._C was not built"))


@pytest.mark.parametrize("checks", ["compiled", "in Python"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_after_the_capture_is_named_and_nothing_runs(backend, monkeypatch, name, checks):
    if checks == "in Python":
        _only_slowly(monkeypatch)
    change, told = CHANGES[name]
    _, model, optimizer, step = run(TrainStep, batches(4), backend)
    change(model, optimizer)
    before = [param.detach().clone() for param in model.parameters()]
    batch = batches(1)[0]
    batch = (batch[0].to(model[0].weight.dtype), batch[1]) if name != "dtype" else batch
    for _ in range(2):  # it is not taken for granted later
        with pytest.raises(RuntimeError, match=told):
            step(batch)
    for param, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(param, value)


HARMLESS = {
    "nothing": lambda model, optimizer: None,
    "dicts of the same": lambda model, optimizer: _with_dicts_of_the_same(model),
    "a parameter of the same memory": lambda model, optimizer: setattr(
        model[0], "weight", nn.Parameter(model[0].weight.data)
    ),
    "a state of the same": lambda model, optimizer: optimizer.state.update(
        {param: dict(state) for param, state in optimizer.state.items()}
    ),
    "a number in the state": lambda model, optimizer: optimizer.state[model[0].weight].update(steps=3),
    "a module renamed": lambda model, optimizer: model.add_module("last", model._modules.pop("4")),
}


def _with_dicts_of_the_same(model):
    for module in model.modules():
        for name in ("_parameters", "_buffers", "_modules"):
            setattr(module, name, dict(getattr(module, name)))


@pytest.mark.parametrize("checks", ["compiled", "in Python"])
@pytest.mark.parametrize("name", HARMLESS)
def test_a_replay_goes_on_where_its_memory_is_the_model_s(backend, monkeypatch, name, checks):
    if checks == "in Python":
        _only_slowly(monkeypatch)

    def changed(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        if make_step is TrainStep:
            HARMLESS[name](model, optimizer)
        optimizer.zero_grad()
        return losses + [step(batch) for batch in batches(3, seed=4)], model, optimizer, step

    captured = changed(TrainStep)
    assert_same_run(captured, changed(EagerStep))
    assert n_replays(captured[3]) in (None, [7 - WARM_UP_CALLS])
    if checks == "compiled" and COMPARES_QUICKLY:
        graph = captured[3]._graphs._kinds[0].graph  # what was found harmless is not looked at again
        assert graph._fingerprint.matches()
        assert graph._captured._fingerprint.matches()


def test_a_flag_that_is_no_bool_makes_a_kind(backend):
    def odd(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        model[2].training = "no bool"
        return losses + [step(batch) for batch in batches(4, seed=2)], model, optimizer, step

    captured = odd(TrainStep)
    assert_same_run(captured, odd(EagerStep))
    assert n_replays(captured[3]) in (None, [2, 2])


def test_after_reset_it_goes_on_with_what_was_changed(backend):
    def changed(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        optimizer.set_schedule(clrfast.one_cycle(0.3, 5))
        if make_step is TrainStep:
            with pytest.raises(RuntimeError, match="another schedule"):
                step(batches(1)[0])
            step.reset()
        return losses + [step(batch) for batch in batches(5, seed=4)], model, optimizer, step

    captured = changed(TrainStep)
    assert_same_run(captured, changed(EagerStep))
    assert captured[3].eager_reason is None


@past_the_end
def test_after_reset_a_module_and_a_group_of_later_are_known(backend):
    """Clipped with the others, given their gradients, and watched for changes."""

    def grown(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend, clip_norm=0.05)
        torch.manual_seed(3)
        model[4] = nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 3)).train()
        optimizer.param_groups[0]["params"] = [*model[0].parameters(), *model[1].parameters()]
        optimizer.add_param_group({"params": list(model[4].parameters())})
        if make_step is TrainStep:
            step.reset()
        losses += [step(batch) for batch in batches(4, seed=4)]
        optimizer.zero_grad()
        losses += [step(batch) for batch in batches(1, seed=5)]
        model[4].eval()
        return losses + [step(batch) for batch in batches(4, seed=6)], model, optimizer, step

    captured, eager = grown(TrainStep), grown(EagerStep)
    assert_same_run(captured, eager)
    assert captured[3].eager_reason is None
    for a, b in zip(captured[1].parameters(), eager[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_model_that_was_moved_steps_there_after_reset():
    model = net()
    step = TrainStep(model, LOSS, clrfast.SGD(model.parameters(), lr=0.1))
    model.to("meta")
    assert step.device.type == "cpu"
    step.reset()
    assert step.device.type == "meta"


def test_a_rate_on_the_cpu_that_was_changed_is_named(backend):
    """A launch on a device takes it as a number."""
    model = net()
    rate = torch.tensor(0.1, device="cpu")
    optimizer = clrfast.SGD(model.parameters(), lr=rate, momentum=0.9, backend=backend)
    step = TrainStep(model, LOSS, optimizer)
    for batch in batches(4):
        step(batch)
    assert step.eager_reason is None
    rate.fill_(0.05)  # as torch's schedulers do
    with pytest.raises(RuntimeError, match="another option in a parameter group"):
        step(batches(1)[0])


def test_a_scaler_that_was_changed_is_named(backend):
    scaler = torch.amp.GradScaler(torch.get_default_device().type)
    *_, step = run(TrainStep, batches(4), backend, scaler=scaler)
    scaler.set_backoff_factor(0.25)
    with pytest.raises(RuntimeError, match="scaler: its settings have changed"):
        step(batches(1)[0])


def test_a_step_lets_go_of_its_graphs(backend):
    *_, step = run(TrainStep, batches(4), backend)
    graph = weakref.ref(step._graphs._kinds[0].graph)
    gc.disable()
    try:
        del _, step
        assert graph() is None  # at once, not at the next collection: it holds the memory of a whole step
    finally:
        gc.enable()
