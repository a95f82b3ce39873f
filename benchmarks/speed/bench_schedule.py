"""A schedule's cost on the host: one scheduler step compared with torch's, and the making of a long table.

pytest benchmarks/speed/bench_schedule.py --results benchmarks/results
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from clrfast.schedules import as_lr_scheduler, one_cycle, one_cycle_cos

from ..result_files import write_rows
from . import timing

TOTAL_STEPS = 1_000_000
OURS = "clrfast.schedules.as_lr_scheduler(one_cycle_cos(...)).step()"
BUILD = "clrfast.schedules.one_cycle(...).table()"


def scheduler_steps() -> dict[str, Callable[[], None]]:
    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)

    return {
        "torch OneCycleLR.step()": OneCycleLR(optimizer(), 0.1, total_steps=TOTAL_STEPS).step,
        OURS: as_lr_scheduler(optimizer(), one_cycle_cos(0.1, TOTAL_STEPS)).step,
    }


def test_schedule(benchmark: Any, request: pytest.FixtureRequest) -> None:
    tiny = request.config.getoption("--tiny")
    rounds = 3 if tiny else 3000
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        seconds = benchmark.pedantic(timing.interleaved, args=(scheduler_steps(), rounds), rounds=1)
    length = 1000 if tiny else TOTAL_STEPS
    build = timing.interleaved({BUILD: lambda: one_cycle(0.1, length).table()}, 1 if tiny else 20)
    table = one_cycle(0.1, length).table()
    assert table.shape == (length, 1, 3)
    assert np.isfinite(table).all()
    rows = [
        {"benchmark": "schedule", "contender": name, "total_steps": length, **timing.statistics(values)}
        for name, values in {**seconds, **build}.items()
    ]
    benchmark.extra_info.update({row["contender"]: row["median_us"] for row in rows})
    folder = request.config.getoption("--results")
    if folder is not None:
        write_rows(folder / "schedule_cpu.json", rows)
