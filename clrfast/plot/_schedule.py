"""The picture of a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ._style import SMOOTHED_COLOR, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"lr": "learning rate", "momentum": "momentum", "weight_decay": "weight decay"}

MAX_GROUPS_IN_LEGEND = 8


def schedule(columns: Mapping[str, NDArray[np.floating]]) -> Figure:
    """Draw hyper-parameters over the steps of a run, one panel for each; ``Schedule.plot`` calls this.

    Args:
        columns: ``[n_steps, n_groups]`` for "lr" and, if the schedule sets them, "momentum" and "weight_decay"; at
            least one, all of one shape. The first panel is the largest.
    Returns:
        The figure; ``figure.savefig(path)`` writes the picture.
    """
    figure = new_figure(2.4 + 1.3 * (len(columns) - 1))
    shares = [2.0] + [1.0] * (len(columns) - 1)
    axes = figure.subplots(len(columns), sharex=True, squeeze=False, height_ratios=shares)[:, 0]
    n_groups = next(iter(columns.values())).shape[1]
    for ax, (name, values) in zip(axes, columns.items(), strict=True):
        for group in range(n_groups):
            color = SMOOTHED_COLOR if n_groups == 1 else None
            ax.plot(values[:, group], color=color, lw=1.8, label=f"group {group}")
        ax.set_ylabel(LABELS[name])
        ax.grid(alpha=0.25, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=True)
        if name != "momentum":
            ax.set_ylim(bottom=0)
    if 1 < n_groups <= MAX_GROUPS_IN_LEGEND:
        axes[0].legend(frameon=False, fontsize=9)
    axes[-1].set_xlabel("step")
    return figure
