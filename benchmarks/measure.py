"""Interleaved timing, and the rows that a result file holds."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 5) -> dict[str, np.ndarray]:
    """Seconds of each call, ``[rounds]`` per contender.

    Every round calls every contender once, in a new random order, so that a noisy moment hits all of them alike and
    none always finds the caches as the same neighbour left them.
    """
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(warm_up + rounds):
        for name in rng.permutation(list(contenders)):
            begin = time.perf_counter()
            contenders[name]()
            if round_ >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    return {name: np.array(values) for name, values in seconds.items()}


def statistics(seconds: np.ndarray) -> dict[str, Any]:
    """Median and quartiles in microseconds, and n."""
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]) * 1e6
    return {"median_us": round(median, 1), "q25_us": round(low, 1), "q75_us": round(high, 1), "n": len(seconds)}


def environment() -> dict[str, Any]:
    """Hardware, versions and commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.system(),
        "commit": commit.stdout.strip() or "unknown",
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows and environment as one JSON file, a row a line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n "environment": {json.dumps(environment())},\n "rows": [\n{lines}\n ]\n}}\n')


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or "unknown"
