"""A whole 1cycle run: clrfast against stock torch, as people write it and as fast as it can be written.

    pytest benchmarks/speed/bench_train.py --results benchmarks/results [--device cuda]

Model, batch size and number of steps are the same for all. They run in one process, in turns, each from a fresh model.
Each returns the loss of every step at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast.training import DeviceDataset, TrainStep, prefetch
from clrfast.training._batches import cycle_loader
from clrfast.training._eager_step import EagerStep

from . import timing
from .setting import Setting
from .workloads import WORKLOADS

MAX_LR, WEIGHT_DECAY = 1e-3, 1e-4
LOSS = nn.CrossEntropyLoss()
BATCHES = 8
LIMIT_S = 60.0
"""Time limit of a measurement on a CPU, in seconds; no round begins after it."""

AS_WRITTEN = "torch.optim.SGD + OneCycleLR, loss.item()"
ROWS: list[dict[str, Any]] = []

Data = tuple[Tensor, Tensor]


def loader(data: Data, batch_size: int, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*data), batch_size, shuffle=True, drop_last=True, **options)


def one_cycle_lr(optimizer: torch.optim.Optimizer, steps: int) -> OneCycleLR:
    return OneCycleLR(optimizer, MAX_LR, total_steps=steps)


def as_written(model: nn.Module, device: torch.device, data: Data, batch_size: int, steps: int) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=MAX_LR, momentum=0.9, weight_decay=WEIGHT_DECAY)
    scheduler = one_cycle_lr(optimizer, steps)
    losses = []
    for _, (inputs, targets) in zip(range(steps), cycle_loader(loader(data, batch_size)), strict=False):
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        loss = LOSS(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def tuned(model: nn.Module, device: torch.device, data: Data, batch_size: int, steps: int) -> list[float]:
    """Train with stock torch, the fused optimizer and pinned memory; the host does not block before the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=MAX_LR, momentum=0.9, weight_decay=WEIGHT_DECAY, fused=True)
    scheduler = one_cycle_lr(optimizer, steps)
    batches = cycle_loader(loader(data, batch_size, pin_memory=device.type == "cuda"))
    losses = []
    for _, (inputs, targets) in zip(range(steps), batches, strict=False):
        inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        loss = LOSS(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def scheduled(model: nn.Module, steps: int) -> clrfast.SGD:
    return clrfast.SGD(model.parameters(), schedule=clrfast.one_cycle(MAX_LR, steps, weight_decay=WEIGHT_DECAY))


def recorded(optimizer: clrfast.SGD) -> list[float]:
    assert optimizer.control is not None
    return optimizer.control.losses.tolist()


def eager(model: nn.Module, device: torch.device, data: Data, batch_size: int, steps: int) -> list[float]:
    optimizer = scheduled(model, steps)
    step = EagerStep(model, lambda model, batch: LOSS(model(batch[0]), batch[1]), optimizer)
    for _, batch in zip(range(steps), prefetch(cycle_loader(loader(data, batch_size)), device), strict=False):
        step(batch)
    return recorded(optimizer)


def captured(model: nn.Module, device: torch.device, data: Data, batch_size: int, steps: int) -> list[float]:
    optimizer = scheduled(model, steps)
    step = TrainStep(model, LOSS, optimizer)
    for _, batch in zip(range(steps), prefetch(cycle_loader(loader(data, batch_size)), device), strict=False):
        step(batch)
    assert (step.eager_reason is None) == (device.type == "cuda" and steps > 2), step.eager_reason
    return recorded(optimizer)


def on_device(model: nn.Module, device: torch.device, data: Data, batch_size: int, steps: int) -> list[float]:
    optimizer = scheduled(model, steps)
    step = TrainStep(model, LOSS, optimizer)
    batches = DeviceDataset([tensor.to(device) for tensor in data], batch_size, shuffle=True, drop_last=True)
    for _, batch in zip(range(steps), cycle_loader(batches), strict=False):
        step(batch)
    return recorded(optimizer)


Run = Callable[[nn.Module, torch.device, Data, int, int], list[float]]
CONTENDERS: dict[str, Run] = {
    AS_WRITTEN: as_written,
    "torch.optim.SGD(fused=True) + OneCycleLR, no wait": tuned,
    "clrfast.SGD, eager": eager,
    "clrfast TrainStep": captured,
    "clrfast TrainStep, DeviceDataset": on_device,
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_train(benchmark: Any, setting: Setting, name: str) -> None:
    workload, steps, rounds = setting.work(name)
    data = workload.data(BATCHES)

    def once(run: Run) -> None:
        torch.manual_seed(0)
        losses = run(workload.make().to(setting.device).train(), setting.device, data, workload.batch_size, steps)
        assert len(losses) == steps
        assert all(loss < 1e3 for loss in losses)  # all recorded and finite

    calls = {who: partial(once, run) for who, run in CONTENDERS.items()}
    seconds = setting.seconds(benchmark, calls, rounds, setting.limit_s(name, LIMIT_S))
    for who, values in seconds.items():
        faster = timing.ratios(seconds[AS_WRITTEN], values, "faster_by")
        case = {"benchmark": "train", "model": name, "steps": steps, "contender": who}
        ROWS.append({**case, **timing.statistics(values), **faster})
        benchmark.extra_info[who] = faster["faster_by"]
    setting.write("train", ROWS)
