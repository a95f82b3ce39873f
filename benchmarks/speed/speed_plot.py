"""docs/speed.png: the cost of range tests and the speed of 1cycle runs, from the results."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from ..environment import ROOT
from ..result_files import RESULTS

PATH = ROOT / "docs" / "speed.png"
PANELS = {
    "range_test": ("over_bare", "a range test: wall time over a bare loop's", "shorter is better"),
    "train": ("faster_by", "a 1cycle run: times the speed of stock torch", "longer is better"),
}
OURS, OTHERS = "#c8442a", "#8a8f98"
_KEY = b"Source"


def _files() -> list[str]:
    return [
        f"{name}_{device}"
        for name in PANELS
        for device in ("cpu", "gpu")
        if (RESULTS / f"{name}_{device}.json").exists()
    ]


def _digest() -> str:
    """Return a hash of all result files that the plot shows."""
    texts = [(RESULTS / f"{name}.json").read_text() for name in _files()]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def is_current() -> bool:
    """Return whether the plot shows the current results: its metadata holds their hash."""
    if not PATH.exists():
        return not _files()
    data, at = PATH.read_bytes(), 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if kind == b"tEXt" and body.startswith(_KEY + b"\0"):
            return body[len(_KEY) + 1 :].decode() == _digest()
        at += size + 12
    return False


def draw() -> None:
    """Draw one panel per result file: models as groups, contenders as bars with their quartiles."""
    from matplotlib.figure import Figure

    files = _files()
    tables = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in files}
    lengths = [_n_lines(tables[name]["rows"]) for name in files]
    figure = Figure(figsize=(8, 0.6 + sum(0.21 * n + 0.95 for n in lengths)), layout="constrained")
    axes = figure.subplots(len(files), height_ratios=[n + 4 for n in lengths], squeeze=False)[:, 0]
    for name, ax in zip(files, axes, strict=True):
        benchmark, _, device = name.rpartition("_")
        environment = tables[name]["environment"]
        where = environment.get("gpu") if device == "gpu" else f"CPU, {environment['cores']} cores"
        _panel(ax, tables[name]["rows"], *PANELS[benchmark], where)
    figure.savefig(PATH, dpi=110, metadata={_KEY.decode(): _digest(), "Software": None})


def _measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "missing" not in row]


def _n_lines(rows: list[dict[str, Any]]) -> int:
    """Return the number of bars and model names."""
    return len(_measured(rows)) + len({row["model"] for row in _measured(rows)})


def _panel(ax: Any, rows: list[dict[str, Any]], ratio: str, title: str, better: str, where: str) -> None:
    line, labels = 0, []
    for model in dict.fromkeys(row["model"] for row in _measured(rows)):
        labels.append((line, model, True))
        line += 1
        for row in (row for row in _measured(rows) if row["model"] == model):
            ours = row["contender"].startswith("clrfast")
            value, low, high = (row[key] for key in (ratio, f"{ratio}_q25", f"{ratio}_q75"))
            ax.barh(line, value, height=0.72, color=OURS if ours else OTHERS)
            ax.plot([low, high], [line, line], color="black", linewidth=1)
            ax.annotate(
                f"{value:.2f}", (max(value, high), line), (4, 0), textcoords="offset points", va="center", size=7
            )
            labels.append((line, row["contender"], False))
            line += 1
    ax.axvline(1, color="black", linewidth=0.7, linestyle=":")
    ax.set_yticks([at for at, *_ in labels], [text for _, text, _ in labels], size=7)
    for tick, (_, _, is_model) in zip(ax.get_yticklabels(), labels, strict=True):
        if is_model:
            tick.set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(line - 0.4, -0.6)
    ax.set_xlim(0, 1.12 * max(row[f"{ratio}_q75"] for row in _measured(rows)))
    ax.set_title(f"{title} ({where}; {better})", size=9, loc="left")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="x", labelsize=7)
