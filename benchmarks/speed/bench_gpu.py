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

Finally the profiler measures each kernel of an eager step, and the gaps between kernels, which it lengthens.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import clrfast

from ..environment import environment
from ..result_files import Row, write_rows
from ..tables.optimizer import gpu_step_table, kernel_summary
from . import shapes, timing
from .gpu_device import Call, DryRun, Gpu

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
        optimizer.step()  # the first step of torch's optimizers makes their buffers
        found[name] = gpu.profiled(optimizer.step)
        print(f"{case.model}, {case.dtype}, {name}: {kernel_summary(found[name])}", flush=True)
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
