"""The short recipe of Smith 2018: settings found before the training, and diagnoses of a training run."""

from ._batch_size import BatchSizes, StepCost, find_batch_size
from ._deadline import OutOfTimeError
from ._diagnosis import Diagnosis, diagnose
from ._find_recipe import find_recipe
from ._loss_history import History
from ._lr_and_weight_decay import find_pair
from ._momentum import MomentumTrials, find_momentum
from ._pair_trials import PairSuggestion, PairTrials
from ._recipe import Recipe
from ._setting_trials import SettingSuggestion, SettingTrials
from ._study import Study
from ._weight_decay import WeightDecayTrials, find_weight_decay

__all__ = [
    "BatchSizes",
    "Diagnosis",
    "History",
    "MomentumTrials",
    "OutOfTimeError",
    "PairSuggestion",
    "PairTrials",
    "Recipe",
    "SettingSuggestion",
    "SettingTrials",
    "StepCost",
    "Study",
    "WeightDecayTrials",
    "diagnose",
    "find_batch_size",
    "find_momentum",
    "find_pair",
    "find_recipe",
    "find_weight_decay",
]
