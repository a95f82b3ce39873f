"""The short recipe of Smith 2018: settings found before the training, and what to read off a run."""

from .batch_size import BatchSizes, StepCost, find_batch_size
from .clues import Clue, diagnose
from .history import History

__all__ = ["BatchSizes", "Clue", "History", "StepCost", "diagnose", "find_batch_size"]
