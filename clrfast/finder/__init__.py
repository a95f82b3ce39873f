"""The learning-rate range test: its curve, the rules that suggest a rate, short trials, and a monitor."""

from ._curve import LRCurve
from ._range_test import range_test
from ._rate_monitor import RateMonitor, RateRecord
from ._suggestion import NoSuggestionError, Suggestion
from ._suggestion_rules import clr_bounds, edge, minimum_tenth, slide, steepest, valley
from ._trials import Trials

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
    "valley",
]
