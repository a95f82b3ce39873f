"""Pictures of several range tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..finder._suggestion import NoSuggestionError
from ._style import (
    DIVERGED,
    RAW,
    SEVERAL,
    SUGGESTED,
    add_legend,
    colors_of,
    draw_line,
    height_at,
    limits_of,
    loss_over_rate,
    new_figure,
    plain_axes,
    rate_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..finder import LRCurve, RateRecord, Suggestion


def lr_curves(
    curves: Mapping[str, LRCurve],
    ax: Axes | None = None,
    *,
    suggestions: bool | Mapping[str, Suggestion | None] = True,
    ordered: bool = False,
    title: str | None = None,
) -> Axes:
    """Several smoothed losses over the learning rate in one picture, each with what it suggests.

    In a figure of its own, a list below has a row for each curve, with its name, its suggestion and the interval; in
    given axes all but the intervals is in the legend.

    Args:
        curves: by the name to show.
        ax: where to draw; None makes a figure of 6.4 inches, with the list.
        suggestions: whether to mark ``curve.suggest()``; or the suggestions by name, None for a curve without one.
        ordered: the names are steps of one quantity (weight decays, epochs): colours from light to dark.
        title: None: "Learning-rate range tests" in a figure of its own, else none.
    Returns:
        The axes of the losses; ``ax.figure.savefig(path)`` writes the picture.
    Raises:
        ValueError: no curves, or no names for them.
    """
    if not isinstance(curves, Mapping):
        raise ValueError(f"curves: got {type(curves).__name__}; give a dict of curves by the name to show")
    if not curves:
        raise ValueError("curves: got none; give at least one, by the name to show")
    found = _suggestions_of(curves, suggestions)
    listed = None
    if ax is None and found:
        rows = 0.45 + 0.19 * len(curves)
        ax, listed = new_figure(3.6 + rows).subplots(2, sharex=True, height_ratios=(3.2, rows))
        ax.set_title(title or "Learning-rate range tests", loc="left", fontsize=11)
    elif ax is None:
        ax, title = new_figure(4.0).subplots(), title or "Learning-rate range tests"
    assert ax is not None
    limits = limits_of(curves.values())
    loss_over_rate(ax, curves.values(), limits)
    ax.set_ylabel("training loss, smoothed")
    entries = _several(ax, curves, found, limits, colors_of(len(curves), ordered))
    if listed is None:
        for entry in entries:
            name = entry.get_label()
            if name in found:
                answer = found[name]
                entry.set_label(f"{name}: {'no suggestion' if answer is None else f'{answer.max_lr:.2g}'}")
    plain_axes(ax)
    if listed is None:
        ax.set_xlabel(rate_axis(curves.values())[1])
        add_legend(ax, entries, title)
    else:
        _list_panel(listed, found, entries, rate_axis(curves.values())[1])
    return ax


def rates(history: Sequence[RateRecord]) -> Figure:
    """What ``RateMonitor`` measured: the suggested rate over the epochs, with its interval, and the curves themselves.

    Args:
        history: its records, at least one.
    Returns:
        The figure; ``figure.savefig(path)`` writes the picture.
    Raises:
        ValueError: no records.
    """
    if not history:
        raise ValueError("history: it is empty; call the monitor at the end of each epoch, and plot after the first")
    above, below = new_figure(6.2).subplots(2, height_ratios=(1, 1.15))
    entries = []
    answers = [(record.epoch, record.suggestion) for record in history if record.suggestion is not None]
    if answers:
        low, at, high = np.array([[found.low, found.max_lr, found.high] for _, found in answers]).T
        epochs = [epoch for epoch, _ in answers]
        bars = above.errorbar(epochs, at, (at - low, high - at), fmt="o-", color=SUGGESTED, lw=1.6, ms=5, capsize=3)
        bars.set_label("suggested, with its interval")
        entries.append(bars)
    diverged = [(record.epoch, lr) for record in history if (lr := record.curve.divergence_lr) is not None]
    in_use = [(record.epoch, record.lr) for record in history if record.lr]
    for points, style, color, label in (
        (diverged, "X:", DIVERGED, "diverged at"),
        (in_use, "s--", RAW, "in use"),
    ):
        if points:
            entries += above.plot(*zip(*points, strict=True), style, color=color, lw=1.1, ms=5.5, label=label)
    above.set(yscale="log" if entries else "linear", xlabel="epoch", ylabel="learning rate")
    above.margins(y=0.16)
    silent = [record.epoch for record in history if record.suggestion is None]
    if silent:
        # In the axes' units of height, below all rates: it is none.
        where = above.get_xaxis_transform()
        entries += above.plot(silent, [0.06] * len(silent), "x", color="black", ms=5, transform=where)
        entries[-1].set_label("no suggestion")
    above.xaxis.get_major_locator().set_params(integer=True)
    plain_axes(above)
    add_legend(above, entries, "Learning rate while training goes on")
    curves = {f"epoch {record.epoch}": record.curve for record in history}
    suggested = {f"epoch {record.epoch}": record.suggestion for record in history}
    log_limits = _log_limits(curves.values())  # from epoch to epoch a loss falls by factors
    limits = log_limits or limits_of(curves.values())
    scale = "linear" if log_limits is None else "log"
    loss_over_rate(below, curves.values(), limits)
    below.set(yscale=scale, xlabel=rate_axis(curves.values())[1], ylabel="training loss, smoothed")
    lines = _several(below, curves, suggested, limits, colors_of(len(curves), ordered=True))
    plain_axes(below)
    add_legend(below, [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, 6).round().astype(int))], None)
    return above.figure


def _several(
    ax: Any,
    curves: Mapping[str, LRCurve],
    suggestions: Mapping[str, Suggestion | None],
    limits: tuple[float, float],
    colors: Sequence[Any],
) -> list[Any]:
    """The smoothed losses, by name, with a marker at each suggestion."""
    lines = []
    for number, ((name, curve), color) in enumerate(zip(curves.items(), colors, strict=True)):
        dashed = number >= len(SEVERAL) and isinstance(color, str)  # the palette begins anew
        style = "--" if dashed else "-"
        lines.append(draw_line(ax, curve, curve.lr, curve.smoothed, style, color=color, lw=1.7, label=name))
        suggestion = suggestions.get(name)
        if suggestion is not None:
            height = height_at(curve, suggestion.max_lr, limits)
            ax.plot(suggestion.max_lr, height, "o", color=color, mec="white", mew=0.8, ms=7, zorder=5)
    return lines


def _list_panel(ax: Any, found: Mapping[str, Suggestion | None], lines: Sequence[Any], xlabel: str) -> None:
    """A row for each curve: its name with a piece of its line, its suggestion and the interval."""
    across = ax.get_yaxis_transform()
    for row, (suggestion, line) in enumerate(zip(found.values(), lines, strict=True)):
        color = line.get_color()
        sample = {"color": color, "ls": line.get_linestyle(), "lw": 2.5, "transform": across, "clip_on": False}
        ax.plot((0.005, 0.04), (row, row), **sample)
        if suggestion is None:
            ax.text(0.06, row, "no suggestion", transform=across, fontsize=8.5, va="center_baseline")
            continue
        ax.plot((suggestion.low, suggestion.high), (row, row), color=color, lw=5, alpha=0.35, solid_capstyle="butt")
        ax.plot(suggestion.max_lr, row, "o", color=color, mec="white", mew=0.8, ms=7)
        right = (suggestion.high, row)
        beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center_baseline", "fontsize": 8.5}
        ax.annotate(f"{suggestion.max_lr:.2g}", right, **beside)
    ax.set(yticks=range(len(found)), yticklabels=found, ylim=(len(found) - 0.4, -0.6), xlabel=xlabel)
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    plain_axes(ax)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_title("suggested", loc="left", fontsize=9)


def _suggestions_of(
    curves: Mapping[str, LRCurve], suggestions: bool | Mapping[str, Suggestion | None]
) -> dict[str, Suggestion | None]:
    """By name; empty if none are wanted."""
    if not isinstance(suggestions, bool):
        return {name: suggestions.get(name) for name in curves}
    found: dict[str, Suggestion | None] = {}
    for name, curve in curves.items() if suggestions else ():
        try:
            found[name] = curve.suggest()
        except NoSuggestionError:
            found[name] = None
    return found


def _log_limits(curves: Collection[LRCurve]) -> tuple[float, float] | None:
    """Likewise of a logarithmic one; None where a loss is not positive."""
    finite = [smooth[np.isfinite(smooth)] for smooth in (curve.smoothed for curve in curves)]
    low, high = min(smooth.min(initial=np.inf) for smooth in finite), limits_of(curves)[1]
    return (0.8 * float(low), high) if 0 < low < high else None
