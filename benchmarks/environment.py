"""Hardware, versions and commit, which every result records."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
"""Root of the checkout."""


def environment() -> dict[str, Any]:
    """Return hardware, versions and commit as the entries of a JSON object."""
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
            "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda": torch.version.cuda,
            "l2_bytes": getattr(properties, "L2_cache_size", None),
        }
    return found


def commit() -> str:
    """Return the short commit hash: CLRFAST_COMMIT if set, else what git says."""
    return os.environ.get("CLRFAST_COMMIT") or _first_line("git", "rev-parse", "--short", "HEAD")


def _first_line(*command: str) -> str:
    """Return the first line that ``command`` prints, or "unknown" if it fails or does not exist."""
    try:
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (printed.splitlines() or ["unknown"])[0]


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or "unknown"
