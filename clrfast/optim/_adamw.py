"""Adam and AdamW with the numbers of torch.optim, and with hyper-parameters in a table on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..schedules import Schedule
from . import _rules as rules
from ._counters import StepCounters
from ._fused_optimizer import FusedOptimizer
from ._options import require_betas, require_non_negative


class Adam(FusedOptimizer):
    """Adam with L2 regularization and an optional schedule on the device.

        g = -grad if maximize else grad
        g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        x = max(x, v) if amsgrad else v
        p = p - lr / (1 - beta1**t) * m / (sqrt(x / (1 - beta2**t)) + eps)

    t is the number of updates of this parameter. Without ``schedule`` it is a drop-in for ``torch.optim.Adam``: same
    numbers, same ``state_dict``; any torch LR scheduler and ``GradScaler`` work on it. With ``schedule``, lr, beta1
    (its momentum) and weight_decay come from the schedule's table, and beta2 and eps from the group; ``SGD`` describes
    how a scheduled optimizer behaves.

    Args:
        params, fused, foreach, capturable, differentiable, schedule, master_weights, clip_norm, backend: as in ``SGD``.
            ``master_weights`` keeps float32 moments, too.
        lr: a number >= 0 or a one-element tensor. The values of ``schedule`` replace it, and beta1 and weight decay
            where the schedule has curves for them.
        betas: beta1 and beta2, each in [0, 1).
        eps: added to the root, >= 0.
        weight_decay, amsgrad, maximize: as in ``torch.optim.Adam``.
        decoupled_weight_decay: decay the parameter itself, as ``AdamW`` does.
    Raises:
        ValueError: an argument is out of range, or the schedule does not fit the parameter groups; a schedule's
            momentum must be below 1.
        RuntimeError: the backend does not work here, or the parameters are on devices of several types.

    Source: Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization".
    """

    rule = rules.ADAMW
    counters: StepCounters

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        schedule: Schedule | None = None,
        master_weights: bool = False,
        clip_norm: float | None = None,
        backend: str = "auto",
    ):
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": False,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(
            params,
            options,
            StepCounters(),
            differentiable=differentiable,
            schedule=schedule,
            master_weights=master_weights,
            clip_norm=clip_norm,
            backend=backend,
        )

    def states_of(self, group: int) -> tuple[str, ...]:
        """Return the names of the states that parameters of this group need."""
        return self.rule.states if self.param_groups[group]["amsgrad"] else self.rule.states[:2]

    def counts_updates(self, group: int) -> bool:
        """Return True: the update depends on the number of updates before it."""
        return True

    def lacks_state(self, group: int, param: Tensor) -> bool:
        """Return whether ``ensure_state`` would add or replace an entry."""
        return super().lacks_state(group, param) or self.counters.lacks(self.state[param], param.device)

    def require_schedule_fits(self, table: NDArray[np.float32]) -> None:
        """Raise ValueError if the schedule's momentum, which is beta1, reaches 1."""
        if not (table[:, :, 1] < 1).all():
            raise ValueError(
                f"schedule: its momentum reaches {table[:, :, 1].max():g}; it is beta1 here, so keep it below 1"
            )

    def _ensure_counter(self, group: int, param: Tensor, state: dict[str, Any], *, is_new: bool) -> None:
        self.counters.ensure(state, param.device)
        if len(self.counters.by_tensor) > len(self.state):
            self.counters.keep_only(self.state.values())

    def _check_options(self, options: dict[str, Any]) -> None:
        require_non_negative(options, "lr", "eps", "weight_decay")
        require_betas(options)


class AdamW(Adam):
    """AdamW, Adam with decoupled weight decay, and an optional schedule on the device.

        p = p * (1 - lr * weight_decay)

    replaces the second line of ``Adam``, which describes everything else. Without ``schedule`` it is a drop-in for
    ``torch.optim.AdamW``.

    Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization".
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = True,
        schedule: Schedule | None = None,
        master_weights: bool = False,
        clip_norm: float | None = None,
        backend: str = "auto",
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
            schedule=schedule,
            master_weights=master_weights,
            clip_norm=clip_norm,
            backend=backend,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # as in torch: a loaded state of Adam does not make this optimizer an Adam
            group["decoupled_weight_decay"] = self.defaults["decoupled_weight_decay"]
