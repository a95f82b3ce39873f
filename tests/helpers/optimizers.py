"""Helpers for tests of optimizers: backends, a tolerance table, a grid of options, parameters and their steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from clrfast import _native, _torch_compat

NO_NATIVE = "the native backend 'cpp' is missing"
"""Start of the warning that every optimizer gives in an install without the native module."""

COMPARES_QUICKLY = _native.why_missing is None and _torch_compat.EXCHANGE_API is not None
"""Whether a replay's checks are the compiled ones."""

# Backend "cuda" runs its kernels on the CPU, except in tests marked `gpu`; see conftest.py.
CPP = pytest.param("cpp", marks=pytest.mark.skipif(_native.why_missing is not None, reason="no native backend"))
GPU = pytest.param("cuda", id="gpu", marks=pytest.mark.gpu)
past_the_end = pytest.mark.filterwarnings("ignore:the schedule has ended")
"""For tests of what happens past a schedule's end; the warning has its own test."""
KERNELS = ["cuda", GPU]
NATIVE = [CPP, *KERNELS]
BACKENDS = ["torch", CPP, "cuda"]

# Relative to the largest value of a tensor, after `n` steps. One step rounds each of its about five operations once
# (half an ulp each) in either implementation; errors of earlier steps decay or add up linearly.
#   float32, float64: both implementations round every operation; torch contracts some, we do not: 5 ulp a step.
#   float16, bfloat16: we compute in float32 and round once a step; torch's loop rounds every operation: 8 ulp a step.
ULPS_PER_STEP = {torch.float32: 5, torch.float64: 5, torch.float16: 8, torch.bfloat16: 8}
DTYPES = list(ULPS_PER_STEP)

SHAPES = [(3, 4), (5,), (), (0,), (4097,), (70_001,)]
"""Scalars, empty tensors, and sizes of one chunk of a kernel and of several."""

LIMITS = [(0,), (), (1,), (3,), (4,), (1023,), (4095,), (4096,), (4097,), (12293,), (65537,), (7, 5, 3)]
"""Sizes around the limits: chunks of 4,096 elements in the kernel and of 65,536 on the CPU, ends of 128-bit loads."""

OPTIONS = [
    {"momentum": m, "dampening": d, "weight_decay": w, "nesterov": n, "maximize": x}
    for m, d, w, n, x in itertools.product((0.0, 0.9), (0.0, 0.3), (0.0, 0.05), (False, True), (False, True))
    if not (n and (m == 0 or d != 0))
]


def option_id(options: dict[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items() if value) or "plain"


def randn(shapes: Iterable[tuple[int, ...]], seed: int) -> list[Tensor]:
    """Draw tensors on the default device; the values are the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    values = [torch.randn(shape, generator=generator, device="cpu") for shape in shapes]
    return [value.to(torch.get_default_device()) for value in values]


def make_params(
    shapes: Iterable[tuple[int, ...]], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[nn.Parameter]:
    return [nn.Parameter(value.to(dtype)) for value in randn(shapes, seed)]


def give_grads(params: Iterable[Tensor], seed: int) -> None:
    params = list(params)
    for param, value in zip(params, randn([param.shape for param in params], 1000 + seed), strict=True):
        param.grad = value.to(param.dtype)


def run_steps(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    steps: int,
    shapes: Iterable[tuple[int, ...]] = ((3, 4), (5,), (), (0,)),
    dtype: torch.dtype = torch.float32,
    before_step: Callable[[int, torch.optim.Optimizer, list[nn.Parameter]], None] | None = None,
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """Step an optimizer ``steps`` times, always from the same values; return its parameters and the optimizer."""
    params = make_params(shapes, dtype)
    optimizer = make(params)
    for step in range(steps):
        give_grads(params, step)
        if before_step is not None:
            before_step(step, optimizer, params)
        optimizer.step()
    return params, optimizer


def assert_same(left: Iterable[Tensor], right: Iterable[Tensor]) -> None:
    """Require equal bits (NaN equals NaN)."""
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m, i=index: f"tensor {i}: {m}")


def assert_near(ours: Iterable[Tensor], theirs: Iterable[Tensor], steps: int) -> None:
    """Require the precision that ``ULPS_PER_STEP`` promises after ``steps`` steps."""
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == b.dtype
        if b.numel():
            scale = max(b.detach().abs().max().item(), 1.0)
            limit = steps * ULPS_PER_STEP[b.dtype] * torch.finfo(b.dtype).eps * scale
            difference = (a.detach().double() - b.detach().double()).abs().max().item()
            assert difference <= limit, f"tensor {index}: differs by {difference}, allowed {limit}"


def momentum_buffers(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the momentum buffers of an optimizer, in the order of its state."""
    return [state["momentum_buffer"] for state in optimizer.state.values() if "momentum_buffer" in state]
