"""One optimizer step on the CPU, schedule included: clrfast.SGD against torch.optim.SGD with OneCycleLR.

    pytest benchmarks/bench_step.py --results benchmarks/results

All contenders do the same work in one process, interleaved, and must agree on the parameters before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import clrfast

from . import measure, shapes

MODELS = {"ResNet-56": (shapes.resnet56, 400), "ResNet-50": (shapes.resnet50, 60)}
TOTAL_STEPS = 100_000
WEIGHT_DECAY = 1e-4
MAX_LR = 1e-3  # small, so that the values stay usual over all rounds
OURS = "clrfast.SGD(schedule=one_cycle(...))"
ROWS: list[dict[str, Any]] = []


def parameters(model: list[shapes.Shape]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in model]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params


def stock(params: list[nn.Parameter], **implementation: bool) -> Callable[[], None]:
    optimizer = torch.optim.SGD(params, lr=MAX_LR, momentum=0.95, weight_decay=WEIGHT_DECAY, **implementation)
    scheduler = OneCycleLR(
        optimizer,
        MAX_LR,
        total_steps=TOTAL_STEPS,
        pct_start=0.5,
        anneal_strategy="linear",
        div_factor=10,
        base_momentum=0.85,
        max_momentum=0.95,
    )

    def step() -> None:
        optimizer.step()
        scheduler.step()

    return step


def ours(params: list[nn.Parameter]) -> Callable[[], None]:
    schedule = clrfast.one_cycle(MAX_LR, TOTAL_STEPS, tail_frac=0, weight_decay=WEIGHT_DECAY)
    return clrfast.SGD(params, schedule=schedule).step


@pytest.mark.parametrize("name", MODELS)
def test_step(benchmark: Any, request: pytest.FixtureRequest, name: str) -> None:
    make_shapes, rounds = MODELS[name]
    if request.config.getoption("--tiny"):
        make_shapes, rounds = shapes.tiny, 3
    params = {contender: parameters(make_shapes()) for contender in ("foreach", "fused", OURS)}
    contenders = {
        "torch.optim.SGD(foreach=True) + OneCycleLR": stock(params["foreach"], foreach=True),
        "torch.optim.SGD(fused=True) + OneCycleLR": stock(params["fused"], fused=True),
        OURS: ours(params[OURS]),
    }
    for _ in range(3):
        for step in contenders.values():
            step()
    for ours_, theirs in zip(params[OURS], params["fused"], strict=True):
        # OneCycleLR peaks a fraction of a step elsewhere; over 3 of 100,000 steps that is nothing.
        torch.testing.assert_close(ours_, theirs, rtol=1e-5, atol=1e-6)

    seconds = benchmark.pedantic(measure.interleaved, args=(contenders, rounds), rounds=1)
    size = f"{len(params[OURS])} tensors, {sum(p.numel() for p in params[OURS]):,} values"
    best = min(float(torch.tensor(s).median()) for c, s in seconds.items() if c != OURS)
    for contender, values in seconds.items():
        row = {"benchmark": "step", "model": name, "size": size, "contender": contender, **measure.statistics(values)}
        ROWS.append(row)
        benchmark.extra_info[contender] = row["median_us"]
    benchmark.extra_info["better of torch over ours"] = best / float(torch.tensor(seconds[OURS]).median())
    folder = request.config.getoption("--results")
    if folder is not None:
        measure.write(folder / "step_cpu.json", ROWS)
