"""The settings of a benchmark run, from its command line."""

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


@dataclass(frozen=True)
class Setting:
    """The settings of a benchmark run.

    Attributes:
        tiny: checks that the benchmark runs, and measures nothing.
        device: to train on.
        folder: for the result files; None writes none.
    """

    tiny: bool
    device: torch.device
    folder: Path | None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def work(self, name: str) -> tuple[Workload, int, int]:
        """Return the workload of this name, its steps and its rounds; skip the test if the workload is for GPUs."""
        chosen = DEFAULT if self.on_gpu else ON_CPU.get(name, DEFAULT)
        if chosen is None:
            pytest.skip("for GPUs")
        return (replace(WORKLOADS[name], batch_size=2), 5, 1) if self.tiny else (WORKLOADS[name], *chosen)

    def limit_s(self, name: str, on_cpu: float) -> float:
        """Return the time limit of a measurement, in seconds; ``on_cpu`` is that on a CPU."""
        return ON_GPU_LIMIT_S.get(name, GPU_LIMIT_S) if self.on_gpu else on_cpu

    def seconds(
        self,
        benchmark: Any,
        calls: Mapping[str, Callable[[], Any]],
        rounds: int,
        limit_s: float,
        warm_up: int = 1,
    ) -> Seconds:
        """Time ``calls`` in turns, each until the device has finished; ``warm_up`` rounds are not timed."""
        options = {"warm_up": 0 if self.tiny else warm_up, "limit_s": limit_s, "timer": timing.finished_seconds}
        return benchmark.pedantic(timing.interleaved, args=(calls, rounds), kwargs=options, rounds=1)

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write all rows so far to ``name_cpu.json`` or ``name_gpu.json``."""
        if self.folder is not None:
            write_rows(self.folder / f"{name}_{'gpu' if self.on_gpu else 'cpu'}.json", rows)
