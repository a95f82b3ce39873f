"""Checks of a parameter group's options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from ..schedules._warnings import warn_user
from ._parameters import require_one_element


def require_non_negative(options: dict[str, Any], *names: str) -> None:
    """Raise ValueError unless each option is a finite number >= 0; ``lr`` may be a tensor of one element."""
    for name in names:
        value = options[name]
        if name == "lr" and isinstance(value, Tensor):
            require_one_element(value)
        if not is_between(value, 0, math.inf):
            raise ValueError(f"{name}: got {value!r}; give a finite number >= 0")


def is_between(value: Any, low: float, end: float) -> bool:
    """Return whether ``value`` is a real number, or a tensor with one element that is, in ``[low, end)``."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and bool(low <= value < end)
    return isinstance(value, Real) and low <= float(value) < end


def require_betas(options: dict[str, Any]) -> None:
    """Raise ValueError unless ``betas`` are two numbers in [0, 1)."""
    betas = options["betas"]
    if not (isinstance(betas, Sequence) and len(betas) == 2 and all(is_between(beta, 0, 1) for beta in betas)):
        raise ValueError(f"betas: got {betas!r}; give two numbers in [0, 1)")


def require_clip_norm(clip_norm: Any) -> None:
    """Raise ValueError unless ``clip_norm`` is None or a finite number above 0."""
    is_number = isinstance(clip_norm, Real) and not isinstance(clip_norm, bool)
    if clip_norm is not None and not (is_number and 0 < float(clip_norm) < math.inf):
        raise ValueError(f"clip_norm: got {clip_norm!r}; give a finite number above 0, or None")


def agreed_clip_norm(own: float | None, given: float | None) -> float | None:
    """Return the ``clip_norm`` of an optimizer, or the one that is given for its step.

    Raises:
        ValueError: both are given, and differ.
    """
    if own is not None and given is not None and own != given:
        raise ValueError(
            f"clip_norm: got {float(given):g} for the step, and the optimizer has a clip_norm of {float(own):g}; leave "
            "one of them out, or give the same"
        )
    agreed = own if given is None else given
    return None if agreed is None else float(agreed)


def warn_overridden(rates: list[Any]) -> None:
    """Warn that one curve of a schedule replaces the groups' own ``rates``."""
    warn_user(
        f"the schedule replaces the parameter groups' own lr ({', '.join(f'{float(rate):g}' for rate in rates)}) by "
        "one for all; schedule.for_groups(param_groups) keeps their ratios"
    )


def comparable(option: Any) -> Any:
    """Return a value that changes whenever a captured graph would continue with an outdated ``option``.

    A graph reads a tensor on the device at its address, so only the identity of the tensor counts. A tensor on the CPU
    is passed as a number at the launch, so its value counts as well.
    """
    if not isinstance(option, Tensor):
        return option
    return id(option), option.item() if option.device.type == "cpu" else None
