"""Pictures of curves; needs matplotlib (``pip install "clrfast[plot]"``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .finder import LRCurve, Suggestion

# Okabe and Ito's palette, which colour-blind readers can tell apart.
SMOOTHED, SUGGESTED, DIVERGED, RAW = "#0072B2", "#009E73", "#D55E00", "#9A9A9A"


def lr_curve(curve: LRCurve, ax: Axes | None = None, *, suggestion: Suggestion | None = None) -> Axes:
    """Loss over learning rate on a logarithmic axis: raw and smoothed, the suggestion, and where the loss diverged.

    Args:
        curve: what ``range_test`` returned.
        ax: where to draw; None makes a figure of 6.4 x 4 inches.
        suggestion: marked if given.
    Returns:
        The axes; ``ax.figure.savefig(path)`` writes the picture.
    """
    if ax is None:
        ax = _new_axes()
    smoothed = curve.smoothed
    ax.plot(curve.lr, curve.loss, color=RAW, lw=0.9, alpha=0.8, label="loss per batch")
    ax.plot(curve.lr, smoothed, color=SMOOTHED, lw=2.0, label="smoothed")
    low, high = _loss_range(curve)

    def mark(lr: float, color: str, marker: str, label: str) -> None:
        height = float(np.interp(np.log(lr), np.log(curve.lr), np.nan_to_num(smoothed, nan=high)))
        ax.axvline(lr, color=color, lw=1.2, ls="--")
        ax.plot(lr, np.clip(height, low, high), marker, color=color, ms=7, zorder=5, label=f"{label} {lr:.2g}")

    if suggestion is not None:
        mark(suggestion.max_lr, SUGGESTED, "o", "suggested")
    if curve.divergence_lr is not None:
        mark(curve.divergence_lr, DIVERGED, "X", "diverged at")
    ax.set(xscale="log", xlabel="learning rate (log scale)", ylabel="training loss", ylim=(low, high))
    ax.set_title("Learning-rate range test", loc="left", fontsize=11)
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9, loc="lower left")
    return ax


def _new_axes() -> Axes:
    # A Figure of its own, not pyplot's: a library must neither open windows nor leave figures behind.
    from matplotlib.figure import Figure

    axes: Any = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained").subplots()
    return axes


def _loss_range(curve: LRCurve) -> tuple[float, float]:
    """The axis's range: all of the smoothed loss and of the descent; the explosion is cut off."""
    finite = curve.loss[np.isfinite(curve.loss)]
    smoothed = curve.smoothed[np.isfinite(curve.smoothed)]
    if not len(finite):
        return 0.0, 1.0
    low = float(finite.min())
    usual = float(max(curve.initial_loss, np.quantile(finite, 0.75), np.median(smoothed)))
    high = usual + 0.5 * max(usual - low, 1e-12)
    pad = 0.08 * (high - low)
    return low - pad, min(high, float(finite.max()) + pad) + pad
