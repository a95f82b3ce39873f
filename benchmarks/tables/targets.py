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
| waits of the host for the device | 0 |

The arithmetic of ResNet-56: the launch takes about 2 us, three dependent trips to memory 0.8 us each, the last stores
about 1 us; moving its 17 MB alone takes 4 us at 4.3 TB/s. The baseline is the torch that runs, 2.11 there. From 2.13 on
with CUDA 13, torch has kernel arguments of 32 KB too, which by its own report gained 13 % on an H200.""",
    "headline_gpu": """\
Not yet measured on a GPU. The target: the published 91.5 %, or little less, for the images are CIFAR-10, JPEG-q75
re-encoded; 9,310 steps in at most 95 seconds on an H200.""",
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
Not yet measured on a GPU. The targets: a 1cycle run at least twice as fast as stock torch as people write it, and 100
captured steps of ResNet-56 at batch 512 in under a second on an H200.""",
    "sweep_gpu": """\
Not yet measured on a GPU. The target: 8 copies of the digits CNN in at most twice the time of one.""",
}
"""Text in place of a table whose result file does not exist, by the name of the file."""
