"""Checks of arguments: each error names the argument, the value received and what to give instead."""

from __future__ import annotations

import math
import numbers
import reprlib
from typing import Any


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
            raise ValueError(f"{name}: got {short_repr(value)}; give a finite number")


def require_positive(**values: Any) -> None:
    """Raise a ValueError that names the first value that is not a finite number above 0."""
    for name, value in values.items():
        if not (_is_finite(value) and float(value) > 0):
            raise ValueError(f"{name}: got {short_repr(value)}; give a finite number above 0")


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
