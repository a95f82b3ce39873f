"""A small network, its batches, and trainings with eager and captured steps that are compared bit for bit."""

from __future__ import annotations

import torch
from torch import nn

import clrfast
from clrfast.schedules import Linear
from clrfast.training import StepOptions, TrainStep
from clrfast.training._eager_step import EagerStep

CYCLE = clrfast.one_cycle(0.2, 12, weight_decay=Linear(1e-2, 1e-4, 11))
LOSS = nn.CrossEntropyLoss()


def net(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3)
    return nn.Sequential(*layers).train()


def batches(n, size=16, seed=1):
    """Return ``n`` batches on the CPU, as from a loader."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "device": "cpu"}
    return [(torch.randn(size, 6, **options), torch.randint(3, (size,), **options)) for _ in range(n)]


def sgd(model, backend, schedule=CYCLE, **options):
    return clrfast.SGD(model.parameters(), lr=0.1, momentum=0.9, schedule=schedule, backend=backend, **options)


def adamw(model, backend, schedule=CYCLE, **options):
    return clrfast.AdamW(model.parameters(), lr=0.01, schedule=schedule, backend=backend, **options)


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def run(make_step, data, backend, *, model=None, schedule=CYCLE, optimizer="sgd", **options):
    """Train on ``data`` and return losses, model, optimizer and step."""
    model = net() if model is None else model
    optimizer = OPTIMIZERS[optimizer](model, backend, schedule)
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
        assert_same_norms(one, other)
        assert one[2].control.synchronize() == other[2].control.synchronize()


def assert_same_losses(one, other):
    """Compare the recorded losses, including the NaN of steps that were not made."""
    torch.testing.assert_close(one[2].control.losses, other[2].control.losses, rtol=0, atol=0, equal_nan=True)


def assert_same_norms(one, other):
    """Compare the recorded norms of the gradients, including the NaN of steps that were not clipped."""
    torch.testing.assert_close(one[2].control.grad_norms, other[2].control.grad_norms, rtol=0, atol=0, equal_nan=True)


def n_replays(step):
    """Return the number of replays of each graph; None for real graphs, which do not count them."""
    graphs = [kind.graph._captured._graph._graph for kind in step._graphs._kinds if kind.graph is not None]
    return [graph.replays for graph in graphs] if all(hasattr(graph, "replays") for graph in graphs) else None
