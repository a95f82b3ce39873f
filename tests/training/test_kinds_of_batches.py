"""Which calls of a TrainStep share a graph, and how many graphs there are."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from clrfast.training import TrainStep
from clrfast.training import _train_step as train_step_module
from clrfast.training._eager_step import EagerStep
from clrfast.training._graph_cache import MAX_GRAPHS, WARM_UP_CALLS
from tests.cuda_on_cpu import emulated_graphs
from tests.helpers.optimizers import past_the_end
from tests.helpers.train_steps import (
    LOSS,
    assert_same_run,
    batches,
    n_replays,
    net,
    run,
    sgd,
)


def test_each_kind_of_batch_has_a_graph(backend):
    sizes = [16, 16, 7, 16, 7, 7, 16, 7, 16, 16, 7]
    data = [batches(1, size, seed)[0] for seed, size in enumerate(sizes)]
    eager, captured = (run(kind, data, backend) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert n_replays(captured[3]) in (None, [6 - WARM_UP_CALLS, 5 - WARM_UP_CALLS])


def test_kinds_beyond_the_maximum_run_eagerly(backend):
    data = [batches(1, size)[0] for size in range(3, 3 + MAX_GRAPHS + 1)]
    eager, captured = (run(kind, data, backend) for kind in (EagerStep, TrainStep))
    assert_same_run(captured, eager)
    assert f"batches of {MAX_GRAPHS} other kinds came first" in captured[3].eager_reason


def test_train_and_eval_mode_have_separate_graphs(backend):
    def modes(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        model[1].eval()  # batch normalization with fixed statistics
        losses += [step(batch) for batch in batches(4, seed=2)]
        model.train()
        return losses + [step(batch) for batch in batches(2, seed=3)], model, optimizer, step

    captured = modes(TrainStep)
    assert_same_run(captured, modes(EagerStep))
    assert n_replays(captured[3]) in (None, [4, 2])


def test_an_autocast_block_around_the_step_makes_another_kind(backend):
    def casting(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
            losses += [step(batch) for batch in batches(4, seed=2)]
        return losses, model, optimizer, step

    captured = casting(TrainStep)
    assert_same_run(captured, casting(EagerStep))
    assert n_replays(captured[3]) in (None, [2, 2])


def test_graphs_share_a_memory_pool_and_a_maximum(monkeypatch):
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
def test_a_maximum_out_of_range_is_refused(max_graphs):
    model = net()
    with pytest.raises(ValueError, match=f"max_graphs: got {max_graphs}; give a whole number"):
        TrainStep(model, LOSS, sgd(model, "torch"), max_graphs=max_graphs)


class Weighted(nn.Module):
    """A loss that has a buffer and doubles in eval mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(3))

    def forward(self, outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets, weight=self.weight)
        return loss if self.training else 2 * loss


def test_the_modules_of_a_loss_are_part_of_the_kind_and_checked(backend):
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
def test_dtype_layout_and_type_of_a_value_distinguish_kinds(backend):
    """A batch copied into memory of another dtype or layout would have other values."""

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
    step({"x": x.clone().requires_grad_(), "scale": True})  # its gradient would go to the copy
    assert "something other than tensors and plain values" in step.eager_reason


@pytest.mark.parametrize("fails", [False, True])
def test_the_warm_up_is_ordered_with_the_current_stream(monkeypatch, fails):
    """This includes a warm-up that raises, because what it launched still writes to the model."""
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


def test_other_batches_run_eagerly(backend):
    model = net()
    optimizer = sgd(model, backend)
    step = TrainStep(model, None, optimizer, compute_loss=lambda model, batch: model(batch.inputs).square().mean())

    class Batch:
        def __init__(self):
            self.inputs = torch.randn(4, 6)

    for _ in range(4):
        step(Batch())
    assert "something other than tensors and plain values" in step.eager_reason


def test_plain_values_in_a_batch_distinguish_kinds(backend):
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


def test_a_training_flag_that_is_not_a_bool_makes_a_kind(backend):
    def odd(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        model[2].training = "no bool"
        return losses + [step(batch) for batch in batches(4, seed=2)], model, optimizer, step

    captured = odd(TrainStep)
    assert_same_run(captured, odd(EagerStep))
    assert n_replays(captured[3]) in (None, [2, 2])
