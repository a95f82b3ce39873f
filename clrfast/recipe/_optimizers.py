"""The optimizers for which there is a recipe, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..optim import SGD, AdamW, FusedOptimizer
from ..tasks import Task
from ..training._loss_modules import find_loss_modules, trainable_parameters
from ..training._optimizer_factory import DEFAULT_MOMENTUM, MakeOptimizer

OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class RecipeOptimizer:
    """An optimizer for which there is a recipe.

    Attributes:
        make: makes it from the parameters.
        decay_scale: factor by which its weight decays are larger than those of SGD.
    """

    make: MakeOptimizer
    decay_scale: float

    def scaled(self, weight_decay: float) -> float:
        """Return the weight decay that is to this optimizer what ``weight_decay`` is to SGD, to one digit.

        >>> OPTIMIZERS["adamw"].scaled(3e-3)
        0.3
        """
        return float(f"{weight_decay * self.decay_scale:.0e}")


OPTIMIZERS: Mapping[str, RecipeOptimizer] = {
    "sgd": RecipeOptimizer(SGD, 1.0),
    # Both shrink a weight by about lr * weight_decay in a step, and AdamW's rates are about 100 times lower. The factor
    # is this estimate, not a measurement. It makes SGD's usual 1e-4 to AdamW's usual 0.01.
    "adamw": RecipeOptimizer(AdamW, 100.0),
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
    params = trainable_parameters(task.model, *find_loss_modules(task.loss_fn, task.compute_loss))
    if name == "adamw":
        return AdamW(params, lr=1.0, weight_decay=weight_decay)
    return SGD(params, lr=1.0, momentum=DEFAULT_MOMENTUM, weight_decay=weight_decay) if weight_decay else None
