"""The short recipe of Smith 2018: settings found by short trials before the training."""

from ._find_recipe import find_recipe
from ._find_settings import find_momentum, find_pair, find_weight_decay
from ._pair_trials import PairSuggestion, PairTrials
from ._recipe import Recipe
from ._setting_trials import MomentumTrials, SettingSuggestion, SettingTrials, WeightDecayTrials
from ._study import SearchSettings, Study, Trial, TrialSpec

__all__ = [
    "MomentumTrials",
    "PairSuggestion",
    "PairTrials",
    "Recipe",
    "SearchSettings",
    "SettingSuggestion",
    "SettingTrials",
    "Study",
    "Trial",
    "TrialSpec",
    "WeightDecayTrials",
    "find_momentum",
    "find_pair",
    "find_recipe",
    "find_weight_decay",
]
