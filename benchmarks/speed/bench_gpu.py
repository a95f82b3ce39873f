"""One optimizer step on a CUDA device: clrfast's optimizers against torch's, eager and replayed from a CUDA graph.

    python -m benchmarks.speed.bench_gpu --results benchmarks/results
    python -m benchmarks.speed.bench_gpu --dry-run    checks on any machine that it runs, measures nothing

All contenders of a case do the same work at a constant rate: the update of SGD or AdamW, with or without clipping by
the norm of all gradients. clrfast reads the rate from its schedule's table at every step; torch's optimizers have a
fixed number, so no scheduler's time counts against them. All must agree on the parameters, eager and replayed, before
they are timed.

Device time is the time between two events around a call. A kernel that sleeps comes before the first event, long enough
for the host to submit the whole call before the device reaches that event. The time thus contains no wait for the host,
and a call that waits for the device is an error. Before each call, a buffer of four times the L2 cache is written. Host
time is the time of the call alone, while the device has nothing else to do.

Finally the profiler measures each kernel of an eager step, and the gaps between kernels, which it lengthens.
"""

from __future__ import annotations

import argparse
import gc
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

Rows = list[Row]

MODELS = {"ResNet-56": shapes.resnet56, "ResNet-50": shapes.resnet50, "Llama 3.2 1B": shapes.decoder_1b}
LR, BETA1, MAX_NORM = 0.1, 0.9, 1.0  # a large rate, so that a wrong step exceeds the tolerance
WEIGHT_DECAY = {"SGD": 1e-4, "AdamW": 1e-2}
TOTAL_STEPS = 10_000
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},  # torch's kernels fuse multiplications with additions
    torch.bfloat16: {"rtol": 0.1, "atol": 0.1},  # foreach rounds every intermediate value to 8 bits
}
ACCESSES = {"SGD": 5, "AdamW": 7}
"""Memory accesses per value: parameter, gradient and states are read, parameter and states are written. Clipping reads
the gradient once more."""
MEMORY_FACTOR = {"SGD": 10, "AdamW": 18}
"""Memory that a case needs, in sizes of its parameters: 3 copies of them with their states, 1 gradient, the copies that
foreach makes, eager and in the graph, and a reserve. Clipping needs 2 more, the gradients that torch's contenders clip
in place."""
LIMIT_S = 1.5
"""Time limit of a case's device times, and of its host times, in seconds."""


@dataclass(frozen=True)
class Case:
    """A model's parameters in one dtype, and the work on them.

    Attributes:
        rule: "SGD" or "AdamW".
        clips: whether the gradients are clipped by their norm.
    """

    model: str
    shapes: list[shapes.Shape]
    dtype: torch.dtype
    rule: str = "SGD"
    clips: bool = False

    @property
    def ours(self) -> str:
        """The name of clrfast's contender."""
        return (
            f"clrfast.{self.rule}(schedule=..., clip_norm=...)" if self.clips else f"clrfast.{self.rule}(schedule=...)"
        )

    @property
    def n_values(self) -> int:
        return sum(map(math.prod, self.shapes))

    @property
    def n_bytes(self) -> int:
        return self.n_values * self.dtype.itemsize

    @property
    def bytes_moved(self) -> int:
        """Bytes that the work must move."""
        return (ACCESSES[self.rule] + self.clips) * self.n_bytes

    @property
    def bytes_needed(self) -> int:
        """Bytes of memory that all contenders need together."""
        return (MEMORY_FACTOR[self.rule] + 2 * self.clips) * self.n_bytes

    def row(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "size": f"{len(self.shapes)} tensors, {self.n_values:,} values",
            "dtype": str(self.dtype).removeprefix("torch."),
            "rule": self.rule,
            "clips": self.clips,
        }

    def __str__(self) -> str:
        return f"{self.model}, {self.dtype}, {self.rule}{' with clipping' if self.clips else ''}"


# SGD everywhere; AdamW where it is used most; clipping once per size of the work.
CASES = [
    *((model, dtype, "SGD", False) for model in MODELS for dtype in TOLERANCE),
    *((model, torch.float32, "AdamW", False) for model in MODELS),
    ("Llama 3.2 1B", torch.bfloat16, "AdamW", False),
    ("ResNet-50", torch.float32, "SGD", True),
    ("Llama 3.2 1B", torch.float32, "AdamW", True),
]


@dataclass(frozen=True)
class Contender:
    """An optimizer's step, and the parameters that it updates."""

    params: list[nn.Parameter]
    step: Call


Contenders = dict[str, Contender]


def make_contenders(case: Case, gpu: Gpu) -> Contenders:
    """Return all contenders, each with its own copy of the same parameters and with the same gradients."""
    generator = torch.Generator(gpu.device).manual_seed(0)
    options = {"generator": generator, "device": gpu.device, "dtype": case.dtype}
    start, grads = ([torch.randn(shape, **options) for shape in case.shapes] for _ in range(2))

    def params(*, clipped_in_place: bool) -> list[nn.Parameter]:
        copies = [nn.Parameter(tensor.clone()) for tensor in start]
        for param, grad in zip(copies, grads, strict=True):
            param.grad = grad.clone() if clipped_in_place else grad
        return copies

    contenders = {}
    for implementation in ("foreach", "fused"):
        contender = _torchs(case, params(clipped_in_place=case.clips), implementation, gpu.device.type == "cuda")
        contenders[_name_of_torchs(case, implementation)] = contender
    own = params(clipped_in_place=False)
    weight_decay = WEIGHT_DECAY[case.rule]
    schedule = clrfast.constant(LR, TOTAL_STEPS, momentum=BETA1, weight_decay=weight_decay)
    make: Any = getattr(clrfast, case.rule)
    ours = make(own, schedule=schedule, clip_norm=MAX_NORM if case.clips else None, backend=gpu.backend)
    ours.init_state()
    contenders[case.ours] = Contender(own, ours.step)
    return contenders


def _name_of_torchs(case: Case, implementation: str) -> str:
    capturable = ", capturable=True" if case.rule == "AdamW" else ""
    clip = "clip_grad_norm_ + " if case.clips else ""
    return f"{clip}torch.optim.{case.rule}({implementation}=True{capturable})"


def _torchs(case: Case, params: list[nn.Parameter], implementation: str, on_gpu: bool) -> Contender:
    options: dict[str, Any] = {"lr": LR, "weight_decay": WEIGHT_DECAY[case.rule], implementation: True}
    if case.rule == "SGD":
        options["momentum"] = BETA1
    else:  # SGD's step can always be captured; AdamW's needs its counts on the device
        options |= {"betas": (BETA1, 0.999), "capturable": on_gpu}
    optimizer = getattr(torch.optim, case.rule)(params, **options)

    def clipped() -> None:
        nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    return Contender(params, clipped if case.clips else optimizer.step)


@torch.no_grad()
def require_agreement(contenders: Contenders, dtype: torch.dtype) -> None:
    *theirs, ours = (contender.params for contender in contenders.values())
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
    contenders = make_contenders(case, gpu)
    calls: dict[tuple[str, bool], Call] = {}
    for captured in (False, True):
        for name, contender in contenders.items():
            call = gpu.captured(contender.step) if captured else contender.step
            calls[name, captured] = call
            for _ in range(3):
                call()
        require_agreement(contenders, case.dtype)
    seconds = {
        kind: timing.interleaved(calls, gpu.rounds, timer=timer, limit_s=LIMIT_S)
        for kind, timer in (("device", gpu.device_seconds), ("host", gpu.host_seconds))
    }
    return [
        {
            "benchmark": "step_gpu",
            **case.row(),
            "contender": key[0],
            "captured": key[1],
            **{f"{kind}_{k}": v for kind in seconds for k, v in timing.statistics(seconds[kind][key]).items()},
            "bytes": case.bytes_moved,
            "of_copy": round(case.bytes_moved / np.median(seconds["device"][key]) / copy_speed, 3),
        }
        for key in calls
    ]


def profiled(case: Case, gpu: Gpu) -> dict[str, dict[str, Any]]:
    """Return the kernels of each contender's eager step."""
    found = {}
    for name, contender in make_contenders(case, gpu).items():
        contender.step()  # the first step of torch's optimizers makes their state
        found[name] = gpu.profiled(contender.step)
        print(f"{case}, {name}: {kernel_summary(found[name])}", flush=True)
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
    for model, dtype, rule, clips in CASES:
        case = Case(model, shapes.tiny() if arguments.dry_run else MODELS[model](), dtype, rule, clips)
        free_memory()
        if gpu.free_bytes() < case.bytes_needed:
            print(f"{case}: left out, because it needs {case.bytes_needed / 1e9:.0f} GB of free memory")
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
