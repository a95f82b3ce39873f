"""The picture of several range tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._loss_axes import common_loss_limits, draw_smoothed, rate_axis, set_scales
from ._protocols import LossCurve, RateSuggestion
from ._style import add_legend, line_colors, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def lr_curves(
    curves: Mapping[str, LossCurve],
    ax: Axes | None = None,
    *,
    suggestions: bool | Mapping[str, RateSuggestion | None] = True,
    ordered: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw several smoothed losses against the learning rate in one picture, each with its suggestion.

    Without ``ax``, a second panel below has a row for each curve: name, suggestion and interval. With ``ax``, the
    legend has the names and the suggestions.

    Args:
        curves: results of ``range_test``, by the names to show.
        ax: where to draw; None makes a figure 6.4 inches wide, with the panel.
        suggestions: whether to mark ``curve.suggest()``; or the suggestions by name, None for a curve without one.
        ordered: whether the names are values of one quantity (weight decays, epochs): colours go from light to dark.
        title: text above the legend. None: "Learning-rate range tests" without ``ax``, else no title.
    Returns:
        The axes of the losses; ``ax.figure.savefig(path)`` writes the picture.
    Raises:
        ValueError: ``curves`` is empty or not a dict.
    """
    if not isinstance(curves, Mapping):
        raise ValueError(f"curves: got {type(curves).__name__}; give a dict of curves by the name to show")
    if not curves:
        raise ValueError("curves: got none; give at least one, by the name to show")
    found = _find_suggestions(curves, suggestions)
    list_ax = None
    if ax is None and found:
        rows = 0.45 + 0.19 * len(curves)
        ax, list_ax = new_figure(3.6 + rows).subplots(2, sharex=True, height_ratios=(3.2, rows))
        ax.set_title(title or "Learning-rate range tests", loc="left", fontsize=11)
    elif ax is None:
        ax, title = new_figure(4.0).subplots(), title or "Learning-rate range tests"
    assert ax is not None
    limits = common_loss_limits(curves.values())
    set_scales(ax, curves.values(), limits)
    ax.set_ylabel("training loss, smoothed")
    lines = draw_smoothed(ax, curves, found, limits, line_colors(len(curves), ordered=ordered))
    style_axes(ax)
    rate_label = rate_axis(curves.values())[1]
    if list_ax is None:
        _label_with_suggestions(lines, found)
        ax.set_xlabel(rate_label)
        add_legend(ax, lines, title)
    else:
        _draw_suggestions(list_ax, found, lines, rate_label)
    return ax


def _find_suggestions(
    curves: Mapping[str, LossCurve], suggestions: bool | Mapping[str, RateSuggestion | None]
) -> dict[str, RateSuggestion | None]:
    """Return the suggestions by name; empty if none are to be drawn."""
    if not isinstance(suggestions, bool):
        return {name: suggestions.get(name) for name in curves}
    found: dict[str, RateSuggestion | None] = {}
    for name, curve in curves.items() if suggestions else ():
        try:
            found[name] = curve.suggest()
        except ValueError:  # the curve has no answer
            found[name] = None
    return found


def _label_with_suggestions(lines: Sequence[Any], found: Mapping[str, RateSuggestion | None]) -> None:
    for line in lines:
        name = line.get_label()
        if name in found:
            suggestion = found[name]
            line.set_label(f"{name}: {'no suggestion' if suggestion is None else f'{suggestion.max_lr:.2g}'}")


def _draw_suggestions(ax: Any, found: Mapping[str, RateSuggestion | None], lines: Sequence[Any], xlabel: str) -> None:
    """Draw a row for each curve: its name with a sample of its line, its suggestion and the interval."""
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
    style_axes(ax)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_title("suggested", loc="left", fontsize=9)
