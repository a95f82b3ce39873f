"""Pictures of curves; needs matplotlib (``pip install "clrfast[plot]"``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .schedules.schedule import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .finder import LRCurve, Suggestion
    from .schedules import Schedule

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
        ax = _new_figure(4.0).subplots()
    assert ax is not None
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


def schedule(schedule: Schedule, *, total_steps: int | None = None) -> Figure:
    """lr, momentum and weight decay over the run, one below the other; what is left to the optimizer is left out.

    Args:
        schedule: what a policy returned.
        total_steps: steps to draw; None takes the schedule's own.
    Returns:
        The figure; ``figure.savefig(path)`` writes the picture.
    """
    table = schedule.table(total_steps)
    names = [name for name in QUANTITIES if getattr(schedule, name) is not None]
    height = 2.4 + 1.3 * (len(names) - 1)
    figure = _new_figure(height)
    shares = [2.0] + [1.0] * (len(names) - 1)
    axes = figure.subplots(len(names), sharex=True, squeeze=False, height_ratios=shares)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        values = table[:, :, QUANTITIES.index(name)]
        for group in range(values.shape[1]):
            color = SMOOTHED if values.shape[1] == 1 else None
            ax.plot(values[:, group], color=color, lw=1.8, label=f"group {group}")
        ax.set_ylabel({"lr": "learning rate"}.get(name, name.replace("_", " ")))
        ax.grid(alpha=0.25, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=True)
        if name != "momentum":
            ax.set_ylim(bottom=0)
    if 1 < table.shape[1] <= 8:
        axes[0].legend(frameon=False, fontsize=9)
    axes[-1].set_xlabel("step")
    return figure


def _new_figure(height: float) -> Any:
    # A Figure of its own, not pyplot's: a library must neither open windows nor leave figures behind.
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, height), dpi=150, layout="constrained")


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
