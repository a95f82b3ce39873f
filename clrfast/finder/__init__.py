"""The learning-rate range test, its recorded curve, and what the curve suggests."""

from .curve import LRCurve
from .range_test import range_test
from .suggest import NoSuggestionError, Suggestion, edge, minimum_tenth, steepest

__all__ = ["LRCurve", "NoSuggestionError", "Suggestion", "edge", "minimum_tenth", "range_test", "steepest"]
