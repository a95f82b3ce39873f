"""The learning-rate range test, its recorded curve, what the curve suggests, and short runs around that."""

from ._curve import LRCurve
from ._monitor import RateMonitor, RateRecord
from ._range_test import range_test
from ._suggest import NoSuggestionError, Suggestion, clr_bounds, edge, minimum_tenth, slide, steepest, valley
from ._trials import Trials, trial_cycles

__all__ = [
    "LRCurve",
    "NoSuggestionError",
    "RateMonitor",
    "RateRecord",
    "Suggestion",
    "Trials",
    "clr_bounds",
    "edge",
    "minimum_tenth",
    "range_test",
    "slide",
    "steepest",
    "trial_cycles",
    "valley",
]
