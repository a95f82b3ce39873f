"""The lattice of pairs of a rate and a weight decay on which ``find_pair`` searches."""

from __future__ import annotations

import math

RATE_RATIO = math.sqrt(10)
"""Ratio of neighbouring rates. A finer lattice is not needed: 1cycle trains well with half and twice the best rate."""

MIN_RATE_EXPONENT, MAX_RATE_EXPONENT = -6, 4
"""Lowest and highest exponent of ``RATE_RATIO``, relative to the first rate: three decades below it, where a network
overfits, and two above."""

DECAYS = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Weight decays. Below 1e-3 they change a training little, so their steps are wider."""

LARGE_DECAY = 0.1
"""The largest weight decay that is always searched. A larger one is tried if the largest tried one is the best at some
rate. Larger ones raised the loss at any rate on the 15 development tasks of ``benchmarks.recipe_quality``; a linear
model on few samples may need them."""

FIRST_DECAY = 1e-3
"""Weight decay of the first trial, in the middle of ``DECAYS``."""

LatticePoint = tuple[int, float]
"""Exponent of ``RATE_RATIO``, relative to the first rate, and weight decay."""


def pair_at(point: LatticePoint, first_lr: float) -> tuple[float, float]:
    """Return the rate and the weight decay of a point."""
    return float(first_lr * RATE_RATIO ** point[0]), point[1]


def point_of(lr: float, weight_decay: float, first_lr: float) -> LatticePoint:
    """Return the point of a rate and a weight decay."""
    return round(math.log(lr / first_lr) / math.log(RATE_RATIO)), weight_decay
