"""``Fields``: reads dicts that come from files or users; a ValueError names each entry that is missing or wrong."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import parse_float, short_repr

MAX_INTEGER = 2**53
"""Largest integer that is accepted; larger ones are not exact as floats."""


class Fields:
    """The entries of a dict, by name. Each method raises a ValueError that names the entry it refuses.

    Args:
        data: the dict.
        prefix: path of the dict inside the outermost one, for messages; "" for the outermost.
    Raises:
        ValueError: ``data`` is not a dict.
    """

    def __init__(self, data: Any, prefix: str = ""):
        if not isinstance(data, Mapping):
            raise ValueError(f"{prefix or 'all of it'}: got {short_repr(data)}; give a dict")
        self._data, self._prefix = data, prefix

    def require_known(self, *names: str) -> None:
        """Raise a ValueError for the first entry whose name is not in ``names``."""
        for name in self._data:
            if name not in names:
                raise ValueError(f"{self.path(name)}: this entry is unknown; known are {', '.join(names)}")

    @property
    def names(self) -> list[str]:
        """Names of all entries."""
        return list(self._data)

    def without(self, name: str) -> Fields:
        """Return all entries but ``name``."""
        return Fields({key: value for key, value in self._data.items() if key != name}, self._prefix)

    def path(self, name: Any) -> str:
        """Return the name of an entry in messages, with the path to it."""
        entry = name if isinstance(name, str) else short_repr(name)
        return f"{self._prefix}.{entry}" if self._prefix else entry

    def has(self, name: str) -> bool:
        """Return whether the entry exists and is not None."""
        return self._data.get(name) is not None

    @contextlib.contextmanager
    def prefix_errors(self) -> Iterator[None]:
        """Prefix ValueErrors of this block with the path; their messages begin with the name of an entry."""
        try:
            yield
        except ValueError as error:
            raise ValueError(self.path(str(error))) from None

    def get(self, name: str) -> Any:
        """Return the entry, of any type."""
        if name not in self._data:
            raise ValueError(f"{self.path(name)}: this entry is missing")
        return self._data[name]

    def number(self, name: str) -> float:
        return parse_float(self.path(name), self.get(name))

    def finite(self, name: str, least: float) -> float:
        """Return a finite number, at least ``least``."""
        value = self.number(name)
        if not (least <= value and math.isfinite(value)):
            at_least = "" if least == -math.inf else f", at least {least:g}"
            raise ValueError(f"{self.path(name)}: got {short_repr(self.get(name))}; give a finite number{at_least}")
        return value

    def positive(self, name: str) -> float:
        """Return a finite number above 0."""
        value = self.finite(name, 0.0)
        if value == 0.0:
            raise ValueError(f"{self.path(name)}: got 0; give a number above 0")
        return value

    def integer(self, name: str, least: int) -> int:
        """Return a whole number, at least ``least``."""
        value = self.number(name)
        if not (least <= value <= MAX_INTEGER and value.is_integer()):
            raise ValueError(
                f"{self.path(name)}: got {short_repr(self.get(name))}; give a whole number, at least {least}"
            )
        return int(value)

    def text(self, name: str) -> str:
        return self._of_type(name, str, "text")

    def boolean(self, name: str) -> bool:
        return self._of_type(name, bool, "true or false")

    def nested(self, name: str) -> Fields:
        """Return the entries of a dict."""
        return Fields(self.get(name), self.path(name))

    def dicts(self, name: str) -> list[Fields]:
        """Return the entries of each dict in a list."""
        return _dicts(self.path(name), self.get(name))

    def rows_of_dicts(self, name: str) -> list[list[Fields]]:
        """Return the entries of each dict in a list of lists."""
        return [_dicts(f"{self.path(name)}[{i}]", row) for i, row in enumerate(self.values(name))]

    def values(self, name: str) -> list[Any]:
        """Return a list of values of any type."""
        return _list(self.path(name), self.get(name))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a list of numbers as float64 ``[n]``."""
        path = self.path(name)
        parsed = [parse_float(f"{path}[{i}]", item) for i, item in enumerate(self.values(name))]
        return np.array(parsed, dtype=np.float64)

    def finite_numbers(self, name: str, least: float) -> NDArray[np.float64]:
        """Return finite numbers, at least ``least``, as float64 ``[n]``."""
        values = self.numbers(name)
        if not (np.isfinite(values) & (values >= least)).all():
            raise ValueError(f"{self.path(name)}: got {short_repr(self.get(name))}; give finite numbers >= {least:g}")
        return values

    def ascending(self, name: str, least: float) -> NDArray[np.float64]:
        """Return finite numbers, at least ``least`` and in ascending order, as float64 ``[n]``."""
        values = self.finite_numbers(name, least)
        if (np.diff(values) < 0).any():
            raise ValueError(f"{self.path(name)}: got {short_repr(self.get(name))}; give numbers in ascending order")
        return values

    def _of_type(self, name: str, kind: type, what: str) -> Any:
        value = self.get(name)
        if not isinstance(value, kind):
            raise ValueError(f"{self.path(name)}: got {short_repr(value)}; give {what}")
        return value


def _list(path: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{path}: got {short_repr(value)}; give a list")
    return list(value)


def _dicts(path: str, value: Any) -> list[Fields]:
    return [Fields(item, f"{path}[{i}]") for i, item in enumerate(_list(path, value))]
