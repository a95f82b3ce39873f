"""K copies of a model trained with K schedules in one job, against K runs one by one; the same steps on the same data.

    pytest benchmarks/speed/bench_sweep.py --results benchmarks/results [--device cuda]

The schedules are range tests for K weight decays. "one by one" is what one writes without clrfast: torch.optim.SGD and
a loop over the runs. "together" and "auto" are ``clrfast.sweep``. All run in one process, in turns, from fresh models.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast.training._batches import cycle_loader

from . import timing
from .setting import Setting
from .workloads import WORKLOADS, Workload

SMALL = replace(WORKLOADS["digits CNN, batch 64"], batch_size=16)
CASES: dict[str, tuple[Workload, int, int]] = {
    "MLP, batch 8": (replace(WORKLOADS["MLP, batch 128"], batch_size=8), 100, 7),
    "MLP, batch 128": (WORKLOADS["MLP, batch 128"], 100, 7),
    "digits CNN, batch 16": (SMALL, 100, 7),
    "digits CNN, batch 64": (WORKLOADS["digits CNN, batch 64"], 100, 7),
    "transformer, batch 64": (WORKLOADS["transformer, batch 64"], 50, 5),
}
"""Workload, steps and rounds on a CPU."""

ON_GPU = {
    name: (WORKLOADS[name], 100, 9) for name in ("digits CNN, batch 64", "MLP, batch 128", "transformer, batch 64")
}
"""Workload, steps and rounds on a GPU."""

COPIES, COPIES_ON_GPU = (1, 4, 16), (1, 8)
ONE_BY_ONE = "one by one"
ROWS: list[dict[str, Any]] = []


def one_by_one(workload: Workload, device: torch.device, data: DataLoader, decays: list[float], steps: int) -> None:
    loss_fn = nn.CrossEntropyLoss()
    for decay in decays:
        model = workload.make().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=decay)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.1)
        for _, (inputs, targets) in zip(range(steps), cycle_loader(data), strict=False):
            optimizer.zero_grad()
            loss_fn(model(inputs.to(device)), targets.to(device)).backward()
            optimizer.step()
            scheduler.step()


def ours(
    workload: Workload, device: torch.device, data: DataLoader, decays: list[float], steps: int, *, together: Any
) -> None:
    lr = clrfast.lr_ramp(1e-5, 1e-5 * 1.1**steps, steps).lr
    schedules = [clrfast.Schedule(lr=lr, weight_decay=decay, total_steps=steps) for decay in decays]
    found = clrfast.sweep(
        lambda: workload.make().to(device), nn.CrossEntropyLoss(), data, schedules, vectorize=together
    )
    assert found.steps.tolist() == [steps] * len(decays)


@pytest.mark.parametrize("copies", sorted({*COPIES, *COPIES_ON_GPU}))
@pytest.mark.parametrize("name", [*ON_GPU, *(name for name in CASES if name not in ON_GPU)])
def test_sweep(benchmark: Any, setting: Setting, name: str, copies: int) -> None:
    cases, numbers = (ON_GPU, COPIES_ON_GPU) if setting.on_gpu else (CASES, COPIES)
    if name not in cases or copies not in numbers:
        pytest.skip("on the other kind of device only")
    workload, steps, rounds = cases[name]
    if setting.tiny:
        workload, steps, rounds, copies = replace(workload, batch_size=2), 4, 1, min(copies, 2)
    data = DataLoader(TensorDataset(*workload.data(8)), workload.batch_size, shuffle=True)
    decays = [10.0**-k for k in range(1, copies + 1)]
    run: dict[str, Any] = {ONE_BY_ONE: one_by_one, "auto": partial(ours, together="auto")}
    if copies > 1:
        run["together"] = partial(ours, together=True)
    calls = {who: partial(call, workload, setting.device, data, decays, steps) for who, call in run.items()}
    seconds = setting.seconds(benchmark, calls, rounds, 3.0 if setting.on_gpu else 30.0)
    for who, values in seconds.items():
        faster = timing.ratios(seconds[ONE_BY_ONE], values, "faster_by")
        case = {"benchmark": "sweep", "model": name, "copies": copies, "steps": steps, "contender": who}
        ROWS.append({**case, **timing.statistics(values), **faster})
        benchmark.extra_info[who] = faster["faster_by"]
    setting.write("sweep", ROWS)
