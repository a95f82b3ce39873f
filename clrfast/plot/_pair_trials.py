"""The picture of long trials with pairs of a rate and a weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._protocols import Floats
from ._style import DIVERGENCE_COLOR, LOG_RATE_LABEL, SUGGESTION_COLOR, add_legend, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN_DECADES = 0.5
"""Distance from the outermost trials to the ends of the axes, in decades."""

N_SHADES = 8
N_GRID = 80
"""Points of the shading along each axis."""


def pair_trials(
    max_lr: Floats,
    weight_decay: Floats,
    loss: Floats,
    ax: Axes | None = None,
    *,
    initial_loss: float,
    best: int | None = None,
    predict: Callable[[Floats], Floats] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw trials over learning rate and weight decay, each with its loss, on the losses predicted around them.

    Args:
        max_lr, weight_decay: ``[n]``, above 0, the settings of each trial.
        loss: ``[n]``, the validation loss after each trial.
        ax: where to draw; None makes a figure of 6.4 x 4.4 inches.
        initial_loss: the validation loss before the trials. A trial that does not end below it is marked as diverged.
        best: index of the trial to mark as chosen.
        predict: maps points ``[m, 2]`` (log10 of rate and weight decay) to ``[m]`` predictions, drawn as shades: the
            lower, the darker. None draws none.
        title: text above the legend. None: "Rate and weight decay" without ``ax``, else no title.
    Returns:
        The axes; ``ax.figure.savefig(path)`` writes the picture.
    """
    if ax is None:
        ax = new_figure(4.4).subplots()
        title = title or "Rate and weight decay"
    assert ax is not None
    margin = 10**MARGIN_DECADES
    rate_limits, decay_limits = ((each.min() / margin, each.max() * margin) for each in (max_lr, weight_decay))
    ax.set(xscale="log", yscale="log", xlim=rate_limits, ylim=decay_limits)
    ax.set(xlabel=LOG_RATE_LABEL, ylabel="weight decay (log scale)")
    style_axes(ax)
    if predict is not None:
        _draw_predictions(ax, predict, rate_limits, decay_limits)
    fell = loss < initial_loss
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (fell, {"marker": "o", "color": "black", "s": 22, "label": "loss after the run"}),
        (~fell, {"marker": "x", "color": DIVERGENCE_COLOR, "s": 32, "label": "diverged, or above its start"}),
    ]
    if best is not None:
        ring = {"marker": "o", "s": 130, "facecolors": "none", "edgecolors": SUGGESTION_COLOR, "linewidths": 2.5}
        label = f"chosen: {max_lr[best]:.3g}, {weight_decay[best]:g}"
        kinds.append((np.arange(len(fell)) == best, {**ring, "label": label}))
    entries = [
        ax.scatter(max_lr[which], weight_decay[which], zorder=4, **style) for which, style in kinds if which.any()
    ]
    for x, y, value in zip(max_lr, weight_decay, loss, strict=True):
        if np.isfinite(value):
            ax.annotate(f"{value:#.3g}", (x, y), (0, 8), textcoords="offset points", ha="center", fontsize=8, zorder=6)
    add_legend(ax, entries, title)
    return ax


def _draw_predictions(
    ax: Any, predict: Callable[[Floats], Floats], rate_limits: tuple[float, float], decay_limits: tuple[float, float]
) -> None:
    """Shade the area of the axes by the predicted loss."""
    rates, decays = (np.geomspace(*limits, N_GRID) for limits in (rate_limits, decay_limits))
    points = np.log10(np.stack(np.meshgrid(rates, decays), axis=-1).reshape(-1, 2))
    ax.contourf(rates, decays, predict(points).reshape(N_GRID, N_GRID), N_SHADES, cmap="Blues_r", alpha=0.6)
