"""The short recipe of Smith 2018: settings found before the training, and what to read off a run."""

from ..ranks import RankError
from .batch_size import BatchSizes, StepCost, find_batch_size
from .clock import TimeIsUp
from .clues import Clue, diagnose
from .history import History
from .momentum import Momenta, find_momentum
from .pairs import Pair, Pairs, find_pair
from .parts import Parts
from .recipe import Recipe
from .runs import Choice, ShortRuns
from .search import find_recipe
from .weight_decay import WeightDecays, find_weight_decay

__all__ = [
    "BatchSizes",
    "Choice",
    "Clue",
    "History",
    "Momenta",
    "Pair",
    "Pairs",
    "Parts",
    "RankError",
    "Recipe",
    "ShortRuns",
    "StepCost",
    "TimeIsUp",
    "WeightDecays",
    "diagnose",
    "find_batch_size",
    "find_momentum",
    "find_pair",
    "find_recipe",
    "find_weight_decay",
]
