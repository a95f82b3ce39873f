"""The short recipe of Smith 2018: what to read off a run, and which settings to take."""

from .clues import Clue, diagnose
from .history import History

__all__ = ["Clue", "History", "diagnose"]
