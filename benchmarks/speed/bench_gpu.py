"""One optimizer step on a CUDA device: clrfast.SGD against torch.optim.SGD, eager and replayed from a CUDA graph.

    python -m benchmarks.speed.bench_gpu --results benchmarks/results
    python -m benchmarks.speed.bench_gpu --dry-run    checks on any machine that it runs, measures nothing

All contenders do the same work at a constant rate. clrfast.SGD reads the rate from its schedule's table at every step;
torch's optimizers have a fixed number, so no scheduler's time counts against them. All must agree on the parameters,
eager and replayed, before they are timed.

Device time is the time between two events around a call. A kernel that sleeps comes before the first event, long enough
for the host to submit the whole call before the device reaches that event. The time thus contains no wait for the host,
and a call that waits for the device is an error. Before each call, a buffer of four times the L2 cache is written. Host
time is the time of the call alone, while the device has nothing else to do.

At last the profiler measures each kernel of an eager step, and the gaps between kernels, which it lengthens.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import clrfast

from ..environment import environment
from ..result_files import Row, write_rows
from ..tables.optimizer import gpu_step_table
from . import kernels, shapes, timing

Call = Callable[[], Any]
Optimizers = dict[str, torch.optim.Optimizer]
Rows = list[Row]

MODELS = {"ResNet-56": shapes.resnet56, "ResNet-50": shapes.resnet50, "Llama 3.2 1B": shapes.decoder_1b}
OURS = "clrfast.SGD(schedule=...)"
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4  # large, so that a wrong step exceeds the tolerance
TOTAL_STEPS = 10_000
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},  # torch's kernels fuse multiplications with additions
    torch.bfloat16: {"rtol": 0.1, "atol": 0.1},  # foreach rounds every intermediate value to 8 bits
}
ACCESSES = 5
"""Memory accesses per value: parameter, gradient and buffer are read, parameter and buffer are written."""
MEMORY_FACTOR = 10
"""Memory that a case needs, in sizes of its parameters: 3 copies of them, 3 buffers, 1 gradient, the copies that
foreach makes, eager and in the graph, and a reserve."""
LIMIT_S = 3.0
"""Time limit of a case's device times, and of its host times, in seconds."""
PROFILED_STEPS = 20
PROFILED_CYCLES = 1 << 22
"""Sleep before a profiled step, in cycles: about two milliseconds, in which the host submits the whole step."""


@dataclass(frozen=True)
class Case:
    """A model's parameters in one dtype."""

    model: str
    shapes: list[shapes.Shape]
    dtype: torch.dtype

    @property
    def n_values(self) -> int:
        return sum(map(math.prod, self.shapes))

    @property
    def n_bytes(self) -> int:
        return self.n_values * self.dtype.itemsize

    def row(self) -> dict[str, Any]:
        size = f"{len(self.shapes)} tensors, {self.n_values:,} values"
        return {"model": self.model, "size": size, "dtype": str(self.dtype).removeprefix("torch.")}


class Gpu:
    """The current CUDA device: its timers, its graphs and its profiler."""

    device = torch.device("cuda")
    backend = "cuda"
    rounds = 400
    copy_bytes = 4 << 30

    def __init__(self) -> None:
        l2_bytes = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0) or 64 << 20
        self._scratch = torch.zeros(l2_bytes, dtype=torch.int32, device=self.device)  # 4 bytes each
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._cycles = 1 << 16

    def device_seconds(self, call: Call) -> float:
        """Return the device time of one call.

        Raises:
            RuntimeError: the call waits for the device.
        """
        begin, end = self._events
        while self._cycles < 1 << 32:  # about two seconds
            self._before_a_call(self._cycles)
            begin.record()
            call()
            end.record()
            host_was_ahead = not begin.query()
            self.synchronize()
            if host_was_ahead:
                # Shorter again: otherwise one slow moment of the host would lengthen all later sleeps.
                self._cycles = max(self._cycles * 19 // 20, 1 << 16)
                return begin.elapsed_time(end) / 1e3
            self._cycles *= 2
        raise RuntimeError(f"{call} waits for the device")

    def host_seconds(self, call: Call) -> float:
        self.synchronize()
        return timing.wall_seconds(call)

    def captured(self, step: Call) -> Call:
        """Capture ``step`` after one eager call of it; return the replay of the graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def _before_a_call(self, cycles: int) -> None:
        """Flush the device's caches, and then let the device sleep."""
        self._scratch.zero_()
        torch.cuda._sleep(cycles)

    def profiled(self, step: Call) -> dict[str, Any]:
        """Return the launches of ``step``; see ``kernels.by_kernel``."""
        between = {event.name for event in self._events_of(lambda: None, 1)}
        return kernels.by_kernel(self._events_of(step, PROFILED_STEPS), between)

    def _events_of(self, step: Call, n: int) -> list[kernels.Event]:
        kind = self.device.type.upper()
        with profile(activities=[getattr(ProfilerActivity, kind)]) as profiler:
            for _ in range(n):
                self._before_a_call(PROFILED_CYCLES)
                step()
            self.synchronize()
        return [
            kernels.Event(event.name, event.time_range.start, event.time_range.end)
            for event in profiler.events()
            if event.device_type == getattr(DeviceType, kind) and not event.is_user_annotation
        ]

    def free_bytes(self) -> float:
        return torch.cuda.mem_get_info()[0]

    def synchronize(self) -> None:
        torch.cuda.synchronize()


class DryRun(Gpu):
    """The CPU in place of a GPU: no events, and a step itself in place of its graph."""

    device = torch.device("cpu")
    backend = "auto"
    rounds = 3
    copy_bytes = 1 << 20

    def __init__(self) -> None:
        pass

    def device_seconds(self, call: Call) -> float:
        return timing.wall_seconds(call)

    def captured(self, step: Call) -> Call:
        return step

    def _before_a_call(self, cycles: int) -> None:
        torch.ones(2).cumsum(0)

    def free_bytes(self) -> float:
        return math.inf

    def synchronize(self) -> None:
        pass


def make_optimizers(case: Case, gpu: Gpu) -> Optimizers:
    """Return all contenders, each with its own copy of the same parameters and with the same gradients."""
    generator = torch.Generator(gpu.device).manual_seed(0)
    options = {"generator": generator, "device": gpu.device, "dtype": case.dtype}
    start, grads = ([torch.randn(shape, **options) for shape in case.shapes] for _ in range(2))

    def params() -> list[nn.Parameter]:
        copies = [nn.Parameter(tensor.clone()) for tensor in start]
        for param, grad in zip(copies, grads, strict=True):
            param.grad = grad
        return copies

    stock = partial(torch.optim.SGD, lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = clrfast.constant(LR, TOTAL_STEPS, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    ours = clrfast.SGD(params(), schedule=schedule, backend=gpu.backend)
    ours.init_state()
    return {
        "torch.optim.SGD(foreach=True)": stock(params(), foreach=True),
        "torch.optim.SGD(fused=True)": stock(params(), fused=True),
        OURS: ours,
    }


@torch.no_grad()
def require_agreement(optimizers: Optimizers, dtype: torch.dtype) -> None:
    *theirs, ours = (optimizer.param_groups[0]["params"] for optimizer in optimizers.values())
    for others in theirs:
        for own, other in zip(ours, others, strict=True):
            torch.testing.assert_close(own, other, **TOLERANCE[dtype])


def copy_rows(gpu: Gpu) -> Rows:
    """Return the rows of the device's own copies; that of 0 bytes shows what the events themselves measure."""
    source, target = (torch.zeros(gpu.copy_bytes, dtype=torch.uint8, device=gpu.device) for _ in range(2))
    sizes = (0, gpu.copy_bytes // 4, gpu.copy_bytes // 2, gpu.copy_bytes)
    copies = {size: partial(target[:size].copy_, source[:size]) for size in sizes}
    seconds = timing.interleaved(copies, gpu.rounds, timer=gpu.device_seconds, limit_s=LIMIT_S)
    return [
        {"benchmark": "copy_gpu", "bytes": 2 * size, **timing.statistics(values)} for size, values in seconds.items()
    ]


def step_rows(case: Case, gpu: Gpu, copy_speed: float) -> Rows:
    """Return the device and host times of every contender's step, eager and replayed.

    Args:
        copy_speed: bytes per second of the device's own copies.
    """
    optimizers = make_optimizers(case, gpu)
    calls: dict[tuple[str, bool], Call] = {}
    for captured in (False, True):
        for name, optimizer in optimizers.items():
            call = gpu.captured(optimizer.step) if captured else optimizer.step
            calls[name, captured] = call
            for _ in range(3):
                call()
        require_agreement(optimizers, case.dtype)
    seconds = {
        kind: timing.interleaved(calls, gpu.rounds, timer=timer, limit_s=LIMIT_S)
        for kind, timer in (("device", gpu.device_seconds), ("host", gpu.host_seconds))
    }
    n_bytes = ACCESSES * case.n_bytes
    return [
        {
            "benchmark": "step_gpu",
            **case.row(),
            "contender": key[0],
            "captured": key[1],
            **{f"{kind}_{k}": v for kind in seconds for k, v in timing.statistics(seconds[kind][key]).items()},
            "bytes": n_bytes,
            "of_copy": round(n_bytes / np.median(seconds["device"][key]) / copy_speed, 3),
        }
        for key in calls
    ]


def profiled(case: Case, gpu: Gpu) -> dict[str, dict[str, Any]]:
    """Return the kernels of each contender's eager step."""
    found = {}
    for name, optimizer in make_optimizers(case, gpu).items():
        optimizer.step()  # torch's first one makes its buffers
        found[name] = gpu.profiled(optimizer.step)
        print(f"{case.model}, {case.dtype}, {name}: {kernels.summary(found[name])}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="folder for the result file")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU")
    arguments = parser.parse_args()
    if not (arguments.dry_run or torch.cuda.is_available()):
        raise SystemExit("bench_gpu: torch finds no CUDA device; --dry-run needs none")

    def save() -> None:
        """Write what is measured so far: a later case may fail."""
        if arguments.results is not None:
            write_rows(arguments.results / "step_gpu.json", rows)

    gpu = DryRun() if arguments.dry_run else Gpu()
    rows = copy_rows(gpu)
    copy_speed = max(1e6 * row["bytes"] / row["median_us"] for row in rows)
    steps: list[tuple[Case, Rows]] = []
    for (model, make_shapes), dtype in itertools.product(MODELS.items(), TOLERANCE):
        case = Case(model, shapes.tiny() if arguments.dry_run else make_shapes(), dtype)
        free_memory()
        if gpu.free_bytes() < MEMORY_FACTOR * case.n_bytes:
            needed = MEMORY_FACTOR * case.n_bytes / 1e9
            print(f"{model}, {dtype}: left out, because it needs {needed:.0f} GB of free memory")
            continue
        steps.append((case, step_rows(case, gpu, copy_speed)))
        rows += steps[-1][1]
        save()
    # The profiler comes last: once used, it can make every later launch slower.
    print("By the profiler:")
    for case, case_rows in steps:
        free_memory()
        found = profiled(case, gpu)
        for row in case_rows:
            if not row["captured"]:
                row |= found[row["contender"]]
        save()
    print(gpu_step_table({"environment": environment(), "rows": rows}))


def free_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
