"""The short recipe of Smith 2018: settings found before the training, and what to read off a run."""

from ._batch_size import BatchSizes, StepCost, find_batch_size
from ._deadline import TimeIsUp
from ._diagnosis import Diagnosis, diagnose
from ._find_recipe import find_recipe
from ._history import History
from ._measurements import Parts
from ._momentum import Momenta, find_momentum
from ._pair_search import Pair, Pairs, find_pair
from ._recipe import Recipe
from ._short_runs import Choice, ShortRuns
from ._weight_decay import WeightDecays, find_weight_decay

__all__ = [
    "BatchSizes",
    "Choice",
    "Diagnosis",
    "History",
    "Momenta",
    "Pair",
    "Pairs",
    "Parts",
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
