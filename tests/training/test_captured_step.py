"""CapturedStep's own logic, with graphs emulated on the CPU; tests/gpu captures real ones."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import clrfast
from clrfast.training import CapturedStep
from clrfast.training._cuda_graph import capture_stream
from clrfast.training._graph_cache import GraphCache
from tests.cuda_on_cpu import emulated_graphs
from tests.helpers.optimizers import give_grads, make_params


@pytest.fixture(autouse=True)
def _no_device(monkeypatch):
    emulated_graphs.install(monkeypatch)


def captured(**options):
    params = make_params([(3,), (2,)])
    optimizer = clrfast.SGD(params, momentum=0.9, backend="torch", **options)
    give_grads(params, 7)

    def step():
        assert all(param.grad is None for param in params)
        assert all("momentum_buffer" in optimizer.state[param] for param in params)
        give_grads(params, 0)
        optimizer.step(loss=torch.tensor(2.0))
        return "what step returned"

    return CapturedStep(step, optimizer), optimizer, step


def test_each_replay_shows_the_next_row_of_the_schedule():
    graph, optimizer, _ = captured(schedule=clrfast.one_cycle(0.1, 10))
    optimizer.control.host_step = 0  # the emulated capture has executed the step
    optimizer.follower.show_next_row(optimizer.param_groups)
    for _ in range(3):
        assert graph.replay() == "what step returned"
    assert graph._graph._graph.replays == 3
    assert optimizer.param_groups[0]["lr"] == pytest.approx(optimizer.control.host_table[3, 0, 0])


def test_two_captures_of_one_optimizer_both_stay_valid():
    graph, optimizer, step = captured(lr=0.1)
    other = CapturedStep(step, optimizer)
    for one in (graph, other, graph):
        one.replay()
    assert (graph._graph._graph.replays, other._graph._graph.replays) == (2, 1)


def test_all_captures_of_a_thread_share_a_stream():
    """Libraries keep a workspace for every stream. A second thread needs its own, or its work would be captured."""
    device = torch.device("cpu")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(capture_stream, device).result()
    assert capture_stream(device) is capture_stream(device) is not other
    assert GraphCache(device)._stream is GraphCache(device)._stream is capture_stream(device)


def test_the_warm_up_leaves_no_gradient():
    params = make_params([(3,), (2,)])
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, backend="torch")
    calls = []

    def step():
        calls.append("step")
        assert all(param.grad is None for param in params)
        loss = sum((param**2).sum() for param in params)
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    graph = CapturedStep(step, optimizer, warm_up=lambda: (calls.append("warm-up"), give_grads(params, 0)))
    assert calls == ["warm-up", "step"]
    assert graph.replay()["loss"].grad_fn is None


CHANGES = {
    "state loaded": lambda o: o.load_state_dict(o.state_dict()),
    "schedule set": lambda o: o.set_schedule(clrfast.one_cycle(0.1, 5)),
    "option changed": lambda o: o.param_groups[0].update(weight_decay=0.5),
    "group added": lambda o: o.add_param_group({"params": make_params([(4,)])}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_replay_is_refused_after_the_optimizer_changed(name):
    graph, optimizer, _ = captured(lr=0.1)
    CHANGES[name](optimizer)
    with pytest.raises(RuntimeError, match="capture it again"):
        graph.replay()
    assert graph._graph._graph.replays == 0


def test_a_replay_is_refused_after_a_rate_or_the_divergence_watch_changed():
    graph, optimizer, _ = captured(schedule=clrfast.one_cycle(0.1, 10))
    graph.replay()
    optimizer.param_groups[0]["lr"] = 5.0
    with pytest.raises(RuntimeError, match="the schedule sets it"):
        graph.replay()
    optimizer.follower.show_next_row(optimizer.param_groups)
    graph.replay()
    optimizer.control.watch_divergence()
    with pytest.raises(RuntimeError, match="capture it again"):
        graph.replay()


def test_a_replay_is_refused_when_the_optimizer_no_longer_exists():
    graph, optimizer, step = captured(lr=0.1)
    del optimizer, step
    gc.collect()
    with pytest.raises(RuntimeError, match="keep it for as long as the step is replayed"):
        graph.replay()
    assert graph._graph._graph.replays == 0
