"""The picture of one range test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..finder._metrics import VALIDATION_LOSS
from ..finder._noise import Floats, thinned
from ._style import (
    DIVERGED,
    METRIC,
    RAW,
    SMOOTHED,
    SUGGESTED,
    add_legend,
    draw_line,
    height_at,
    is_linear,
    loss_over_rate,
    loss_range,
    new_figure,
    plain_axes,
    rate_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..finder import LRCurve, Suggestion

SLOPE_DECADES = 0.15
"""Width of the weights with which a slope is fitted, in factors of ten of the rate."""

SLOPE_FRAC = 0.02
"""That width on a linear axis, as a fraction of the range of rates."""

SLOPE_POINTS = 1_000
"""Points that slopes are fitted to, each with a weight for all others."""


def lr_curve(
    curve: LRCurve,
    ax: Axes | None = None,
    *,
    suggestion: Suggestion | None = None,
    metric: bool = True,
    title: str | None = None,
) -> Axes:
    """Loss over learning rate: raw and smoothed, the suggestion, and where the loss diverged.

    The axis of the rate is logarithmic, or linear for a linear sweep. A held-out loss is drawn on the axis of the loss,
    any other metric on a second one, and further sweeps (``curve.repeats``) as thin lines. In a figure of its own, the
    change of the loss with the rate is below. Lines of more than 4,000 points are drawn by the lowest and the highest
    of neighbours.

    Args:
        curve: what ``range_test`` returned.
        ax: where to draw the loss, best in a figure with layout="constrained", which leaves room for the legend. None
            makes a figure of 6.4 x 4.8 inches, with the change of the loss.
        suggestion: marked if given, with its interval and its ``base_lr``.
        metric: whether to draw the held-out metric, where one was measured.
        title: stands above the legend, which is above the axes and hides no data. None: "Learning-rate range test" in
            a figure of its own, else none.
    Returns:
        The axes of the loss; ``ax.figure.savefig(path)`` writes the picture.
    """
    slim = None
    if ax is None:
        ax, slim = new_figure(4.8).subplots(2, sharex=True, height_ratios=(3.4, 1))
        title = title or "Learning-rate range test"
    assert ax is not None
    held_out = curve.metric if metric and curve.metric is not None and np.isfinite(curve.metric).any() else None
    is_loss = curve.metric_name == VALIDATION_LOSS
    low, high = loss_range(curve, held_out if is_loss else None)
    loss_over_rate(ax, [curve], (low, high))
    ax.set_ylabel("loss" if is_loss and held_out is not None else "training loss")
    entries = [
        draw_line(ax, curve, curve.lr, curve.loss, color=RAW, lw=0.9, alpha=0.8, label="loss per batch"),
        draw_line(ax, curve, curve.lr, curve.smoothed, color=SMOOTHED, lw=2.0, label="smoothed", zorder=3),
    ]
    faint: dict[str, Any] = {"color": SMOOTHED, "lw": 0.9, "alpha": 0.45}
    thin = [draw_line(ax, other, other.lr, other.smoothed, **faint) for other in curve.repeats]
    if thin:
        thin[0].set_label("other sweeps, smoothed")
        entries.append(thin[0])
    if held_out is not None:
        entries.append(_metric(ax, curve, held_out))
    if suggestion is not None:
        entries += _suggested(ax, curve, suggestion, (low, high))
    if curve.divergence_lr is not None:
        entries.append(_mark(ax, curve, curve.divergence_lr, (low, high), color=DIVERGED, marker="X"))
        entries[-1].set_label(f"diverged at {curve.divergence_lr:.2g}")
    plain_axes(ax)
    add_legend(ax, entries, title)
    if slim is None:
        ax.set_xlabel(rate_axis([curve])[1])
    else:
        _slope_panel(slim, curve, suggestion)
    return ax


def _metric(ax: Any, curve: LRCurve, held_out: Floats) -> Any:
    """Its line, with a marker wherever it was measured; on an axis of its own unless it is a loss."""
    is_loss = curve.metric_name == VALIDATION_LOSS
    own = ax if is_loss else ax.twinx()
    at = ~np.isnan(held_out)
    style: dict[str, Any] = {"color": METRIC, "lw": 1.0, "ms": 3, "label": curve.metric_name, "zorder": 2}
    line = draw_line(own, curve, curve.lr[at], held_out[at], "D-", **style)
    if not is_loss:
        # Behind the loss and its marks.
        ax.set_zorder(own.get_zorder() + 1)
        ax.patch.set_visible(False)
        own.set_ylabel(curve.metric_name, color=METRIC)
        own.tick_params(axis="y", colors=METRIC)
        own.spines[["top", "left", "bottom"]].set_visible(False)
        own.spines["right"].set_color(METRIC)
    return line


def _suggested(ax: Any, curve: LRCurve, suggestion: Suggestion, limits: tuple[float, float]) -> list[Any]:
    """Its mark, its interval and its lower bound; what of them the legend shows."""
    ax.axvspan(suggestion.low, suggestion.high, color=SUGGESTED, alpha=0.15, lw=0)
    mark = _mark(ax, curve, suggestion.max_lr, limits, color=SUGGESTED, marker="o")
    low, high = f"{suggestion.low:.2g}", f"{suggestion.high:.2g}"
    mark.set_label(f"suggested {suggestion.max_lr:.2g}" + (f" ({low} to {high})" if low != high else ""))
    if suggestion.base_lr == suggestion.max_lr:
        return [mark]
    # On the axis itself, its half inside.
    (base,) = ax.plot(
        suggestion.base_lr,
        0.0,
        "^",
        color="white",
        mec=SUGGESTED,
        ms=6,
        clip_on=False,
        zorder=6,
        transform=ax.get_xaxis_transform(),
        label=f"base_lr {suggestion.base_lr:.2g}",
    )
    return [mark, base]


def _mark(ax: Any, curve: LRCurve, lr: float, limits: tuple[float, float], *, color: str, marker: str) -> Any:
    """A line at ``lr``, and a marker on the smoothed loss."""
    ax.axvline(lr, color=color, lw=1.2, ls="--")
    height = height_at(curve, lr, limits)
    style = {"color": color, "ls": "--", "lw": 1.2, "mec": "white", "ms": 8, "zorder": 5, "clip_on": False}
    (mark,) = ax.plot(lr, height, marker, **style)
    return mark


def _slope_panel(ax: Any, curve: LRCurve, suggestion: Suggestion | None) -> None:
    """The loss's change with the rate, with the marks of the panel above."""
    if is_linear(curve):
        unit = 10 ** np.floor(np.log10(curve.lr[-1] - curve.lr[0]))
        change, per = unit * _change_per_rate(curve), f"{unit:g} of rate"
    else:
        change, per = _change_per_decade(curve), "tenfold rate"
    ax.axhline(0, color="black", lw=0.7, alpha=0.6)
    draw_line(ax, curve, curve.lr, change, color=SMOOTHED, lw=1.5)
    if suggestion is not None:
        ax.axvspan(suggestion.low, suggestion.high, color=SUGGESTED, alpha=0.15, lw=0)
        ax.axvline(suggestion.max_lr, color=SUGGESTED, lw=1.2, ls="--")
    if curve.divergence_lr is not None:
        ax.axvline(curve.divergence_lr, color=DIVERGED, lw=1.2, ls="--")
    # The descent fills the panel; of the explosion only the beginning is seen.
    seen = change if curve.divergence_lr is None else change[curve.lr < curve.divergence_lr]
    deepest = -float(np.nanmin(seen, initial=0.0)) or 1.0
    ax.set(ylim=(-1.2 * deepest, 0.7 * deepest), xlabel=rate_axis([curve])[1], ylabel=f"change per\n{per}")
    ax.locator_params(axis="y", nbins=4)
    plain_axes(ax)
    ax.figure.align_ylabels()


def _change_per_decade(curve: LRCurve) -> Floats:
    """``[n]``: slopes of the loss over log10(lr), fitted with weights of the width ``SLOPE_DECADES``."""
    return _slopes(np.log10(curve.lr), curve.bounded, SLOPE_DECADES)


def _change_per_rate(curve: LRCurve) -> Floats:
    """``[n]``: slopes of the loss over lr, fitted with weights of the width ``SLOPE_FRAC`` of its range."""
    return _slopes(curve.lr, curve.bounded, SLOPE_FRAC * float(curve.lr[-1] - curve.lr[0]))


def _slopes(every_x: Floats, loss: Floats, least_width: float) -> Floats:
    """``[n]``: slopes of lines fitted with Gaussian weights around each point.

    The weights' width is ``least_width``, or 0.7 times the distance to the neighbours if that is more: where the
    points are dense, differences of neighbours are noise. Between the means of a long curve slopes are interpolated.
    NaN without a second loss to compare with.
    """
    x, values = thinned(every_x, loss, SLOPE_POINTS)
    finite = np.isfinite(values)
    if finite.sum() < 2:
        return np.full(len(every_x), np.nan)
    width = np.maximum(least_width, 0.7 * np.gradient(x))
    weights = np.exp(-(((x[:, None] - x) / width[:, None]) ** 2) / 2) * finite
    weights /= weights.sum(axis=1, keepdims=True)
    dx = x - (weights @ x)[:, None]
    slopes = (weights * dx) @ np.where(finite, values, 0.0) / (weights * dx**2).sum(axis=1)
    return np.interp(every_x, x, slopes)
