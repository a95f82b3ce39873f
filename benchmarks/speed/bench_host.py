"""The host's time: of an eager step without its arithmetic, and before each replay of a captured step.

    pytest benchmarks/speed/bench_host.py --results benchmarks/results
    pytest benchmarks/speed/bench_host.py --device cuda --results benchmarks/results

On the CPU the optimizers skip their arithmetic, and CUDA graphs are emulated by replays that do nothing. On a GPU the
steps are complete, each begins with an idle device, and only the host's time counts. The floors are C++ loops over what
any implementation has to read from the tensors' Python objects (host_floor.cpp).

The checks of a replay are the time of a TrainStep minus the time of a bare graph cache in the same round. Both flatten
the batch, copy it in, launch the graph and copy the loss out.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clrfast
from clrfast import _native
from clrfast.training import TrainStep
from clrfast.training import _graph_cache as graphs
from clrfast.training import _guarded_replay as guarded_replay
from clrfast.training import _module_fingerprint as fingerprint
from clrfast.training import _train_step as train_step
from tests.cuda_on_cpu import emulated_graphs

from . import shapes, timing
from .native_library import build_library
from .setting import Setting
from .workloads import WORKLOADS, Workload

Call = Callable[[], Any]

LR, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 1e-4
TOTAL_STEPS = 100_000
ROUNDS = 2000
REPLAYED = ("ResNet-56, batch 128", "digits CNN, batch 64")
BARE = "Graphs, without checks"
ROWS: list[dict[str, Any]] = []


def host_seconds(call: Call) -> float:
    """Return the seconds of one call by the host's clock; a device that is in use is idle before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return timing.wall_seconds(call)


def timed(benchmark: Any, setting: Setting, contenders: dict[str, Call]) -> dict[str, np.ndarray]:
    """Time the contenders in turns, with one thread: there is nothing to divide."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds, warm_up = (3, 1) if setting.tiny else (ROUNDS, 50)
        options = {"warm_up": warm_up, "timer": host_seconds, "limit_s": 60.0}
        return benchmark.pedantic(timing.interleaved, args=(contenders, rounds), kwargs=options, rounds=1)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> ctypes.PyDLL | None:
    """Return host_floor.cpp as a library; None without a compiler or DLPack's exchange API."""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        return None
    csrc, include = Path(clrfast.__file__).parents[1] / "csrc", sysconfig.get_path("include")
    flags = ("-fvisibility=hidden", f"-I{csrc}", "-isystem", include)
    library = build_library("host_floor.cpp", tmp_path_factory.mktemp("floor"), *flags)
    if library is None:
        return None
    found = ctypes.PyDLL(str(library))
    assert found.prepare(ctypes.py_object(torch.Tensor.__dlpack_c_exchange_api__))
    return found


def read(function: Any, *lists: list[Any]) -> Call:
    """Return a call of the floor's ``function`` with these lists."""
    arguments = [ctypes.py_object(values) for values in lists]
    assert function(*arguments)
    return partial(function, *arguments)


# --- an eager step --------------------------------------------------------------------------------------------------


def parameters(model: list[shapes.Shape], device: torch.device) -> list[nn.Parameter]:
    params = [nn.Parameter(torch.randn(shape, device=device)) for shape in model]
    for param in params:
        param.grad = torch.randn_like(param)
    return params


def without_arithmetic(patch: pytest.MonkeyPatch) -> None:
    """Make the CPU's updates do nothing, torch's and clrfast's."""

    def nothing(*_: Any, **__: Any) -> None:
        pass

    patch.setattr(torch, "_fused_sgd_", nothing)
    patch.setattr(_native, "_C", SimpleNamespace(**{**vars(_native.load()), "sgd_": nothing}))


def test_step(benchmark: Any, setting: Setting, floor: ctypes.PyDLL | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shapes.tiny() if setting.tiny else shapes.resnet56()
    schedule = clrfast.constant(LR, TOTAL_STEPS, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    ours = clrfast.SGD(parameters(model, setting.device), schedule=schedule)
    options = {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}
    theirs = torch.optim.SGD(parameters(model, setting.device), fused=True, **options)
    for _ in range(2):
        ours.step()
        theirs.step()
    update, group = ours._updates[0], theirs.param_groups[0]
    contenders: dict[str, Call] = {
        "clrfast.SGD(schedule=...): collecting": partial(update.prepare, ours),
        "torch.optim.SGD(fused=True): collecting": lambda: theirs._init_group(group, [], [], []),
        "clrfast.SGD(schedule=...): step": ours.step,
        "torch.optim.SGD(fused=True): step": theirs.step,
    }
    if floor is not None:
        buffers = [state["momentum_buffer"] for state in ours.state.values()]
        contenders["floor: .grad and three views"] = read(floor.step_floor, ours.param_groups[0]["params"], buffers)
    if not setting.on_gpu:
        without_arithmetic(monkeypatch)
    seconds = timed(benchmark, setting, contenders)
    for contender, values in seconds.items():
        kind = contender.split(": ")[-1]
        over = f"torch.optim.SGD(fused=True): {kind}"
        faster = timing.ratios(seconds[over], values, "faster_by") if over in seconds and over != contender else {}
        ROWS.append(
            {
                "benchmark": "host_step",
                "model": "ResNet-56",
                "n_tensors": len(model),
                "contender": contender,
                **timing.statistics(values),
                **faster,
            }
        )
        benchmark.extra_info[contender] = ROWS[-1]["median_us"]
    setting.write("host", ROWS)


# --- a replay -------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_graphs(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the backend of optimizers whose steps can be captured; on the CPU, graphs are emulated."""
    if setting.on_gpu:
        return "auto"
    emulated_graphs.install(monkeypatch)
    return "torch"


def in_python(call: Call) -> Call:
    """Make ``call`` compare in Python, as it does without the native module."""
    missing = SimpleNamespace(why_missing="left out")
    modules = (fingerprint, guarded_replay, train_step)

    def wrapped() -> Any:
        native = [module._native for module in modules]
        for module in modules:
            module._native = missing
        try:
            return call()
        finally:
            for module, before in zip(modules, native, strict=True):
                module._native = before

    return wrapped


def make_step(work: Workload, setting: Setting, backend: str) -> TrainStep:
    torch.manual_seed(0)
    model = work.make().to(setting.device)
    schedule = clrfast.constant(LR, TOTAL_STEPS, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    optimizer = clrfast.SGD(model.parameters(), schedule=schedule, backend=backend)
    return TrainStep(model, nn.CrossEntropyLoss(), optimizer)


def replaying(call: Call) -> Call:
    """Return ``call`` after its graph is captured."""
    for _ in range(graphs.WARM_UP_CALLS + 1):
        call()
    return call


def reading_like_replays(floor: Any, step: TrainStep) -> Call:
    """Return the floor's call that reads what a replay has to check."""
    model, optimizer = step.model, step.optimizer
    state = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    tensors = [*model.parameters(), *model.buffers(), *state]
    return read(floor.replay_floor, list(model.modules()), list(model.parameters()), tensors)


@pytest.mark.parametrize("name", REPLAYED)
def test_replay(
    benchmark: Any,
    setting: Setting,
    floor: ctypes.PyDLL | None,
    with_graphs: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    work = replace(WORKLOADS["digits CNN, batch 64" if setting.tiny else name], batch_size=2)
    batch = tuple(part.to(setting.device) for part in work.data(1))
    steps = [make_step(work, setting, with_graphs) for _ in range(2)]
    bare = graphs.GraphCache(setting.device)
    calls: dict[str, Call] = {
        "TrainStep": replaying(partial(steps[0], batch)),
        "TrainStep, compared in Python": replaying(in_python(partial(steps[1], batch))),
        BARE: replaying(partial(bare, lambda one: one[0].sum(), [batch])),
    }
    assert bare.eager_reason is None
    assert [step.eager_reason for step in steps] == [None, None]
    if not setting.on_gpu:
        monkeypatch.setattr(emulated_graphs.CUDAGraph, "replay", lambda self: None)
    if floor is not None:
        calls["floor: flags, .grad and views"] = reading_like_replays(floor, steps[0])
    seconds = timed(benchmark, setting, calls)
    size = {
        "n_modules": len(list(steps[0].model.modules())),
        "n_tensors": len([*steps[0].model.parameters(), *steps[0].model.buffers()]),
    }
    for contender, values in seconds.items():
        checks = {"TrainStep": values - seconds[BARE], "floor": values}.get(contender.replace(",", ":").split(":")[0])
        row = {"benchmark": "host_replay", "model": name, **size, "contender": contender}
        if not contender.startswith("floor"):
            row |= timing.statistics(values)
        if checks is not None:
            row |= {f"checks_{key}": value for key, value in timing.statistics(checks).items()}
        ROWS.append(row)
        benchmark.extra_info[contender] = row.get("checks_median_us", row.get("median_us"))
    setting.write("host", ROWS)
