"""The optimizers for which there is a recipe, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..optim import SGD, AdamW, FusedOptimizer
from ..tasks import Task
from ..training._loss_modules import parameters_of_task
from ..training._optimizer_factory import DEFAULT_MOMENTUM

OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class RecipeOptimizer:
    """An optimizer for which there is a recipe.

    Attributes:
        kind: its class.
        momentum_option: returns the argument that sets the momentum: beta1 of AdamW.
        decay_scale: factor by which its weight decays are larger than those of SGD.
    """

    kind: type[SGD] | type[AdamW]
    momentum_option: Callable[[float], dict[str, Any]]
    decay_scale: float

    def scaled(self, weight_decay: float) -> float:
        """Return the weight decay that is to this optimizer what ``weight_decay`` is to SGD, to one digit.

        >>> OPTIMIZERS["adamw"].scaled(3e-3)
        0.3
        """
        return float(f"{weight_decay * self.decay_scale:.0e}")


OPTIMIZERS: Mapping[str, RecipeOptimizer] = {
    "sgd": RecipeOptimizer(SGD, lambda momentum: {"momentum": momentum}, 1.0),
    # The factor turns SGD's usual 1e-4 into AdamW's usual 0.01. It is not measured.
    "adamw": RecipeOptimizer(AdamW, lambda momentum: {"betas": (momentum, 0.999)}, 100.0),
}


def require_optimizer_name(optimizer: Any) -> None:
    """Raise ValueError unless ``optimizer`` is the name of one."""
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        got = repr(optimizer) if optimizer is None or isinstance(optimizer, str) else type(optimizer).__name__
        raise ValueError(
            f"optimizer: got {got}; the short runs make their own optimizers, whose schedules have a curve for every "
            f"setting: give the name, one of {list(OPTIMIZERS)}"
        )


def trial_optimizer(name: str, task: Task, weight_decay: float = 0.0) -> FusedOptimizer | None:
    """Return the optimizer of a range test or of trials; None for SGD without weight decay, which they make.

    Its rate, momentum and weight decay are constant until a schedule sets them.
    """
    if name == "sgd" and not weight_decay:
        return None
    chosen = OPTIMIZERS[name]
    momentum = chosen.momentum_option(DEFAULT_MOMENTUM)
    return chosen.kind(parameters_of_task(task), lr=1.0, weight_decay=weight_decay, **momentum)
