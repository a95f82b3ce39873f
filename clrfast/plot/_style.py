"""Colours, figures, axes and legends of all pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

# From the palette of Okabe and Ito and one of Tol's: readers with colour blindness can distinguish them.
SMOOTHED_COLOR = "#0072B2"
SUGGESTION_COLOR = "#009E73"
DIVERGENCE_COLOR = "#D55E00"
RAW_COLOR = "#9A9A9A"
METRIC_COLOR = "#AA4499"
TRIAL_COLOR = "#E69F00"
LINE_COLORS = (SMOOTHED_COLOR, DIVERGENCE_COLOR, SUGGESTION_COLOR, METRIC_COLOR, "#E69F00", "#56B4E9", "#000000")
"""Colours of several lines without an order."""

LOG_RATE_LABEL = "learning rate (log scale)"


def new_figure(height: float) -> Any:
    """Return a figure of 6.4 inches x ``height``.

    It is not pyplot's: a library must neither open windows nor keep figures alive.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, height), dpi=150, layout="constrained")


def style_axes(ax: Any) -> None:
    ax.margins(x=0.02)
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def add_legend(ax: Any, entries: list[Any], title: str | None) -> None:
    """Add a legend above the axes, where it hides no data, with up to three columns if they fit."""
    inches = ax.get_position().width * ax.figure.get_figwidth()
    if ax.figure.get_layout_engine() is not None:
        inches *= 1.1  # the layout's margins are narrower than the default ones
    lengths = [len(str(entry.get_label())) for entry in entries]

    def width(columns: int) -> float:
        """Estimate the width in inches: line samples, spaces and letters."""
        return sum(0.55 + 0.06 * max(column) for column in np.array_split(lengths, columns)) - 0.2

    columns = min(3 if len(entries) > 4 else 2, len(entries))
    while columns > 1 and width(columns) > inches:
        columns -= 1
    ax.legend(
        handles=entries,
        title=title,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.3,
        borderpad=0.2,
        ncols=columns,
        alignment="left",
        columnspacing=1.6,
        frameon=False,
        fontsize=8.5,
        title_fontsize=11,
    )


def line_colors(n: int, *, ordered: bool) -> list[Any]:
    """Return ``n`` colours: from light to dark if ``ordered``, else distinct ones that repeat after seven."""
    if not ordered:
        return [LINE_COLORS[i % len(LINE_COLORS)] for i in range(n)]
    import matplotlib

    return list(matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1.0, n)))
