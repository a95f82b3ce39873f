"""Find a PyTorch model's learning rate and train it with Leslie Smith's policies, fast."""

from ._version import __version__
from .optim import SGD, StepControl
from .schedules import Schedule, constant, lr_sweep, one_cycle

__all__ = ["SGD", "Schedule", "StepControl", "__version__", "constant", "lr_sweep", "one_cycle"]
