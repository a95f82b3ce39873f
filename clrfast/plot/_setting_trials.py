"""The picture of short trials with several values of one setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._protocols import Floats
from ._style import RAW_COLOR, SUGGESTION_COLOR, add_legend, line_colors, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ValLosses:
    """Validation losses of one trial.

    Attributes:
        steps: ``[m]``, the number of updates before each measurement, ascending from 0.
        loss: ``[m]``; values that are not finite are not drawn.
    """

    steps: NDArray[Any]
    loss: NDArray[Any]

    def finite(self) -> tuple[NDArray[Any], NDArray[Any]]:
        finite = np.isfinite(self.loss)
        return self.steps[finite], self.loss[finite]


@dataclass(frozen=True)
class Chosen:
    """The value chosen, and the lowest and the highest value that are as good within the noise."""

    value: float
    low: float
    high: float


def setting_trials(
    values: Floats,
    trials: Sequence[Sequence[ValLosses]],
    ax: Axes | None = None,
    *,
    chosen: Chosen | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the validation loss over the steps, a line for each trial, from the smallest value (light) to the largest.

    Without ``ax``, a second panel below shows the losses after the trials over the values. It marks the choice and
    shades the values that are as good.

    Args:
        values: ``[k]``, ascending.
        trials: the trials of each value, at least one, and the same number for each.
        ax: axes for the losses over the steps; None makes a figure of 6.4 x 5.4 inches with both panels.
        chosen: choice to mark.
        title: text above the legend. None: "Short runs" without ``ax``, else no title.
    Returns:
        The axes of the losses over the steps; ``ax.figure.savefig(path)`` writes the picture.
    """
    final_ax = None
    if ax is None:
        ax, final_ax = new_figure(5.4).subplots(2, height_ratios=(2, 1))
        title = title or "Short runs"
    assert ax is not None
    entries = []
    for value, repeats, color in zip(values, trials, line_colors(len(values), ordered=True), strict=True):
        for trial in repeats:
            (line,) = ax.plot(*trial.finite(), color=color, lw=1.4)
        line.set_label(f"{value:g}")
        entries.append(line)
    ax.set(ylim=_loss_limits(trials), xlabel="step", ylabel="validation loss")
    style_axes(ax)
    add_legend(ax, entries, title)
    if final_ax is not None:
        _draw_final_losses(final_ax, values, trials, chosen)
    return ax


def _loss_limits(trials: Sequence[Sequence[ValLosses]]) -> tuple[float, float]:
    """Return limits that cut off exploding losses and show the loss before the first step, which all trials share."""
    losses = np.concatenate([trial.finite()[1] for repeats in trials for trial in repeats])
    start = float(trials[0][0].loss[0])
    low, high = float(losses.min()), min(float(losses.max()), max(start, 3 * float(np.median(losses))))
    pad = 0.05 * (high - low) or 1e-3 * abs(high) or 1.0
    return low - pad, high + pad


def _draw_final_losses(ax: Any, values: Floats, trials: Sequence[Sequence[ValLosses]], chosen: Chosen | None) -> None:
    """Draw the losses after the trials, over equidistant places for the values, because a value may be 0."""
    places = np.arange(len(values))
    final = np.array([[float(trial.loss[-1]) for trial in repeats] for repeats in trials])
    loss = np.where(np.isfinite(final), final, np.nan)
    ax.plot(places, loss, "o", color=RAW_COLOR, ms=4)
    mean = loss.mean(axis=1)
    ax.plot(places, mean, "-", color="black", lw=1.2)
    if chosen is not None:
        first, last, at = (int(np.searchsorted(values, x)) for x in (chosen.low, chosen.high, chosen.value))
        ax.axvspan(first - 0.3, last + 0.3, color=SUGGESTION_COLOR, alpha=0.15, lw=0)
        ax.plot(at, mean[at], "o", color=SUGGESTION_COLOR, mec="white", mew=0.8, ms=8, zorder=5)
        ax.annotate(
            f"chosen: {chosen.value:g}", (at, 1.0), xycoords=("data", "axes fraction"), ha="center", fontsize=8.5
        )
        # Much higher losses are cut off.
        low, high = float(np.nanmin(loss)), float(loss[first : last + 1].max())
        reach = max(1.5 * (high - low), 3 * float(np.nanmedian(mean) - low), 1e-3 * abs(low))
        ax.set_ylim(low - 0.1 * reach, low + reach)
    ax.set(xticks=places, xticklabels=[f"{value:g}" for value in values], xlabel="value", ylabel="loss after")
    style_axes(ax)
