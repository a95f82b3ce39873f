"""Pictures of range tests, short runs and schedules; needs matplotlib (``pip install "clrfast[plot]"``).

This package draws arrays, and objects with the attributes that its protocols name. It imports none of the others.
"""

from ._lr_curve import lr_curve
from ._lr_curves import lr_curves
from ._pairs import pairs
from ._protocols import Curve, RateRecord, Suggestion
from ._rates import rates
from ._schedule import schedule
from ._short_runs import Chosen, ValLosses, short_runs

__all__ = [
    "Chosen",
    "Curve",
    "RateRecord",
    "Suggestion",
    "ValLosses",
    "lr_curve",
    "lr_curves",
    "pairs",
    "rates",
    "schedule",
    "short_runs",
]
