"""Checks of arguments: each error names the argument, the value received and what to give instead."""

from __future__ import annotations

import math
import numbers
import reprlib
from typing import Any

MIN_RAMP_STEPS, MAX_RATE_RATIO = 5, 4.0
"""Fewest updates of a ramp, and maximum ratio of its neighbouring rates: beyond it a single point decides."""


def short_repr(value: Any) -> str:
    """Return ``repr(value)`` for an error message, shortened where it is long."""
    try:
        return reprlib.repr(value)
    except Exception:  # such as an integer with more digits than Python prints
        return f"a value of type {type(value).__name__}"


def parse_float(name: str, value: Any) -> float:
    """Return ``value``, a real number or a text that reads as one, as a float.

    Text is accepted because YAML reads ``1e-3`` as text and JSON has no ``inf``. True and False are not numbers.

    Raises:
        ValueError: ``value`` is neither, or beyond the range of a float; the message begins with ``name``.

    >>> parse_float("lr", 3), parse_float("lr", "1e-3"), parse_float("loss", "inf")
    (3.0, 0.001, inf)
    """
    if isinstance(value, numbers.Real | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"{name}: got {short_repr(value)}; give a number within the range of a float")


def require_finite(**values: Any) -> None:
    """Raise a ValueError that names the first value that is not a finite number."""
    for name, value in values.items():
        if not _is_finite(value):
            raise ValueError(f"{name}: got {short_repr(value)}; give {remedy(name, value, 'a finite number')}")


def require_positive(**values: Any) -> None:
    """Raise a ValueError that names the first value that is not a finite number above 0."""
    for name, value in values.items():
        if not (_is_finite(value) and float(value) > 0):
            raise ValueError(f"{name}: got {short_repr(value)}; give {remedy(name, value, 'a finite number above 0')}")


def remedy(name: str, value: Any, wanted: str) -> str:
    """Return what to give for the argument ``name``: the rate of a suggestion or a recipe, or what was ``wanted``."""
    return "its max_lr" if name.endswith("lr") and hasattr(value, "max_lr") else wanted


def require_ramp_steps(name: str, steps: int, min_lr: float, max_lr: float, spacing: str) -> None:
    """Raise a ValueError that begins with ``name`` if a ramp of ``steps`` updates has too few rates for an answer.

    It needs ``MIN_RAMP_STEPS``, and neighbouring rates of an exponential ramp differ by at most ``MAX_RATE_RATIO``.

    >>> require_ramp_steps("steps", 15, 1e-7, 10, "exponential")
    >>> require_ramp_steps("steps", 14, 1e-7, 10, "exponential")
    Traceback (most recent call last):
    ValueError: steps: got 14; give at least 15, or 'auto': fewer rates from 1e-07 to 10 are too far apart for an answer
    """
    least, why = MIN_RAMP_STEPS, "do not define a slope"
    if spacing == "exponential":
        octaves = math.log2(max_lr) - math.log2(min_lr)  # the ratio itself may overflow
        n_close = math.ceil(octaves / math.log2(MAX_RATE_RATIO)) + 1
        if n_close > least:
            least, why = n_close, f"from {min_lr:g} to {max_lr:g} are too far apart for an answer"
    if steps < least:
        raise ValueError(f"{name}: got {steps}; give at least {least}, or 'auto': fewer rates {why}")


def count(number: int, noun: str) -> str:
    """Return ``number`` with its noun.

    >>> count(1, "step"), count(2, "step")
    ('1 step', '2 steps')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def is_whole(value: Any) -> bool:
    """Return whether ``value`` is a finite number without a fraction, of any type. True and False are not numbers.

    >>> is_whole(3), is_whole(3.0), is_whole(3.5), is_whole(True)
    (True, True, False, False)
    """
    return _is_finite(value) and float(value).is_integer()


def _is_finite(value: Any) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
