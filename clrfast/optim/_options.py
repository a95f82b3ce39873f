"""Checks of a parameter group's options."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..schedules._warnings import warn_user
from ._parameters import require_one_element


def check_options(options: dict[str, Any], *, schedule_sets_momentum: bool) -> None:
    """Raise ValueError unless SGD can use ``options``; with ``schedule_sets_momentum``, momentum may still be 0."""
    lr = options["lr"]
    if isinstance(lr, Tensor):
        require_one_element(lr)
    for name in ("lr", "momentum", "weight_decay"):
        value = options[name]
        if isinstance(value, str) or value is None or not 0 <= value < math.inf:
            raise ValueError(f"{name}: got {value!r}; give a finite number >= 0")
    if options["nesterov"] and ((options["momentum"] <= 0 and not schedule_sets_momentum) or options["dampening"] != 0):
        raise ValueError("nesterov: it needs momentum > 0 and dampening = 0")


def warn_overridden(rates: list[Any]) -> None:
    """Warn that one curve of a schedule replaces the groups' own ``rates``."""
    warn_user(
        f"the schedule replaces the parameter groups' own lr ({', '.join(f'{float(rate):g}' for rate in rates)}) by "
        "one for all; schedule.for_groups(param_groups) keeps their ratios"
    )


def comparable(option: Any) -> Any:
    """Return a value that changes whenever a captured graph would go on with an outdated ``option``.

    A graph reads a tensor on the device at its address, so only the identity of the tensor counts. A tensor on the CPU
    is passed as a number at the launch, so its value counts as well.
    """
    if not isinstance(option, Tensor):
        return option
    return id(option), option.item() if option.device.type == "cpu" else None
