"""torch.compile breaks its graph once at ``step``: no warning, no recompilation, the numbers of the eager step."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch._dynamo.utils import counters

import clrfast
from tests.helpers.optimizers import NO_NATIVE, all_state, assert_same, every_rule
from tests.helpers.scheduled_runs import network

N_STEPS = 20
SCHEDULE = clrfast.one_cycle(0.1, N_STEPS, weight_decay=1e-3)


def trained(rule, compiled, whole, **given):
    """Train for N_STEPS; return the tensors at the end, the compiled graphs after each step, and the graph breaks.

    ``whole`` compiles a step with its loss and its backward pass as one function; else the loss and ``step`` are
    compiled apart from each other.
    """
    torch._dynamo.reset()
    counters.clear()
    model = network()
    optimizer = rule.make(model.parameters(), **given)

    def compute_loss(inputs):
        return (model(inputs) - inputs[:, :2]).square().mean()

    def update():
        optimizer.step()

    def train_step(inputs):
        loss = compute_loss(inputs)
        loss.backward()
        if optimizer.control is None:
            optimizer.step()
        else:
            optimizer.step(loss=loss)

    if compiled:
        compute_loss, update, train_step = (
            torch.compile(each, backend="eager") for each in (compute_loss, update, train_step)
        )
    graphs = []
    for step in range(N_STEPS):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        if whole:
            train_step(inputs)
        else:
            compute_loss(inputs).backward()
            update()
        graphs.append(counters["stats"]["unique_graphs"])
    tensors = [*model.parameters(), *all_state(optimizer)]
    if optimizer.control is not None:
        tensors += optimizer.control.tensors()
    return tensors, graphs, counters["graph_break"]


SCHEDULED = {"schedule": SCHEDULE, "weight_decay": 1e-3}  # that of the schedule


@every_rule
@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole step", "step alone"])
@pytest.mark.parametrize("given", [{}, SCHEDULED, {**SCHEDULED, "clip_norm": 0.5}], ids=list)
def test_a_compiled_step_equals_the_eager_one_and_is_compiled_once(rule, backend, whole, given):
    # Recorded, not raised: torch itself ignores a warning about the gradient of the loss, but not if it is an error.
    with warnings.catch_warnings(record=True) as caught, torch._dynamo.config.patch(error_on_recompile=True):
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", NO_NATIVE)
        warnings.filterwarnings("ignore", "Guards may run slower on Python 3.13.0")
        ours, graphs, breaks = trained(rule, True, whole, backend=backend, **given)
        wanted, none, _ = trained(rule, False, whole, backend=backend, **given)
    assert not [str(each.message) for each in caught]
    assert_same(ours, wanted)
    assert len(set(graphs)) == 1  # all of them are compiled at the first step
    assert graphs[0] <= 2  # the model with its loss, which older versions of torch split; the step itself has no graph
    assert set(none) == {0}
    assert sum("FusedOptimizer.step" in reason for reason in breaks) <= 1
    assert sum(breaks.values()) <= 2  # at `backward` and at `step`
