"""Curves to draw, and what is on a figure."""

import numpy as np

from tests.helpers.curves import make_curve

LOSS = np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, 8.0])
"""The losses of ``make_curve()``."""


def joined(**changes):
    """Return a curve like that of a coarse and a fine ramp; ``changes`` replace its fields."""
    lr = np.concatenate((np.geomspace(1e-6, 1e-2, 12), np.geomspace(1.2e-2, 10, 60)))
    loss = 2.0 - 1.5 / (1 + (5e-2 / lr) ** 2) + lr**2
    return make_curve(**{"lr": lr, "loss": loss, **changes})


def measured(name, values=None, lr=7):
    metric = np.full(lr, np.nan)
    metric[1::2] = np.linspace(0.1, 0.9, lr // 2) if values is None else values
    return make_curve(metric=metric, metric_name=name)


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def span(patch):
    """The ends of a patch along x, for every class of patch that versions of matplotlib draw."""
    extents = patch.get_path().get_extents(patch.get_patch_transform())
    return extents.x0, extents.x1


def drawn(axes, label):
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return line


def laid_out(axes):
    axes.figure.draw_without_rendering()
    return axes
