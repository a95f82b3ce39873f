"""One optimizer step on the CPU, schedule included: clrfast.SGD against torch.optim.SGD with OneCycleLR.

    pytest benchmarks/speed/bench_step.py --results benchmarks/results

All contenders do the same work in one process, in turns, and must agree on the parameters before they are timed. The
compiled one keeps its momentum constant: a cycling momentum is a new number, for which torch compiles at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import clrfast

from . import shapes, timing
from .setting import Setting

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile warns

MODELS = {"ResNet-56": (shapes.resnet56, 400), "ResNet-50": (shapes.resnet50, 60)}
TOTAL_STEPS = 100_000
WEIGHT_DECAY = 1e-4
MAX_LR = 1e-3  # small, so that the values stay ordinary over all rounds
OURS = "clrfast.SGD(schedule=one_cycle(...))"
FUSED = "torch.optim.SGD(fused=True) + OneCycleLR"
COMPILED = "torch.compile of the step + OneCycleLR without momentum"
ROWS: list[dict[str, Any]] = []


def parameters(model: list[shapes.Shape]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in model]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params


def stock(params: list[nn.Parameter], *, compiled: bool = False, **implementation: bool) -> Callable[[], None]:
    lr: Any = torch.tensor(MAX_LR) if compiled else MAX_LR  # a number would make torch compile at every step, too
    optimizer = torch.optim.SGD(params, lr=lr, momentum=0.95, weight_decay=WEIGHT_DECAY, **implementation)
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

    def step() -> None:
        update()
        scheduler.step()

    return step


def ours(params: list[nn.Parameter]) -> Callable[[], None]:
    schedule = clrfast.one_cycle(MAX_LR, TOTAL_STEPS, tail_frac=0, weight_decay=WEIGHT_DECAY)
    return clrfast.SGD(params, schedule=schedule).step


@pytest.mark.parametrize("name", MODELS)
def test_step(benchmark: Any, setting: Setting, name: str) -> None:
    make_shapes, rounds = (shapes.tiny, 3) if setting.tiny else MODELS[name]
    makers: dict[str, Callable[[list[nn.Parameter]], Callable[[], None]]] = {
        "torch.optim.SGD(foreach=False) + OneCycleLR": partial(stock, foreach=False),
        "torch.optim.SGD(foreach=True) + OneCycleLR": partial(stock, foreach=True),
        FUSED: partial(stock, fused=True),
        OURS: ours,
    }
    if not setting.tiny:  # compiling takes a minute
        makers[COMPILED] = partial(stock, compiled=True, foreach=True)
    params = {contender: parameters(make_shapes()) for contender in makers}
    contenders = {contender: make(params[contender]) for contender, make in makers.items()}
    for _ in range(3):
        for step in contenders.values():
            step()
    for contender, theirs in params.items():
        if contender != COMPILED:
            for ours_, other in zip(params[OURS], theirs, strict=True):
                # OneCycleLR peaks a fraction of a step later; over 3 of 100,000 steps that does not matter.
                torch.testing.assert_close(ours_, other, rtol=1e-5, atol=1e-6)

    seconds = benchmark.pedantic(timing.interleaved, args=(contenders, rounds), rounds=1)
    size = f"{len(params[OURS])} tensors, {sum(p.numel() for p in params[OURS]):,} values"
    best = min(float(torch.tensor(s).median()) for c, s in seconds.items() if c != OURS)
    for contender, values in seconds.items():
        row = {"benchmark": "step", "model": name, "size": size, "contender": contender, **timing.statistics(values)}
        ROWS.append(row)
        benchmark.extra_info[contender] = row["median_us"]
    benchmark.extra_info["better of torch over ours"] = best / float(torch.tensor(seconds[OURS]).median())
    setting.write("step", ROWS)
