"""The picture of a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schedules._schedule import QUANTITIES
from ._style import SMOOTHED, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..schedules import Schedule


def schedule(schedule: Schedule, *, total_steps: int | None = None) -> Figure:
    """lr, momentum and weight decay over the run, one below the other; what is left to the optimizer is left out.

    Args:
        schedule: what a policy returned.
        total_steps: steps to draw; None takes the schedule's own.
    Returns:
        The figure; ``figure.savefig(path)`` writes the picture.
    """
    table = schedule.table(total_steps)
    names = [name for name in QUANTITIES if getattr(schedule, name) is not None]
    height = 2.4 + 1.3 * (len(names) - 1)
    figure = new_figure(height)
    shares = [2.0] + [1.0] * (len(names) - 1)
    axes = figure.subplots(len(names), sharex=True, squeeze=False, height_ratios=shares)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        values = table[:, :, QUANTITIES.index(name)]
        for group in range(values.shape[1]):
            color = SMOOTHED if values.shape[1] == 1 else None
            ax.plot(values[:, group], color=color, lw=1.8, label=f"group {group}")
        ax.set_ylabel({"lr": "learning rate"}.get(name, name.replace("_", " ")))
        ax.grid(alpha=0.25, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=True)
        if name != "momentum":
            ax.set_ylim(bottom=0)
    if 1 < table.shape[1] <= 8:
        axes[0].legend(frameon=False, fontsize=9)
    axes[-1].set_xlabel("step")
    return figure
