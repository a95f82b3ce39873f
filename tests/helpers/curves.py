"""A range test's curve, without the range test."""

from __future__ import annotations

from typing import Any

import numpy as np

from clrfast import LRCurve


def make_curve(**changes: Any) -> LRCurve:
    """A curve of seven rates whose loss falls, then diverges; ``changes`` replace its fields."""
    lr = np.geomspace(1e-3, 1.0, 7)
    loss = np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, 8.0])
    fields = {"lr": lr, "loss": loss, "initial_loss": 2.0, "stopped": "diverged", "stop_reason": "diverged at 1"}
    return LRCurve(**{**fields, **changes})
