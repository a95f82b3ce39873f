"""The picture of short runs with several values of one setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..finder._suggestion import NoSuggestionError
from ._style import RAW, SUGGESTED, add_legend, colors_of, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..recipe import Choice, ShortRuns


def short_runs(found: ShortRuns, ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """Validation loss over the steps, a line for each value and repeat, from the smallest (light) to the largest.

    In a figure of its own, the losses after the runs are below, over the values, with the choice and the values that
    are as good shaded.

    Args:
        found: what ``find_weight_decay`` or ``find_momentum`` returned.
        ax: where to draw the losses over the steps; None makes a figure of 6.4 x 5.4 inches, with both.
        title: stands above the legend. None: "Short runs" in a figure of its own, else none.
    Returns:
        The axes of the losses over the steps; ``ax.figure.savefig(path)`` writes the picture.
    """
    below = None
    if ax is None:
        ax, below = new_figure(5.4).subplots(2, height_ratios=(2, 1))
        title = title or "Short runs"
    assert ax is not None
    colors = colors_of(len(found.values), ordered=True)
    entries = []
    for value, runs, color in zip(found.values, found.runs, colors, strict=True):
        for history in runs:
            (line,) = ax.plot(*_finite(history.val_steps, history.val_loss), color=color, lw=1.4)
        line.set_label(f"{value:g}")
        entries.append(line)
    losses = np.concatenate([_finite(h.val_steps, h.val_loss)[1] for runs in found.runs for h in runs])
    # A run that explodes is cut off; the loss before the first step, which all have, is seen.
    start = float(np.asarray(found.runs[0][0].val_loss)[0])
    low, high = float(losses.min()), min(float(losses.max()), max(start, 3 * float(np.median(losses))))
    pad = 0.05 * (high - low) or 1e-3 * abs(high) or 1.0
    ax.set(ylim=(low - pad, high + pad), xlabel="step", ylabel="validation loss")
    plain_axes(ax)
    add_legend(ax, entries, title)
    if below is not None:
        try:
            _final_panel(below, found, found.suggest())
        except NoSuggestionError:
            _final_panel(below, found, None)
    return ax


def _final_panel(ax: Any, found: ShortRuns, chosen: Choice | None) -> None:
    """The losses after the runs; places stand for the values, of which one may be 0."""
    places = np.arange(len(found.values))
    loss = np.where(np.isfinite(found.loss), found.loss, np.nan)
    ax.plot(places, loss, "o", color=RAW, ms=4)
    mean = loss.mean(axis=1)
    ax.plot(places, mean, "-", color="black", lw=1.2)
    if chosen is not None:
        first, last, at = (int(np.searchsorted(found.values, x)) for x in (chosen.low, chosen.high, chosen.value))
        ax.axvspan(first - 0.3, last + 0.3, color=SUGGESTED, alpha=0.15, lw=0)
        ax.plot(at, mean[at], "o", color=SUGGESTED, mec="white", mew=0.8, ms=8, zorder=5)
        ax.annotate(
            f"chosen: {chosen.value:g}", (at, 1.0), xycoords=("data", "axes fraction"), ha="center", fontsize=8.5
        )
        # What is much worse is cut off.
        low, high = float(np.nanmin(loss)), float(loss[first : last + 1].max())
        reach = max(1.5 * (high - low), 3 * float(np.nanmedian(mean) - low), 1e-3 * abs(low))
        ax.set_ylim(low - 0.1 * reach, low + reach)
    ax.set(xticks=places, xticklabels=[f"{value:g}" for value in found.values], xlabel="value", ylabel="loss after")
    plain_axes(ax)


def _finite(steps: Any, loss: Any) -> tuple[Any, Any]:
    finite = np.isfinite(loss)
    return np.asarray(steps)[finite], np.asarray(loss)[finite]
