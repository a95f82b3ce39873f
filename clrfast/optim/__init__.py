"""The fused SGD and the device-side control that drives it."""

from .control import StepControl
from .sgd import SGD

__all__ = ["SGD", "StepControl"]
