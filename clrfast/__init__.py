"""Find a PyTorch model's learning rate and train it with Leslie Smith's policies, fast."""

from ._version import __version__
from .finder import LRCurve, NoSuggestionError, Suggestion, range_test
from .optim import SGD, StepControl
from .schedules import Schedule, constant, lr_sweep, one_cycle
from .tasks import Task

__all__ = [
    "SGD",
    "LRCurve",
    "NoSuggestionError",
    "Schedule",
    "StepControl",
    "Suggestion",
    "Task",
    "__version__",
    "constant",
    "lr_sweep",
    "one_cycle",
    "range_test",
]
