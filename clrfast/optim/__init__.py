"""The fused SGD and the device-side control that drives it."""

from ._control import StepControl
from ._layer_groups import layer_groups
from ._sgd import SGD

__all__ = ["SGD", "StepControl", "layer_groups"]
