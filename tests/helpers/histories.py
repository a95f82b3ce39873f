"""Histories of short runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clrfast import History, WeightDecayTrials


def ending_history(loss: float, steps: int = 100, initial: float = 9.0) -> History:
    """Return the history of a run that ends with ``loss``. One that diverged ends after a tenth of its steps."""
    made = steps if math.isfinite(loss) else steps // 10
    return History(np.ones(made), [initial, loss], [0, made])


def decay_trials(
    losses: Sequence[Sequence[float]], values: Sequence[float] = (0.0, 1e-4, 1e-3), initial: float = 2.0
) -> WeightDecayTrials:
    """Return trials that end with ``losses`` [k][repeats]."""
    histories = tuple(
        tuple(History(np.ones(20), [initial, loss], [0, 20], lr=np.ones(20)) for loss in repeats) for repeats in losses
    )
    return WeightDecayTrials(np.array(values), histories, 1.0)
