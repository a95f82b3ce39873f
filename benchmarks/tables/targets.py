"""Measurements that are still missing, and their targets."""

from __future__ import annotations

UNMEASURED = {
    "step_gpu": """\
Not yet measured on a GPU. `bash benchmarks/gpu.sh` measures it.

| one step | target |
|---|---|
| from 25.6M parameters on | >= 90 % of the measured copy bandwidth |
| ResNet-50 in float32 on an H200 | <= 132 us of device time; >= 1.15x as fast as torch's fused |
| 1.24B parameters in float32 on an H200 | <= 6.4 ms of device time |
| ResNet-56, the L2 cache flushed | <= 6 us of device time; >= 3x as fast as torch's fused |
| host time of an eager step with 167 tensors | >= 3x less than torch's fused |
| times the host waits for the device | 0 |

An estimate for ResNet-56: the launch takes about 2 us, each of three dependent memory accesses 0.8 us, and the last
stores about 1 us; moving its 17 MB alone takes 4 us at 4.3 TB/s. The baseline is the installed torch, 2.11 there. With
CUDA 13, torch from 2.13 on also has kernel arguments of 32 KB, which it reports to gain 13 % on an H200.""",
    "recipe_engine": "Not yet measured. The targets: an overhead of at most 2 %, and 0.6 of the time with two workers.",
    "headline_gpu": """\
Not yet measured on a GPU. The target: the published 91.5 %, or slightly less because the images are CIFAR-10
re-encoded as JPEG at quality 75; 9,310 steps in at most 95 seconds on an H200.""",
    "host_gpu": """\
Not yet measured on a GPU; `pytest benchmarks/speed/bench_host.py --device cuda` measures it.

| the host's time | target |
|---|---|
| an eager step with 167 tensors | >= 3x less than torch 2.11's fused |
| the checks of one replay of ResNet-56 | <= 60 us |""",
    "range_test_gpu": """\
Not yet measured on a GPU. The target: a range test of ResNet-56 at batch 128, captured, at least 3 times as fast as the
fastest peer's.""",
    "train_gpu": """\
Not yet measured on a GPU. The targets: a 1cycle run at least twice as fast as a usual loop in stock torch, and 100
captured steps of ResNet-56 at batch 512 in under a second on an H200.""",
    "sweep_gpu": """\
Not yet measured on a GPU. The target: 8 copies of the digits CNN in at most twice the time of one.""",
}
"""Text in place of a table whose result file does not exist, by the name of the file."""
