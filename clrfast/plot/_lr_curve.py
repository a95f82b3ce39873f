"""The picture of one range test."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from ._loss_axes import draw_line, loss_limits, rate_axis, set_scales, smoothed_at
from ._protocols import Floats, LossCurve, RateSuggestion
from ._style import (
    DIVERGENCE_COLOR,
    METRIC_COLOR,
    RAW_COLOR,
    SMOOTHED_COLOR,
    SUGGESTION_COLOR,
    TRIAL_COLOR,
    add_legend,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


TRIAL_MARKERS = "sDv"
"""Markers of the trials of each length."""


def lr_curve(
    curve: LossCurve,
    ax: Axes | None = None,
    *,
    suggestion: RateSuggestion | None = None,
    metric: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw the loss against the learning rate, raw and smoothed, with the suggestion and the point of divergence.

    The axis of the rate is logarithmic, or linear for a linear ramp. A held-out loss is drawn on the axis of the loss,
    any other metric on a second one. Trials are points at their highest rates. Further ramps (``curve.repeats``) are
    thin lines. Without ``ax``, a second panel below shows the slope: the change of the loss with the rate. A line of
        more than 4,000 points shows only the lowest and the highest of neighbouring points.

    Args:
        curve: a result of ``range_test``.
        ax: axes for the loss, best in a figure with layout="constrained", which leaves room for the legend. None
            makes a figure of 6.4 x 4.8 inches with both panels.
        suggestion: suggestion to mark, with its interval, and with its ``base_lr`` if its method is "clr_bounds".
        metric: whether to draw the held-out metric, if one was measured.
        title: text above the legend, which is above the axes and hides no data. None: "Learning-rate range test"
            without ``ax``, else no title.
    Returns:
        The axes of the loss; ``ax.figure.savefig(path)`` writes the picture.
    """
    slope_ax = None
    if ax is None:
        ax, slope_ax = new_figure(4.8).subplots(2, sharex=True, height_ratios=(3.4, 1))
        title = title or "Learning-rate range test"
    assert ax is not None
    held_out = curve.metric if metric else None
    if held_out is not None and not np.isfinite(held_out).any():
        held_out = None
    limits = loss_limits(curve, held_out if curve.metric_is_loss else None)
    set_scales(ax, [curve], limits)
    ax.set_ylabel("loss" if curve.metric_is_loss and held_out is not None else "training loss")
    entries = _draw_losses(ax, curve)
    if held_out is not None:
        entries.append(_draw_metric(ax, curve, held_out))
    entries += _draw_trials(ax, curve, limits)
    if suggestion is not None:
        entries += _draw_suggestion(ax, curve, suggestion, limits)
    if curve.divergence_lr is not None:
        entries.append(_draw_mark(ax, curve, curve.divergence_lr, limits, color=DIVERGENCE_COLOR, marker="X"))
        entries[-1].set_label(f"diverged at {curve.divergence_lr:.2g}")
    style_axes(ax)
    add_legend(ax, entries, title)
    if slope_ax is None:
        ax.set_xlabel(rate_axis([curve])[1])
    else:
        _draw_slope(slope_ax, curve, suggestion)
    return ax


def _draw_losses(ax: Any, curve: LossCurve) -> list[Any]:
    """Draw the raw and the smoothed loss, and the smoothed losses of the repeats; return the legend's entries."""
    entries = [
        draw_line(ax, curve, curve.lr, curve.loss, color=RAW_COLOR, lw=0.9, alpha=0.8, label="loss per batch"),
        draw_line(ax, curve, curve.lr, curve.smoothed, color=SMOOTHED_COLOR, lw=2.0, label="smoothed", zorder=3),
    ]
    thin: dict[str, Any] = {"color": SMOOTHED_COLOR, "lw": 0.9, "alpha": 0.45}
    repeats = [draw_line(ax, other, other.lr, other.smoothed, **thin) for other in curve.repeats]
    if repeats:
        repeats[0].set_label("other ramps, smoothed")
        entries.append(repeats[0])
    return entries


def _draw_metric(ax: Any, curve: LossCurve, held_out: Floats) -> Any:
    """Draw the metric with a marker at each measurement, on axes of its own unless it is a loss; return its line."""
    metric_ax = ax if curve.metric_is_loss else ax.twinx()
    at = ~np.isnan(held_out)
    style: dict[str, Any] = {"color": METRIC_COLOR, "lw": 1.0, "ms": 3, "label": curve.metric_name, "zorder": 2}
    line = draw_line(metric_ax, curve, curve.lr[at], held_out[at], "D-", **style)
    if not curve.metric_is_loss:
        # Behind the loss and its marks.
        ax.set_zorder(metric_ax.get_zorder() + 1)
        ax.patch.set_visible(False)
        metric_ax.set_ylabel(curve.metric_name, color=METRIC_COLOR)
        metric_ax.tick_params(axis="y", colors=METRIC_COLOR)
        metric_ax.spines[["top", "left", "bottom"]].set_visible(False)
        metric_ax.spines["right"].set_color(METRIC_COLOR)
    return line


def _draw_trials(ax: Any, curve: LossCurve, limits: tuple[float, float]) -> list[Any]:
    """Draw the loss after each trial at its highest rate, and at the upper edge of the axes what lies above it."""
    lines = []
    for trials, marker in zip(curve.trials, cycle(TRIAL_MARKERS), strict=False):
        shown = np.minimum(trials.loss, limits[1])
        style = {"color": TRIAL_COLOR, "ms": 5, "lw": 1.0, "mec": "white", "mew": 0.6, "zorder": 4, "clip_on": False}
        lines += ax.plot(trials.lr, shown, f"{marker}:", label=f"after 1cycles of {trials.steps} steps", **style)
    return lines


def _draw_suggestion(ax: Any, curve: LossCurve, suggestion: RateSuggestion, limits: tuple[float, float]) -> list[Any]:
    """Draw the suggestion, its interval and its ``base_lr`` for a cyclical rate; return the legend's entries."""
    ax.axvspan(suggestion.low, suggestion.high, color=SUGGESTION_COLOR, alpha=0.15, lw=0)
    mark = _draw_mark(ax, curve, suggestion.max_lr, limits, color=SUGGESTION_COLOR, marker="o")
    low, high = f"{suggestion.low:.2g}", f"{suggestion.high:.2g}"
    mark.set_label(f"suggested {suggestion.max_lr:.2g}" + (f" ({low} to {high})" if low != high else ""))
    if suggestion.method != "clr_bounds":
        return [mark]
    # On the axis itself, with its upper half inside.
    (base,) = ax.plot(
        suggestion.base_lr,
        0.0,
        "^",
        color="white",
        mec=SUGGESTION_COLOR,
        ms=6,
        clip_on=False,
        zorder=6,
        transform=ax.get_xaxis_transform(),
        label=f"lower bound of a cyclical rate {suggestion.base_lr:.2g}",
    )
    return [mark, base]


def _draw_mark(ax: Any, curve: LossCurve, lr: float, limits: tuple[float, float], *, color: str, marker: str) -> Any:
    """Draw a vertical line at ``lr`` and a marker on the smoothed loss; return the marker."""
    ax.axvline(lr, color=color, lw=1.2, ls="--")
    height = smoothed_at(curve, lr, limits)
    style = {"color": color, "ls": "--", "lw": 1.2, "mec": "white", "ms": 8, "zorder": 5, "clip_on": False}
    (mark,) = ax.plot(lr, height, marker, **style)
    return mark


def _draw_slope(ax: Any, curve: LossCurve, suggestion: RateSuggestion | None) -> None:
    """Draw the change of the loss with the rate, with the marks of the panel above."""
    if curve.spacing == "linear":
        unit = 10 ** np.floor(np.log10(curve.lr[-1] - curve.lr[0]))
        change, per = unit * curve.slope, f"{unit:g} of rate"
    else:
        change, per = curve.slope, "tenfold rate"
    ax.axhline(0, color="black", lw=0.7, alpha=0.6)
    draw_line(ax, curve, curve.lr, change, color=SMOOTHED_COLOR, lw=1.5)
    if suggestion is not None:
        ax.axvspan(suggestion.low, suggestion.high, color=SUGGESTION_COLOR, alpha=0.15, lw=0)
        ax.axvline(suggestion.max_lr, color=SUGGESTION_COLOR, lw=1.2, ls="--")
    if curve.divergence_lr is not None:
        ax.axvline(curve.divergence_lr, color=DIVERGENCE_COLOR, lw=1.2, ls="--")
    # The descent fills the panel; only the beginning of an explosion is visible.
    before = change if curve.divergence_lr is None else change[curve.lr < curve.divergence_lr]
    deepest = -float(np.nanmin(before, initial=0.0)) or 1.0
    ax.set(ylim=(-1.2 * deepest, 0.7 * deepest), xlabel=rate_axis([curve])[1], ylabel=f"change per\n{per}")
    ax.locator_params(axis="y", nbins=4)
    style_axes(ax)
    ax.figure.align_ylabels()
