"""The picture of a ``RateMonitor``: range tests during a training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._loss_axes import common_loss_limits, draw_smoothed, rate_axis, set_scales
from ._protocols import EpochRecord, LossCurve
from ._style import (
    DIVERGENCE_COLOR,
    RAW_COLOR,
    SUGGESTION_COLOR,
    add_legend,
    line_colors,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LEGEND_ENTRIES = 6
"""Maximum number of epochs in the legend of the curves."""


def rates(history: Sequence[EpochRecord]) -> Figure:
    """Draw what a ``RateMonitor`` measured: the suggested rate over the epochs with its interval, and the curves.

    Args:
        history: the monitor's ``history``, with at least one record.
    Returns:
        The figure; ``figure.savefig(path)`` writes the picture.
    Raises:
        ValueError: ``history`` is empty.
    """
    if not history:
        raise ValueError("history: it is empty; call the monitor at the end of each epoch, and plot after the first")
    above, below = new_figure(6.2).subplots(2, height_ratios=(1, 1.15))
    _draw_rates(above, history)
    _draw_curves(below, history)
    return above.figure


def _draw_rates(ax: Any, history: Sequence[EpochRecord]) -> None:
    """Draw the suggested rate, the rate of divergence and the optimizer's rate over the epochs."""
    entries = []
    suggested = [(record.epoch, record.suggestion) for record in history if record.suggestion is not None]
    if suggested:
        low, at, high = np.array([[found.low, found.max_lr, found.high] for _, found in suggested]).T
        epochs = [epoch for epoch, _ in suggested]
        style = {"fmt": "o-", "color": SUGGESTION_COLOR, "lw": 1.6, "ms": 5, "capsize": 3}
        bars = ax.errorbar(epochs, at, (at - low, high - at), **style)
        bars.set_label("suggested, with its interval")
        entries.append(bars)
    diverged = [(record.epoch, lr) for record in history if (lr := record.curve.divergence_lr) is not None]
    in_use = [(record.epoch, record.lr) for record in history if record.lr]
    for points, fmt, color, label in (
        (diverged, "X:", DIVERGENCE_COLOR, "diverged at"),
        (in_use, "s--", RAW_COLOR, "in use"),
    ):
        if points:
            entries += ax.plot(*zip(*points, strict=True), fmt, color=color, lw=1.1, ms=5.5, label=label)
    ax.set(yscale="log" if entries else "linear", xlabel="epoch", ylabel="learning rate")
    ax.margins(y=0.16)
    unanswered = [record.epoch for record in history if record.suggestion is None]
    if unanswered:
        # At a height in units of the axes, below all rates.
        transform = ax.get_xaxis_transform()
        entries += ax.plot(unanswered, [0.06] * len(unanswered), "x", color="black", ms=5, transform=transform)
        entries[-1].set_label("no suggestion")
    ax.xaxis.get_major_locator().set_params(integer=True)
    style_axes(ax)
    add_legend(ax, entries, "Learning rate during training")


def _draw_curves(ax: Any, history: Sequence[EpochRecord]) -> None:
    """Draw the smoothed loss of each epoch's range test against the learning rate."""
    curves = {f"epoch {record.epoch}": record.curve for record in history}
    suggestions = {f"epoch {record.epoch}": record.suggestion for record in history}
    log_limits = _log_loss_limits(curves.values())  # from epoch to epoch a loss falls by factors
    limits = log_limits or common_loss_limits(curves.values())
    scale = "linear" if log_limits is None else "log"
    set_scales(ax, curves.values(), limits)
    ax.set(yscale=scale, xlabel=rate_axis(curves.values())[1], ylabel="training loss, smoothed")
    lines = draw_smoothed(ax, curves, suggestions, limits, line_colors(len(curves), ordered=True))
    style_axes(ax)
    labelled = np.unique(np.linspace(0, len(lines) - 1, MAX_LEGEND_ENTRIES).round().astype(int))
    add_legend(ax, [lines[i] for i in labelled], None)


def _log_loss_limits(curves: Collection[LossCurve]) -> tuple[float, float] | None:
    """Return the ends of a logarithmic axis of the loss; None if a loss is not positive."""
    finite = [smooth[np.isfinite(smooth)] for smooth in (curve.smoothed for curve in curves)]
    low, high = min(smooth.min(initial=np.inf) for smooth in finite), common_loss_limits(curves)[1]
    return (0.8 * float(low), high) if 0 < low < high else None
