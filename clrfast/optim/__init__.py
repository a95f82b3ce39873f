"""The optimizers, and the device-side control that drives them."""

from ._adamw import Adam, AdamW
from ._control import StepControl
from ._fused_optimizer import FusedOptimizer
from ._layer_groups import layer_groups
from ._sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "FusedOptimizer", "StepControl", "layer_groups"]
