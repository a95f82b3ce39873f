"""Find a PyTorch model's learning rate and train it with Leslie Smith's policies, fast."""

from . import schedules
from ._version import __version__
from .finder import LRCurve, NoSuggestionError, RateMonitor, Suggestion, Trials, range_test, trial_cycles
from .optim import SGD, StepControl, layer_groups
from .recipe import (
    BatchSizes,
    Choice,
    Clue,
    History,
    Momenta,
    Recipe,
    WeightDecays,
    diagnose,
    find_batch_size,
    find_momentum,
    find_recipe,
    find_weight_decay,
)
from .replicas import Replicas, sweep
from .schedules import Schedule, as_lr_scheduler, constant, lr_sweep, one_cycle
from .tasks import Task

__all__ = [
    "SGD",
    "BatchSizes",
    "Choice",
    "Clue",
    "History",
    "LRCurve",
    "Momenta",
    "NoSuggestionError",
    "RateMonitor",
    "Recipe",
    "Replicas",
    "Schedule",
    "StepControl",
    "Suggestion",
    "Task",
    "Trials",
    "WeightDecays",
    "__version__",
    "as_lr_scheduler",
    "constant",
    "diagnose",
    "find_batch_size",
    "find_momentum",
    "find_recipe",
    "find_weight_decay",
    "layer_groups",
    "lr_sweep",
    "one_cycle",
    "range_test",
    "schedules",
    "sweep",
    "trial_cycles",
]
