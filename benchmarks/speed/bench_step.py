"""One optimizer step on the CPU, schedule included: clrfast's optimizers against torch's with OneCycleLR.

    pytest benchmarks/speed/bench_step.py --results benchmarks/results

All contenders of a rule do the same work in one process, in turns, and must agree on the parameters before they are
timed. Before each timed step, more memory is written to than the caches hold, so the tensors come from memory.
The flat loop (flat_loop.cpp) is the machine's own limit: one loop over contiguous arrays of the same number of values.
The compiled contender keeps its momentum constant: a cycling momentum is a new number, for which torch compiles at
every step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

import clrfast

from . import shapes, timing
from .native_library import build_library
from .setting import Setting

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile warns

Step = Callable[[], Any]

MODELS = {"ResNet-56": (shapes.resnet56, 400), "ResNet-50": (shapes.resnet50, 40)}
RULES = {"SGD": {"momentum": 0.95, "weight_decay": 1e-4}, "AdamW": {"betas": (0.95, 0.999), "weight_decay": 1e-2}}
TOTAL_STEPS = 100_000
MAX_LR = 1e-3  # small, so that the values stay ordinary over all rounds
MAX_NORM = 1.0
FLAT = "a flat loop over contiguous arrays"
COMPILED = "torch.compile of the step + OneCycleLR without momentum"
ROWS: list[dict[str, Any]] = []


def parameters(model: list[shapes.Shape]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in model]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params


def stock(
    params: list[nn.Parameter], rule: str, *, clips: bool = False, compiled: bool = False, **implementation: bool
) -> Step:
    lr: Any = torch.tensor(MAX_LR) if compiled else MAX_LR  # a number would make torch compile at every step, too
    optimizer: Any = getattr(torch.optim, rule)(params, lr=lr, **RULES[rule], **implementation)
    scheduler = OneCycleLR(
        optimizer,
        MAX_LR,
        total_steps=TOTAL_STEPS,
        pct_start=0.5,
        anneal_strategy="linear",
        div_factor=10,
        cycle_momentum=not compiled,
        base_momentum=0.85,
        max_momentum=0.95,
    )
    update = torch.compile(optimizer.step) if compiled else optimizer.step
    grads = [param.grad for param in params if param.grad is not None]
    originals = [grad.clone() for grad in grads] if clips else []

    def step() -> None:
        if clips:
            nn.utils.clip_grad_norm_(params, MAX_NORM)
        update()
        scheduler.step()

    def restore() -> None:
        """Undo the clipping of the gradients, which the next step would find."""
        torch._foreach_copy_(grads, originals)

    step.restore = restore if clips else None  # type: ignore[attr-defined]
    return step


def ours(params: list[nn.Parameter], rule: str, clip_norm: float | None = None) -> Step:
    schedule = clrfast.one_cycle(
        MAX_LR,
        TOTAL_STEPS,
        tail_frac=0,
        weight_decay=float(RULES[rule]["weight_decay"]),  # type: ignore[arg-type]
    )
    options = {"betas": RULES[rule]["betas"]} if rule == "AdamW" else {}
    return getattr(clrfast, rule)(params, schedule=schedule, clip_norm=clip_norm, **options).step


@pytest.fixture(scope="module")
def flat_loop(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL | None:
    """Return flat_loop.cpp as a library; None without a compiler."""
    flags = ("-fopenmp", "-fno-math-errno", "-march=native")
    library = build_library("flat_loop.cpp", tmp_path_factory.mktemp("flat"), *flags)
    return None if library is None else ctypes.CDLL(str(library))


def flat_step(library: ctypes.CDLL, numel: int, rule: str, clips: bool) -> Step:
    """Return a call of the flat loop of ``rule`` over ``numel`` values."""
    arrays = [torch.rand(numel) for _ in range(3 if rule == "SGD" else 4)]
    pointers, n = [ctypes.c_void_p(array.data_ptr()) for array in arrays], ctypes.c_int64(numel)
    numbers = [MAX_LR, 0.9, 1e-4] if rule == "SGD" else [MAX_LR, 0.9, 0.999, 1e-8, 1e-2, 1.0]
    loop = getattr(library, f"flat_{rule.lower()}")
    call = partial(loop, *pointers, n, *map(ctypes.c_float, numbers))

    def step(keep: list[Tensor] = arrays) -> None:
        if clips:
            library.flat_norm(pointers[1], n)
        call()

    return step


def contenders_of(rule: str, clips: bool) -> dict[str, Callable[[list[nn.Parameter]], Step]]:
    """Return what makes each contender's step from its parameters; the first one is ours."""
    if clips:
        fused = f"clip_grad_norm_ + torch.optim.{rule}(fused=True) + OneCycleLR"
        return {
            f"clrfast.{rule}(schedule=one_cycle(...), clip_norm={MAX_NORM})": partial(
                ours, rule=rule, clip_norm=MAX_NORM
            ),
            fused: partial(stock, rule=rule, clips=True, fused=True),
        }
    return {
        f"clrfast.{rule}(schedule=one_cycle(...))": partial(ours, rule=rule),
        f"torch.optim.{rule}(foreach=True) + OneCycleLR": partial(stock, rule=rule, foreach=True),
        f"torch.optim.{rule}(fused=True) + OneCycleLR": partial(stock, rule=rule, fused=True),
    }


@pytest.mark.parametrize("clips", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MODELS)
def test_step(
    benchmark: Any, setting: Setting, flat_loop: ctypes.CDLL | None, name: str, rule: str, clips: bool
) -> None:
    make_shapes, rounds = (shapes.tiny, 3) if setting.tiny else MODELS[name]
    makers = contenders_of(rule, clips)
    our_name = next(iter(makers))
    if rule == "SGD" and not clips and not setting.tiny:  # compiling takes a minute
        makers[COMPILED] = partial(stock, rule=rule, compiled=True, foreach=True)
    params = {contender: parameters(make_shapes()) for contender in makers}
    numel = sum(param.numel() for param in params[our_name])
    steps = {contender: make(params[contender]) for contender, make in makers.items()}
    for _ in range(3):
        for step in steps.values():
            step()
            if getattr(step, "restore", None):
                step.restore()  # type: ignore[attr-defined]
    for contender, theirs in params.items():
        if contender != COMPILED:
            for ours_, other in zip(params[our_name], theirs, strict=True):
                # OneCycleLR peaks a fraction of a step later; over 3 of 100,000 steps that does not matter.
                torch.testing.assert_close(ours_, other, rtol=1e-5, atol=1e-6)
    if flat_loop is not None:
        steps[FLAT] = flat_step(flat_loop, numel, rule, clips)
    seconds = benchmark.pedantic(cold, args=(steps, rounds), rounds=1)
    medians = {contender: float(np.median(values)) for contender, values in seconds.items()}
    for contender, values in seconds.items():
        row = {
            "benchmark": "step",
            "model": name,
            "size": f"{len(params[our_name])} tensors, {numel:,} values",
            "rule": f"{rule}, clipped" if clips else rule,
            "contender": contender,
            **timing.statistics(values),
        }
        ROWS.append(row)
        benchmark.extra_info[contender] = row["median_us"]
    theirs_best = min(value for contender, value in medians.items() if contender not in (our_name, FLAT))
    benchmark.extra_info["best of torch over ours"] = theirs_best / medians[our_name]
    if FLAT in medians:
        benchmark.extra_info["flat loop over ours"] = medians[FLAT] / medians[our_name]
    setting.write("step", ROWS)


def cold(steps: dict[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """Time the steps in turns, each after a write to more memory than the caches hold."""
    others = torch.ones(12_000_000)  # 48 MB

    def timer(step: Step) -> float:
        others.add_(1e-9)
        elapsed = timing.wall_seconds(step)
        if getattr(step, "restore", None):
            step.restore()  # type: ignore[attr-defined]
        return elapsed

    return timing.interleaved(steps, rounds, timer=timer)
