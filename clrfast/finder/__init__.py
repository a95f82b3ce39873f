"""The learning-rate range test, its recorded curve, what the curve suggests, and short runs around that."""

from .curve import LRCurve
from .monitor import RateMonitor, RateRecord
from .range_test import range_test
from .suggest import (
    NoSuggestionError,
    Suggestion,
    clr_bounds,
    edge,
    minimum_tenth,
    slide,
    steepest,
    valley,
)
from .trials import Trials, trial_cycles

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
