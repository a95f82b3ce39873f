"""What the pictures share: colours, axes, legends, and where an axis ends."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from ..finder._noise import Floats

if TYPE_CHECKING:
    from ..finder import LRCurve

# Okabe and Ito's palette and one of Tol's, which colour-blind readers can tell apart.
SMOOTHED, SUGGESTED, DIVERGED, RAW, METRIC = "#0072B2", "#009E73", "#D55E00", "#9A9A9A", "#AA4499"
SEVERAL = (SMOOTHED, DIVERGED, SUGGESTED, METRIC, "#E69F00", "#56B4E9", "#000000")

LOG_RATE_AXIS = "learning rate (log scale)"

MOST_DRAWN = 4_000
"""Points of a line: more than a picture has pixels across."""


def new_figure(height: float) -> Any:
    # A Figure of its own, not pyplot's: a library must neither open windows nor leave figures behind.
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, height), dpi=150, layout="constrained")


def plain_axes(ax: Any) -> None:
    ax.margins(x=0.02)
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def is_linear(curve: LRCurve) -> bool:
    """Whether its rates are equally far apart, as those of a linear sweep."""
    apart = np.diff(curve.lr)
    return len(apart) > 1 and np.allclose(apart, apart.mean(), rtol=1e-6, atol=0.0)


def rate_axis(curves: Collection[LRCurve]) -> tuple[str, str]:
    """Scale and label of an axis of the rate: linear for linear sweeps."""
    linear = all(map(is_linear, curves))
    return ("linear", "learning rate") if linear else ("log", LOG_RATE_AXIS)


def loss_over_rate(ax: Any, curves: Collection[LRCurve], limits: tuple[float, float]) -> None:
    """The two scales, ``limits`` being those of the loss."""
    ax.set(xscale=rate_axis(curves)[0], ylim=limits)
    ax.ticklabel_format(axis="y", useOffset=False)
    firsts = {(curve.lr[0], curve.lr[-1]) for curve in curves if len(curve.lr)}
    rates = {rate for ends in firsts for rate in ends}
    if len(rates) == 1:  # diverged at once: there is no range to show
        (rate,) = rates
        ax.set_xlim(rate / 10, rate * 10)


def add_legend(ax: Any, entries: list[Any], title: str | None) -> None:
    """Above the axes, where no data can be, in as many columns, up to three, as fit their width."""
    inches = ax.get_position().width * ax.figure.get_figwidth()
    if ax.figure.get_layout_engine() is not None:
        inches *= 1.1  # the layout's margins are less than the default ones
    lengths = [len(str(entry.get_label())) for entry in entries]

    def width(columns: int) -> float:  # roughly, in inches: a line's sample and the space beside it, then the letters
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


def colors_of(n: int, ordered: bool) -> list[Any]:
    """Of several lines: to be told apart, or from light to dark."""
    if not ordered:
        return [SEVERAL[i % len(SEVERAL)] for i in range(n)]
    import matplotlib

    return list(matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1.0, n)))


def draw_line(
    ax: Any, curve: LRCurve, lr: Floats, values: Floats, fmt: str = "-", *, alpha: float = 1.0, **style: Any
) -> Any:
    """``values`` over ``lr``, faint past the curve's divergence, where they tell nothing any more."""
    until = np.inf if curve.divergence_lr is None else curve.divergence_lr
    end = int(np.searchsorted(lr, until, side="right"))
    faint = {**style, "alpha": 0.3 * alpha, "label": None}
    (line,) = ax.plot(*_outline(lr[:end], values[:end]), fmt, alpha=alpha, **style)
    if end < len(lr):
        ax.plot(*_outline(lr[max(end - 1, 0) :], values[max(end - 1, 0) :]), fmt, **faint)
    return line


def _outline(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Both ends and, of neighbours that one pixel shows, the lowest and the highest."""
    n = len(x)
    size = -(-2 * n // MOST_DRAWN)
    if size <= 2:
        return x, y
    begins = np.arange(0, n - size + 1, size)
    parts = y[: len(begins) * size].reshape(-1, size)
    lowest, highest = (np.where(np.isnan(parts), np.inf, side * parts).argmin(1) for side in (1, -1))
    kept = np.unique(np.concatenate(([0, n - 1], begins + lowest, begins + highest)))
    return x[kept], y[kept]


def height_at(curve: LRCurve, lr: float, limits: tuple[float, float]) -> float:
    """The smoothed loss at ``lr``, within the axis."""
    smooth = np.nan_to_num(curve.smoothed, nan=limits[1])
    if is_linear(curve):
        return float(np.clip(np.interp(lr, curve.lr, smooth), *limits))
    return float(np.clip(np.interp(np.log(lr), np.log(curve.lr), smooth), *limits))


def limits_of(curves: Collection[LRCurve]) -> tuple[float, float]:
    """The range of an axis for all of them."""
    ranges = [loss_range(curve) for curve in curves]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def loss_range(curve: LRCurve, held_out: Floats | None = None) -> tuple[float, float]:
    """The axis's range: all of the smoothed loss and of the descent; the explosion is cut off."""
    finite = curve.loss[np.isfinite(curve.loss)]
    smoothed = curve.smoothed[np.isfinite(curve.smoothed)]
    if not len(finite):
        return 0.0, 1.0
    low = float(finite.min())
    usual = float(max(curve.initial_loss, np.quantile(finite, 0.75), np.median(smoothed)))
    most = float(finite.max())
    if held_out is not None and np.isfinite(held_out).any():
        measured = held_out[np.isfinite(held_out)]
        low = min(low, float(measured.min()))
        usual = max(usual, float(measured[: measured.argmin() + 1].max()))
        most = max(most, float(measured.max()))
    high = usual + 0.5 * max(usual - low, 1e-3 * abs(usual), 1e-12)
    pad = 0.08 * (high - low)
    return low - pad, min(high, most + pad) + pad
