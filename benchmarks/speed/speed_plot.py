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
    "range_test": ("over_bare", "Range test: wall time over a bare loop's", "left is better", "a bare loop"),
    "train": (
        "faster_by",
        "1cycle run: times the speed of stock torch",
        "right is better",
        "torch.optim.SGD + OneCycleLR, loss.item()",
    ),
}
"""For each benchmark: its ratio, the title, the better direction, and the contender that is 1 by definition."""

OUR_COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499")
PEER_MARKERS = ("s", "^", "D", "v", "P")
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
    """Draw one panel per result file: a row per model, a dot per contender, a line between its quartiles."""
    from matplotlib.figure import Figure

    files = _files()
    tables = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in files}
    n_models = [len({row["model"] for row in tables[name]["rows"]}) for name in files]
    figure = Figure(figsize=(8, sum(0.5 * n + 1.3 for n in n_models)), layout="constrained")
    axes = figure.subplots(len(files), height_ratios=[n + 1.5 for n in n_models], squeeze=False)[:, 0]
    for name, ax in zip(files, axes, strict=True):
        benchmark, _, device = name.rpartition("_")
        environment = tables[name]["environment"]
        where = environment.get("gpu") if device == "gpu" else f"CPU, {environment['cores']} cores"
        _panel(ax, tables[name]["rows"], *PANELS[benchmark], where)
    figure.savefig(PATH, dpi=150, metadata={_KEY.decode(): _digest(), "Software": None})


def _panel(ax: Any, rows: list[dict[str, Any]], ratio: str, title: str, better: str, baseline: str, where: str) -> None:
    measured = [row for row in rows if "missing" not in row and row["contender"] != baseline]
    models = list(dict.fromkeys(row["model"] for row in measured))
    contenders = list(dict.fromkeys(row["contender"] for row in measured))
    ours = [name for name in contenders if name.startswith("clrfast")]
    peers = [name for name in contenders if name not in ours]
    for at, name in enumerate([*ours, *peers]):
        of = [row for row in measured if row["contender"] == name]
        offset = 0.7 * (at / max(len(contenders) - 1, 1) - 0.5)
        lines = [models.index(row["model"]) + offset for row in of]
        style = (
            {"color": OUR_COLORS[ours.index(name)], "marker": "o"}
            if name in ours
            else {"color": "#6b6b6b", "marker": PEER_MARKERS[peers.index(name)], "mfc": "white"}
        )
        values = [row[ratio] for row in of]
        errors = [[row[ratio] - row[f"{ratio}_q25"] for row in of], [row[f"{ratio}_q75"] - row[ratio] for row in of]]
        ax.errorbar(values, lines, xerr=errors, label=name, ls="none", ms=5, elinewidth=1, **style)
    ax.axvline(1, color="black", linewidth=1, label=baseline)
    for border in range(len(models) - 1):
        ax.axhline(border + 0.5, color="#dddddd", linewidth=0.8)
    ax.set_yticks(range(len(models)), models)
    ax.set_ylim(len(models) - 0.45, -0.55)
    ax.set_title(f"{title} ({where}; {better})", size=10, loc="left")
    ax.grid(axis="x", alpha=0.25, lw=0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="both", labelsize=8.5)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
