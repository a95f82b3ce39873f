"""One scheduled update of each case, to be profiled with Nsight Compute.

    ncu --profile-from-start off --clock-control none python3 -m benchmarks.speed.ncu_target
    python -m benchmarks.speed.ncu_target --dry-run    tiny models on the CPU, without a profiler

The cases come in the order of CASES. Each is printed before its kernels.
"""

from __future__ import annotations

import argparse
import contextlib

import torch

from .bench_gpu import MODELS, Case, make_contenders
from .gpu_device import DryRun, Gpu
from .shapes import tiny

CASES = [
    ("ResNet-50", torch.float32, "SGD", False),
    ("ResNet-50", torch.bfloat16, "SGD", False),
    ("ResNet-56", torch.float32, "SGD", False),
    ("ResNet-50", torch.float32, "AdamW", True),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU")
    dry = parser.parse_args().dry_run
    gpu = DryRun() if dry else Gpu()
    for model, *work in CASES:
        case = Case(model, tiny() if dry else MODELS[model](), *work)
        contender = make_contenders(case, gpu)[case.ours]
        contender.step()
        gpu.synchronize()
        print(f"{case}, {case.n_bytes:,} bytes of parameters", flush=True)
        with contextlib.nullcontext() if dry else torch.cuda.profiler.profile():
            contender.step()
            gpu.synchronize()


if __name__ == "__main__":
    main()
