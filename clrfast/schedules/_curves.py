"""Curves: pure functions ``step -> value``, vectorised over a NumPy array of steps.

A curve is an immutable value: it compares, pickles, and converts to and from a plain dict, so that a checkpoint or a
config can carry it without pickling code. Every curve is defined for all steps >= 0 and keeps its end value past its
last transition.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._checks import parse_float, remedy, require_finite, require_positive, short_repr
from .._fields import Fields

Floats = NDArray[np.float64]

MAX_DEPTH = 50
"""Maximum nesting of curves and lists in a dict, far below Python's limit of recursion."""


class Curve:
    """Base of all curves. A subclass is a frozen dataclass that defines ``_values``."""

    _kinds: ClassVar[dict[str, type[Curve]]] = {}

    def __init_subclass__(cls) -> None:
        if "_values" in vars(cls):  # an abstract base has none
            Curve._kinds[cls.__name__] = cls

    def __call__(self, steps: ArrayLike) -> Floats:
        """Return the value at each of ``steps``.

        Args:
            steps: array of any shape, integer or float, >= 0.
        Returns:
            float64 array of the same shape.
        """
        return self._values(np.asarray(steps, dtype=np.float64))

    def _values(self, steps: Floats) -> Floats:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Convert the curve to plain dicts, lists, strings and numbers, which ``Curve.from_dict`` reads.

        Raises:
            ValueError: the curve is or contains a plain function.
        """
        fields = {f.name: _to_plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"kind": type(self).__name__, **fields}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Curve:
        """Make the curve that ``to_dict`` described.

        Text that reads as a number is accepted as one, because YAML reads 1e-3 as text.

        Raises:
            ValueError: the dict names no known curve, or its fields do not fit that curve.
        """
        return _make_curve("curve", data, MAX_DEPTH)


CurveLike = Curve | float | Callable[[Floats], ArrayLike]
"""Argument for a curve: a curve, a number (constant), or any vectorised function of the steps."""


def _to_plain(value: Any) -> Any:
    if isinstance(value, Curve):
        return value.to_dict()
    if callable(value):
        raise ValueError(f"curve: {value!r} is a plain function and has no dict form; schedule.bound_to tabulates it")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def from_plain(name: str, value: Any, depth: int = MAX_DEPTH) -> Any:
    """Convert a value of ``to_dict`` back to a curve, a tuple, a number, a flag or None.

    Raises:
        ValueError: it is none of these, or nested more than ``depth`` deep; the message begins with ``name``.
    """
    if value is None or isinstance(value, bool | Curve):
        return value
    if not isinstance(value, Mapping | list | tuple):
        value = parse_float(name, value)
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if depth == 0:
        raise ValueError(f"{name}: it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return _make_curve(name, value, depth)
    return tuple(from_plain(name, item, depth - 1) for item in value)


def _make_curve(name: str, data: Mapping[str, Any], depth: int) -> Curve:
    entries = Fields(data, name)
    kind = Curve._kinds.get(entries.text("kind"))
    if kind is None:
        raise ValueError(
            f"{name}: {short_repr(entries.text('kind'))} is unknown; known curves are {sorted(Curve._kinds)}"
        )
    fields = {key: from_plain(entries.path(key), value, depth - 1) for key, value in data.items() if key != "kind"}
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {short_repr(data)} does not describe a {kind.__name__}: {error}") from None


@dataclass(frozen=True)
class Constant(Curve):
    """``value``, a finite number, at every step."""

    value: float

    def __post_init__(self) -> None:
        require_finite(value=self.value)

    def _values(self, steps: Floats) -> Floats:
        return np.full(steps.shape, float(self.value))


@dataclass(frozen=True)
class Transition(Curve):
    """Base of the curves from ``start`` at step 0 to ``end`` at step ``transition_steps`` and after it."""

    start: float
    end: float
    transition_steps: float

    def __post_init__(self) -> None:
        require_finite(start=self.start, end=self.end)
        require_positive(transition_steps=self.transition_steps)

    def _frac(self, steps: Floats) -> Floats:
        """Return ``min(step / transition_steps, 1)``."""
        return np.minimum(steps / self.transition_steps, 1.0)


@dataclass(frozen=True)
class Linear(Transition):
    """``start + (end - start) * frac``, frac = min(step / transition_steps, 1).

    ``start`` and ``end`` are finite, and ``transition_steps`` > 0; other values raise a ValueError.

    Examples:
        >>> Linear(0.0, 1.0, 4)([0, 1, 2, 3, 4, 5]).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def _values(self, steps: Floats) -> Floats:
        frac = self._frac(steps)
        return self.start * (1.0 - frac) + self.end * frac  # exact at both ends


@dataclass(frozen=True)
class Exponential(Transition):
    """``start * (end / start) ** frac``, frac = min(step / transition_steps, 1).

    ``start``, ``end`` and ``transition_steps`` are > 0; other values raise a ValueError.

    Examples:
        >>> Exponential(1.0, 16.0, 4)([0, 1, 2, 3, 4, 5]).round(12).tolist()
        [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(start=self.start, end=self.end)

    def _values(self, steps: Floats) -> Floats:
        frac = self._frac(steps)
        return self.start ** (1.0 - frac) * self.end**frac  # exact at both ends


@dataclass(frozen=True)
class Tabulated(Curve):
    """``values[floor(step)]``, and the last value past the end; ``values`` are finite numbers, at least one."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(map(float, self.values)))
        if not self.values:
            raise ValueError("values: got none; give at least one")
        for value in self.values:
            require_finite(values=value)

    def _values(self, steps: Floats) -> Floats:
        index = np.minimum(steps, len(self.values) - 1).astype(np.int64)
        return np.asarray(self.values, dtype=np.float64)[index]


@dataclass(frozen=True)
class Function(Curve):
    """Any function from a float64 array of steps to an array of values of the same shape; it has no dict form."""

    function: Callable[[Floats], ArrayLike]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function: got {short_repr(self.function)}; give a function of an array of steps")

    def _values(self, steps: Floats) -> Floats:
        values = np.asarray(self.function(steps), dtype=np.float64)
        if values.shape != steps.shape:
            raise ValueError(
                f"curve: {self.function!r} returned shape {values.shape} for steps of shape {steps.shape}; "
                "it must map an array of steps to an array of the same shape"
            )
        return values


def as_curve(name: str, value: CurveLike) -> Curve:
    """Convert a number to a ``Constant`` and a function to a ``Function``; return a curve unchanged.

    Raises:
        ValueError: ``value`` is none of these; the message begins with ``name``.
    """
    if isinstance(value, Curve):
        return value
    if callable(value):
        return Function(value)
    try:
        return Constant(float(value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name}: got {short_repr(value)}; give "
            + remedy(name, value, "a curve, a finite number or a function of the array of steps")
        ) from None
