"""The fused SGD and the device-side control that drives it."""

from .control import StepControl
from .layer_groups import layer_groups
from .sgd import SGD

__all__ = ["SGD", "StepControl", "layer_groups"]
