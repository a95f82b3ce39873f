"""Bootstrap intervals of means over tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

N_RESAMPLES = 2000


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 2.5 % and the 97.5 % quantile of the mean when ``values`` are resampled."""
    drawn = np.random.default_rng(0).choice(np.array(values), (N_RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(1), [0.025, 0.975])
    return float(low), float(high)
