"""Pictures of range tests, trials and schedules; needs matplotlib (``pip install matplotlib``).

This package draws arrays, and objects with the attributes listed in ``_protocols``. It imports no other package.
"""

from ._compared_lr_curves import lr_curves
from ._lr_curve import lr_curve
from ._pair_trials import pair_trials
from ._rates import rates
from ._schedule import schedule
from ._setting_trials import Chosen, ValLosses, setting_trials

__all__ = [
    "Chosen",
    "ValLosses",
    "lr_curve",
    "lr_curves",
    "pair_trials",
    "rates",
    "schedule",
    "setting_trials",
]
