"""Pictures of range tests, trials and schedules; needs matplotlib (``pip install "clrfast[plot]"``).

This package draws arrays, and objects with the attributes that its protocols name. It imports none of the others.
"""

from ._lr_curve import lr_curve
from ._lr_curves import lr_curves
from ._pair_trials import pair_trials
from ._protocols import Curve, RateRecord, Suggestion
from ._rates import rates
from ._schedule import schedule
from ._setting_trials import Chosen, ValLosses, setting_trials

__all__ = [
    "Chosen",
    "Curve",
    "RateRecord",
    "Suggestion",
    "ValLosses",
    "lr_curve",
    "lr_curves",
    "pair_trials",
    "rates",
    "schedule",
    "setting_trials",
]
