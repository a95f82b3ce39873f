"""Interleaved timing, and the rows that a result file holds."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


Key = TypeVar("Key", bound=Hashable)


def wall_seconds(call: Callable[[], Any]) -> float:
    """Seconds of one call by the host's clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def finished_seconds(call: Callable[[], Any]) -> float:
    """The same, until a CUDA device that is in use has done what the call gave it to do."""

    def finish() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return wall_seconds(finish)


def interleaved(
    contenders: Mapping[Key, Callable[[], Any]],
    rounds: int,
    warm_up: int = 5,
    *,
    timer: Callable[[Callable[[], Any]], float] = wall_seconds,
    limit_s: float = math.inf,
) -> dict[Key, np.ndarray]:
    """Seconds of each call by ``timer``, ``[rounds]`` per contender; fewer rounds once ``limit_s`` seconds are over.

    Every round calls every contender once, in a new random order, so that a noisy moment hits all of them alike and
    none always finds the caches as the same neighbour left them.
    """
    rng = np.random.default_rng(0)
    names = list(contenders)
    seconds: dict[Key, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + limit_s
    for round_ in range(warm_up + rounds):
        if round_ > warm_up and time.perf_counter() > end:
            break
        for index in rng.permutation(len(names)):
            elapsed = timer(contenders[names[index]])
            if round_ >= warm_up:
                seconds[names[index]].append(elapsed)
    return {name: np.array(values) for name, values in seconds.items()}


def statistics(seconds: np.ndarray) -> dict[str, Any]:
    """Median and quartiles in microseconds, and n."""
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]) * 1e6
    return {"median_us": round(median, 1), "q25_us": round(low, 1), "q75_us": round(high, 1), "n": len(seconds)}


def ratios(seconds: np.ndarray, others: np.ndarray, name: str) -> dict[str, float]:
    """Median and quartiles of ``seconds / others``, round by round, as ``name``, ``name_q25`` and ``name_q75``."""
    low, median, high = np.quantile(seconds / others, [0.25, 0.5, 0.75])
    return {name: round(median, 3), f"{name}_q25": round(low, 3), f"{name}_q75": round(high, 3)}


def environment() -> dict[str, Any]:
    """Hardware, versions and commit (from CLRFAST_COMMIT, where a copy of the tree has no history)."""
    found = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.system(),
        "commit": commit(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda": torch.version.cuda,
            "l2_bytes": getattr(properties, "L2_cache_size", None),
        }
    return found


def commit() -> str:
    return os.environ.get("CLRFAST_COMMIT") or _output("git", "rev-parse", "--short", "HEAD")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows and environment as one JSON file, a row a line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n "environment": {json.dumps(environment())},\n "rows": [\n{lines}\n ]\n}}\n')


def kept(cache: Path | None) -> dict[str, Any]:
    """What ``keep`` wrote; nothing without a file."""
    return _floats(json.loads(cache.read_text())) if cache is not None and cache.exists() else {}


def keep(cache: Path | None, entries: dict[str, Any]) -> None:
    """Write what takes long to find as JSON, an entry a line, with 6 digits; whoever interrupts finds the old file or
    the new one. Nothing without a path."""
    if cache is None:
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(_plain(entries[name]))}" for name in sorted(entries))
    aside = cache.with_suffix(".tmp")
    aside.write_text(f"{{\n{lines}\n}}\n")
    aside.replace(cache)


def _plain(value: Any) -> Any:
    """For JSON, which has no infinity."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else "inf"
    return value


def _floats(value: Any) -> Any:
    """The inverse of ``_plain``."""
    if isinstance(value, dict):
        return {key: _floats(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_floats(x) for x in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return math.inf if value == "inf" else value


def _output(*command: str) -> str:
    """The first line that ``command`` prints; "unknown" where it fails or is not there."""
    try:
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (printed.splitlines() or ["unknown"])[0]


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or "unknown"
