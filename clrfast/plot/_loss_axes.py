"""Axes with the loss against the learning rate: their scales and limits, and the lines on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ._protocols import Floats, LossCurve, RateSuggestion
from ._style import LINE_COLORS, LOG_RATE_LABEL

MAX_LINE_POINTS = 4_000
"""Maximum number of points of a drawn line: more than a picture has pixels across."""


def rate_axis(curves: Collection[LossCurve]) -> tuple[str, str]:
    """Return scale and label of the axis of the rate: linear if all curves have linear spacing."""
    linear = all(curve.spacing == "linear" for curve in curves)
    return ("linear", "learning rate") if linear else ("log", LOG_RATE_LABEL)


def set_scales(ax: Any, curves: Collection[LossCurve], loss_limits: tuple[float, float]) -> None:
    ax.set(xscale=rate_axis(curves)[0], ylim=loss_limits)
    ax.ticklabel_format(axis="y", useOffset=False)
    ends = {(curve.lr[0], curve.lr[-1]) for curve in curves if len(curve.lr)}
    rates = {rate for pair in ends for rate in pair}
    if len(rates) == 1:  # all diverged at the first rate: there is no range to show
        (rate,) = rates
        ax.set_xlim(rate / 10, rate * 10)


def common_loss_limits(curves: Collection[LossCurve]) -> tuple[float, float]:
    limits = [loss_limits(curve) for curve in curves]
    return min(low for low, _ in limits), max(high for _, high in limits)


def loss_limits(curve: LossCurve, val_loss: Floats | None = None) -> tuple[float, float]:
    """Return the ends of the axis of the loss.

    They include the descent of the loss, ``val_loss`` up to its minimum, and the best trials. An explosion of the loss
    is cut off.
    """
    finite = curve.loss[np.isfinite(curve.loss)]
    smoothed = curve.smoothed[np.isfinite(curve.smoothed)]
    if not len(finite):
        return 0.0, 1.0
    low = min(float(losses.min()) for losses in (finite, *(trials.loss for trials in curve.trials)))
    usual = float(max(curve.initial_loss, np.quantile(finite, 0.75), np.median(smoothed)))
    highest = float(finite.max())
    if val_loss is not None and np.isfinite(val_loss).any():
        measured = val_loss[np.isfinite(val_loss)]
        low = min(low, float(measured.min()))
        usual = max(usual, float(measured[: measured.argmin() + 1].max()))
        highest = max(highest, float(measured.max()))
    high = usual + 0.5 * max(usual - low, 1e-3 * abs(usual), 1e-12)
    pad = 0.08 * (high - low)
    return low - pad, min(high, highest + pad) + pad


def draw_line(
    ax: Any, curve: LossCurve, lr: Floats, values: Floats, fmt: str = "-", *, alpha: float = 1.0, **style: Any
) -> Any:
    """Draw ``values`` against ``lr`` and return the line; past the curve's divergence it is faint."""
    last_lr = np.inf if curve.divergence_lr is None else curve.divergence_lr
    end = int(np.searchsorted(lr, last_lr, side="right"))
    (line,) = ax.plot(*_decimate(lr[:end], values[:end]), fmt, alpha=alpha, **style)
    if end < len(lr):
        begin = max(end - 1, 0)
        ax.plot(*_decimate(lr[begin:], values[begin:]), fmt, **{**style, "alpha": 0.3 * alpha, "label": None})
    return line


def draw_smoothed(
    ax: Any,
    curves: Mapping[str, LossCurve],
    suggestions: Mapping[str, RateSuggestion | None],
    limits: tuple[float, float],
    colors: Sequence[Any],
) -> list[Any]:
    """Draw the smoothed loss of each curve, with a marker at its suggestion, and return the lines."""
    lines = []
    for number, ((name, curve), color) in enumerate(zip(curves.items(), colors, strict=True)):
        repeated_color = number >= len(LINE_COLORS) and isinstance(color, str)
        style = "--" if repeated_color else "-"
        lines.append(draw_line(ax, curve, curve.lr, curve.smoothed, style, color=color, lw=1.7, label=name))
        suggestion = suggestions.get(name)
        if suggestion is not None:
            height = smoothed_at(curve, suggestion.max_lr, limits)
            ax.plot(suggestion.max_lr, height, "o", color=color, mec="white", mew=0.8, ms=7, zorder=5)
    return lines


def smoothed_at(curve: LossCurve, lr: float, limits: tuple[float, float]) -> float:
    """Return the smoothed loss at ``lr``, clipped to ``limits``."""
    smooth = np.nan_to_num(curve.smoothed, nan=limits[1])
    if curve.spacing == "linear":
        return float(np.clip(np.interp(lr, curve.lr, smooth), *limits))
    return float(np.clip(np.interp(np.log(lr), np.log(curve.lr), smooth), *limits))


def _decimate(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Keep both ends, and the lowest and the highest of the points that share a pixel."""
    n = len(x)
    size = -(-2 * n // MAX_LINE_POINTS)
    if size <= 2:
        return x, y
    begins = np.arange(0, n - size + 1, size)
    parts = y[: len(begins) * size].reshape(-1, size)
    lowest, highest = (np.where(np.isnan(parts), np.inf, sign * parts).argmin(1) for sign in (1, -1))
    kept = np.unique(np.concatenate(([0, n - 1], begins + lowest, begins + highest)))
    return x[kept], y[kept]
