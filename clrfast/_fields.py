"""The entries of dicts from files and users: each is a value of the wanted type, or a ValueError that names it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import parse_float, short_repr

MOST = 2**53
"""Whole numbers beyond this are none that a file of this package holds, and not exact as floats."""


class Fields:
    """The entries of a dict, by their names.

    Args:
        data: the dict.
        at: where it is, for messages: "" for the outermost.
    Raises:
        ValueError: ``data`` is no dict.
    """

    def __init__(self, data: Any, at: str = ""):
        if not isinstance(data, Mapping):
            raise ValueError(f"{at or 'all of it'}: got {short_repr(data)}; give a dict")
        self._data, self._at = data, at

    def only(self, *names: str) -> None:
        """Raises ValueError for an entry of another name."""
        for name in self._data:
            if name not in names:
                raise ValueError(f"{self.path(name)}: this entry is unknown; known are {', '.join(names)}")

    def without(self, name: str) -> Fields:
        """The other entries."""
        return Fields({key: value for key, value in self._data.items() if key != name}, self._at)

    def path(self, name: Any) -> str:
        """Where the entry is, in messages."""
        entry = name if isinstance(name, str) else short_repr(name)
        return f"{self._at}.{entry}" if self._at else entry

    def holds(self, name: str) -> bool:
        """Whether there is such an entry, other than None."""
        return self._data.get(name) is not None

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """A block whose errors begin with the name of an entry: they get the way to it."""
        try:
            yield
        except ValueError as error:
            raise ValueError(self.path(str(error))) from None

    def any(self, name: str) -> Any:
        """Whatever it is."""
        if name not in self._data:
            raise ValueError(f"{self.path(name)}: this entry is missing")
        return self._data[name]

    def number(self, name: str) -> float:
        return parse_float(self.path(name), self.any(name))

    def finite(self, name: str, least: float) -> float:
        """A finite number, at least ``least``."""
        value = self.number(name)
        if not least <= value < math.inf:
            raise ValueError(
                f"{self.path(name)}: got {short_repr(self.any(name))}; give a finite number, at least {least:g}"
            )
        return value

    def positive(self, name: str) -> float:
        """A finite number above 0."""
        value = self.finite(name, 0.0)
        if value == 0.0:
            raise ValueError(f"{self.path(name)}: got 0; give a number above 0")
        return value

    def whole(self, name: str, least: int) -> int:
        """A whole number, at least ``least``."""
        value = self.number(name)
        if not (least <= value <= MOST and value.is_integer()):
            raise ValueError(
                f"{self.path(name)}: got {short_repr(self.any(name))}; give a whole number, at least {least}"
            )
        return int(value)

    def text(self, name: str) -> str:
        return self._of_type(name, str, "text")

    def flag(self, name: str) -> bool:
        return self._of_type(name, bool, "true or false")

    def fields(self, name: str) -> Fields:
        """A dict."""
        return Fields(self.any(name), self.path(name))

    def each(self, name: str) -> list[Fields]:
        """A list of dicts."""
        return _dicts(self.path(name), self.any(name))

    def rows(self, name: str) -> list[list[Fields]]:
        """A list of lists of dicts."""
        return [_dicts(f"{self.path(name)}[{i}]", row) for i, row in enumerate(self.items(name))]

    def items(self, name: str) -> list[Any]:
        """A list."""
        return _list(self.path(name), self.any(name))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """float64 ``[n]``, of a list of numbers."""
        path = self.path(name)
        return np.array(
            [parse_float(f"{path}[{i}]", item) for i, item in enumerate(self.items(name))], dtype=np.float64
        )

    def finite_numbers(self, name: str, least: float) -> NDArray[np.float64]:
        """float64 ``[n]``: finite numbers, at least ``least``."""
        values = self.numbers(name)
        if not (np.isfinite(values) & (values >= least)).all():
            raise ValueError(f"{self.path(name)}: got {short_repr(self.any(name))}; give finite numbers >= {least:g}")
        return values

    def ascending(self, name: str, least: float) -> NDArray[np.float64]:
        """float64 ``[n]``: finite numbers, at least ``least``, none below the one before it."""
        values = self.finite_numbers(name, least)
        if (np.diff(values) < 0).any():
            raise ValueError(f"{self.path(name)}: got {short_repr(self.any(name))}; give numbers in ascending order")
        return values

    def _of_type(self, name: str, kind: type, what: str) -> Any:
        value = self.any(name)
        if not isinstance(value, kind):
            raise ValueError(f"{self.path(name)}: got {short_repr(value)}; give {what}")
        return value


def _list(path: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{path}: got {short_repr(value)}; give a list")
    return list(value)


def _dicts(path: str, value: Any) -> list[Fields]:
    return [Fields(item, f"{path}[{i}]") for i, item in enumerate(_list(path, value))]
