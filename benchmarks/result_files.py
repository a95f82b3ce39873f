"""The JSON files in ``results/``: rows of measurements, and caches of what takes hours to compute."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .environment import ROOT, environment

RESULTS = ROOT / "benchmarks" / "results"
"""Folder of the results that the README shows."""

Row = dict[str, Any]
"""One measurement, as a JSON object."""


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write the environment and ``rows`` as one JSON file, one row per line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n "environment": {json.dumps(environment())},\n "rows": [\n{lines}\n ]\n}}\n')


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of ``write_rows``; none if the file does not exist."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def rounded(value: float) -> float:
    """Return ``value`` with four significant digits."""
    return float(f"{value:.4g}")


def read_cache(path: Path | None) -> dict[str, Any]:
    """Return the entries that ``write_cache`` wrote; none without a file."""
    return _from_json(json.loads(path.read_text())) if path is not None and path.exists() else {}


def write_cache(path: Path | None, entries: dict[str, Any]) -> None:
    """Write ``entries`` as JSON, one per line, numbers with six significant digits; do nothing without a path.

    The file is replaced atomically: an interrupted call leaves the old file or the new one.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(_to_json(entries[name]))}" for name in sorted(entries))
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(f"{{\n{lines}\n}}\n")
    unfinished.replace(path)


def _to_json(value: Any) -> Any:
    """Round floats, and write infinity as "inf": JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _to_json(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(x) for x in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else "inf"
    return value


def _from_json(value: Any) -> Any:
    """The inverse of ``_to_json``; integers become floats."""
    if isinstance(value, dict):
        return {key: _from_json(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_from_json(x) for x in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return math.inf if value == "inf" else value
