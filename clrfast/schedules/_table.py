"""Tables: the values of a schedule as float32 ``[total_steps, n_groups, 3]``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import is_whole, short_repr

QUANTITIES = ("lr", "momentum", "weight_decay")
"""Columns of a table, in order."""

MAX_TOTAL_STEPS = 10**8
"""Maximum length of a run: ten times the longest training runs, and 1.2 GB of table for each parameter group."""


def row_at(table: NDArray[np.float32], step: int) -> list[list[float]]:
    """Return lr, momentum and weight decay of each group at ``step``, or at the last step if ``step`` is past it."""
    row: list[list[float]] = table[min(step, len(table) - 1)].tolist()
    return row


def check_total_steps(total_steps: Any) -> int:
    """Return ``total_steps`` as an int.

    Raises:
        ValueError: it is not a whole number from 1 to ``MAX_TOTAL_STEPS``.
    """
    if not is_whole(total_steps) or not 1 <= total_steps <= MAX_TOTAL_STEPS:
        raise ValueError(
            f"total_steps: got {short_repr(total_steps)}; give a whole number of steps, at least 1 and at most "
            f"{MAX_TOTAL_STEPS:,}"
        )
    return int(total_steps)


def require_valid(name: str, values: NDArray[np.float64]) -> None:
    """Raise a ValueError unless all ``values``, ``[total_steps]``, are >= 0 and finite in float32."""
    with np.errstate(over="ignore"):
        bad = ~(np.isfinite(values.astype(np.float32)) & (values >= 0))
    if bad.any():
        step = int(bad.argmax())
        raise ValueError(f"{name}: got {values[step]} at step {step}; every value must be finite (float32) and >= 0")
