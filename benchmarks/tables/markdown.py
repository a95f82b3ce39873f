"""Parts of all tables: Markdown, times with their quartiles, hardware and versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..result_files import Row

Results = dict[str, Any]
"""A result file: ``environment`` and ``rows``."""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """Return a Markdown table; ``note`` becomes a paragraph below it."""
    lines = [_line(head), "|" + "---|" * len(head), *map(_line, rows)]
    return "\n".join([*lines, "", note] if note else lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def hardware_and_versions(results: Results, hardware: str | None = None) -> str:
    """Return hardware, torch's version and commit; ``hardware`` replaces the name of the CPU."""
    e = results["environment"]
    hardware = hardware or f"{e['cpu']}, {e['cores']} cores"
    return f"{hardware}, torch {e['torch']}, commit {e['commit']}"


def microseconds(row: Row, prefix: str = "") -> str:
    """Return median and quartiles of the times under ``prefix``; nothing if there are none."""
    if f"{prefix}median_us" not in row:
        return ""
    median, low, high = (row[f"{prefix}{name}_us"] for name in ("median", "q25", "q75"))
    return f"{median:,.1f} us ({low:,.1f} to {high:,.1f})"


def ratio(row: Row | None, name: str) -> str:
    """Return median and quartiles of the ratio ``name``, or why it is missing."""
    if row is None:
        return ""
    if "missing" in row:
        return row["missing"]
    return f"{row[name]:.2f} ({row[f'{name}_q25']:.2f} to {row[f'{name}_q75']:.2f})"


def percent(fraction: float, digits: int = 0) -> str:
    return f"{100 * fraction:.{digits}f} %"
