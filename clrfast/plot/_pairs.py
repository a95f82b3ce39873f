"""The picture of long runs with pairs of a rate and a weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..finder._suggestion import NoSuggestionError
from ._style import DIVERGED, LOG_RATE_AXIS, SUGGESTED, add_legend, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..recipe import Pairs

MARGIN = 0.5
"""Decades around what was tried."""

LEVELS, POINTS = 8, 80
"""Of the shading: steps from dark to light, and places along each axis."""


def pairs(found: Pairs, ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """The runs over rate and weight decay, each with its loss, on what they let expect around them.

    The mean of ``found.gaussian_process`` is shaded: dark where a low loss is expected. It is left out where the
    validation loss fell in no run.

    Args:
        found: what ``find_pair`` returned.
        ax: where to draw; None makes a figure of 6.4 x 4.4 inches.
        title: stands above the legend. None: "Rate and weight decay" in a figure of its own, else none.
    Returns:
        The axes; ``ax.figure.savefig(path)`` writes the picture.
    """
    if ax is None:
        ax = new_figure(4.4).subplots()
        title = title or "Rate and weight decay"
    assert ax is not None
    ends = [(values.min() / 10**MARGIN, values.max() * 10**MARGIN) for values in (found.max_lr, found.weight_decay)]
    ax.set(
        xscale="log", yscale="log", xlim=ends[0], ylim=ends[1], xlabel=LOG_RATE_AXIS, ylabel="weight decay (log scale)"
    )
    plain_axes(ax)
    try:
        chosen = found.best
    except NoSuggestionError:
        chosen = None
    else:
        rates, decays = (np.geomspace(low, high, POINTS) for low, high in ends)
        at = np.log10(np.stack(np.meshgrid(rates, decays), axis=-1).reshape(-1, 2))
        expected = found.gaussian_process.posterior(at)[0]
        ax.contourf(rates, decays, expected.reshape(POINTS, POINTS), LEVELS, cmap="Blues_r", alpha=0.6)
    fell = found.loss < found.initial_loss
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (fell, {"marker": "o", "color": "black", "s": 22, "label": "loss after the run"}),
        (~fell, {"marker": "x", "color": DIVERGED, "s": 32, "label": "diverged, or above its start"}),
    ]
    if chosen is not None:
        ring = {"marker": "o", "s": 130, "facecolors": "none", "edgecolors": SUGGESTED, "linewidths": 2.5}
        label = f"chosen: {found.max_lr[chosen]:.3g}, {found.weight_decay[chosen]:g}"
        kinds.append((np.arange(len(fell)) == chosen, {**ring, "label": label}))
    entries = [
        ax.scatter(found.max_lr[which], found.weight_decay[which], zorder=4, **style)
        for which, style in kinds
        if which.any()
    ]
    for lr, decay, loss in found.table():
        if np.isfinite(loss):
            ax.annotate(
                f"{loss:#.3g}", (lr, decay), (0, 8), textcoords="offset points", ha="center", fontsize=8, zorder=6
            )
    add_legend(ax, entries, title)
    return ax
