"""Lion, the worked example of CONTRIBUTING.md: the reference of the update, the rule, and the optimizer class.

In the package, ``lion`` and ``LION`` stand in clrfast/optim/_rules.py, and the class in a module beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from clrfast.optim._fused_optimizer import FusedOptimizer
from clrfast.optim._options import require_betas, require_non_negative
from clrfast.optim._rules import Row, Rule, Updated, Value, _as, _coefficient_dtype


def lion(
    p: Tensor, g: Tensor, states: Sequence[Tensor], count: Value | None, row: Row, constants: Sequence[float]
) -> Updated:
    """Update by Lion.

    u = sign(beta1 * m + (1 - beta1) * g)
    p = p * (1 - lr * weight_decay) - lr * u
    m = beta2 * m + (1 - beta2) * g
    """
    lr, beta1, weight_decay = (_as(value, _coefficient_dtype(p)) for value in row)
    (beta2,), (m,) = constants, states
    u = torch.sign(_as(beta1, p.dtype) * m + _as(1 - beta1, p.dtype) * g)
    p = p * _as(1 - lr * weight_decay, p.dtype) - _as(lr, p.dtype) * u
    return p, [beta2 * m + (1 - beta2) * g], True


LION = Rule("lion", ("exp_avg",), lambda group: (float(group["betas"][1]),), lion)


class Lion(FusedOptimizer):
    """Lion with an optional schedule on the device, whose momentum is beta1.

    Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms".
    """

    rule = LION

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **common: Any,
    ):
        options = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options, **common)

    def _check_options(self, options: dict[str, Any]) -> None:
        require_non_negative(options, "lr", "weight_decay")
        require_betas(options)
