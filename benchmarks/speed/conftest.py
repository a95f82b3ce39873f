"""Options of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ..result_files import write_rows
from . import timing
from .workloads import DEFAULT, GPU_LIMIT_S, ON_CPU, ON_GPU_LIMIT_S, WORKLOADS, Workload

Seconds = dict[str, np.ndarray]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tiny", action="store_true", help="tiny models, few rounds: checks that it runs, measures nothing"
    )
    parser.addoption("--results", type=Path, help="folder for the result files (default: none are written)")
    parser.addoption("--device", default="cpu", help="cpu (the default) or cuda, where a benchmark knows both")


@dataclass(frozen=True)
class Setting:
    """Where and how a benchmark runs."""

    tiny: bool
    device: torch.device
    folder: Path | None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def work(self, name: str) -> tuple[Workload, int, int]:
        """The workload of this name, and the steps and rounds to measure it with; skips one that is for GPUs."""
        chosen = DEFAULT if self.on_gpu else ON_CPU.get(name, DEFAULT)
        if chosen is None:
            pytest.skip("for GPUs")
        return (replace(WORKLOADS[name], batch_size=2), 5, 1) if self.tiny else (WORKLOADS[name], *chosen)

    def limit_s(self, name: str, on_cpu: float) -> float:
        """Seconds that the workload of this name is measured for."""
        return ON_GPU_LIMIT_S.get(name, GPU_LIMIT_S) if self.on_gpu else on_cpu

    def seconds(
        self,
        benchmark: Any,
        calls: Mapping[str, Callable[[], Any]],
        rounds: int,
        limit_s: float,
        warm_up: int = 1,
    ) -> Seconds:
        """Of each call, interleaved with the others, until the device has done its work, after ``warm_up`` rounds."""
        options = {"warm_up": 0 if self.tiny else warm_up, "limit_s": limit_s, "timer": timing.finished_seconds}
        return benchmark.pedantic(timing.interleaved, args=(calls, rounds), kwargs=options, rounds=1)

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        """All rows so far, as ``name_cpu.json`` or ``name_gpu.json``."""
        if self.folder is not None:
            write_rows(self.folder / f"{name}_{'gpu' if self.on_gpu else 'cpu'}.json", rows)


@pytest.fixture
def setting(request: pytest.FixtureRequest) -> Setting:
    option = request.config.getoption
    return Setting(option("--tiny"), torch.device(option("--device")), option("--results"))
