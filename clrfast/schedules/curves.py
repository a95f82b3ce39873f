"""Curves: pure functions ``step -> value``, vectorised over a NumPy array of steps.

A curve is an immutable value: it compares, pickles, and goes to and from a plain dict, so that a
checkpoint or a config can carry it without pickling code. Every curve is defined for all steps >= 0;
past its last transition it holds its end value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


class Curve:
    """Base of all curves. A subclass is a frozen dataclass that defines ``_values``."""

    _kinds: ClassVar[dict[str, type[Curve]]] = {}

    def __init_subclass__(cls) -> None:
        Curve._kinds[cls.__name__] = cls

    def __call__(self, steps: ArrayLike) -> FloatArray:
        """Value at each of ``steps``.

        Args:
            steps: array of any shape, integer or float, >= 0.
        Returns:
            float64 array of the same shape.
        """
        return self._values(np.asarray(steps, dtype=np.float64))

    def _values(self, steps: FloatArray) -> FloatArray:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The curve as plain dicts, lists, strings and numbers; ``Curve.from_dict`` reads it back."""
        fields = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"curve": type(self).__name__, **fields}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Curve:
        """The curve that ``to_dict`` described.

        Raises:
            ValueError: the dict names no known curve, or its fields do not fit that curve.
        """
        fields = {name: _revived(value) for name, value in data.items() if name != "curve"}
        kind = Curve._kinds.get(str(data.get("curve")))
        if kind is None:
            raise ValueError(f"curve: {data.get('curve')!r} is unknown; known curves are {sorted(Curve._kinds)}")
        try:
            return kind(**fields)
        except TypeError as error:
            raise ValueError(f"curve: {dict(data)!r} does not describe a {kind.__name__}: {error}") from None


CurveLike = Curve | float | Callable[[FloatArray], ArrayLike]
"""What is accepted where a curve is expected: a curve, a number (constant), or any vectorised function."""


def _plain(value: Any) -> Any:
    if isinstance(value, Curve):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _revived(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Curve.from_dict(value)
    return tuple(_revived(item) for item in value) if isinstance(value, Sequence) else value


@dataclass(frozen=True)
class Constant(Curve):
    """``value`` at every step."""

    value: float

    def __post_init__(self) -> None:
        _require_finite(value=self.value)

    def _values(self, steps: FloatArray) -> FloatArray:
        return np.full(steps.shape, float(self.value))


@dataclass(frozen=True)
class Linear(Curve):
    """``start + (end - start) * min(step / transition_steps, 1)``: ``start`` at step 0, ``end`` from
    ``transition_steps`` on.

    >>> Linear(0.0, 1.0, 4)([0, 1, 2, 3, 4, 5]).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    start: float
    end: float
    transition_steps: int

    def __post_init__(self) -> None:
        _require_finite(start=self.start, end=self.end)
        _require_transition(self.transition_steps)

    def _values(self, steps: FloatArray) -> FloatArray:
        frac = np.minimum(steps / self.transition_steps, 1.0)
        return self.start * (1.0 - frac) + self.end * frac  # exact at both ends


@dataclass(frozen=True)
class Exponential(Curve):
    """``start * (end / start) ** min(step / transition_steps, 1)``: equal ratios between neighbours.

    >>> Exponential(1.0, 16.0, 4)([0, 1, 2, 3, 4, 5]).round(12).tolist()
    [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]
    """

    start: float
    end: float
    transition_steps: int

    def __post_init__(self) -> None:
        _require_finite(start=self.start, end=self.end)
        for name in ("start", "end"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, but an exponential curve needs a value above 0")
        _require_transition(self.transition_steps)

    def _values(self, steps: FloatArray) -> FloatArray:
        frac = np.minimum(steps / self.transition_steps, 1.0)
        return self.start ** (1.0 - frac) * self.end**frac  # exact at both ends


@dataclass(frozen=True)
class Joined(Curve):
    """Curves one after the other: ``curves[i]`` runs from ``boundaries[i-1]`` (included, and its own step 0)
    to ``boundaries[i]`` (excluded).

    Equal boundaries leave the curve between them out.

    >>> Joined((Constant(1.0), Linear(5.0, 7.0, 2)), (2,))([0, 1, 2, 3, 4]).tolist()
    [1.0, 1.0, 5.0, 6.0, 7.0]
    """

    curves: tuple[Curve, ...]
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.boundaries) != len(self.curves) - 1:
            raise ValueError(
                f"boundaries: got {len(self.boundaries)} for {len(self.curves)} curves; "
                "give one less than there are curves"
            )
        if list(self.boundaries) != sorted(self.boundaries) or min(self.boundaries, default=0) < 0:
            raise ValueError(f"boundaries: got {self.boundaries}; give steps >= 0 in ascending order")

    def _values(self, steps: FloatArray) -> FloatArray:
        values = self.curves[0](steps)
        for boundary, curve in zip(self.boundaries, self.curves[1:], strict=True):
            values = np.where(steps >= boundary, curve(np.maximum(steps - boundary, 0.0)), values)
        return values


@dataclass(frozen=True)
class Tabulated(Curve):
    """``values[step]``, and the last value past the end; fractional steps take the row that they are in."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values: got none; give at least one")

    def _values(self, steps: FloatArray) -> FloatArray:
        index = np.minimum(steps, len(self.values) - 1).astype(np.int64)
        return np.asarray(self.values, dtype=np.float64)[index]


def sampled(curve: CurveLike, total_steps: int) -> FloatArray:
    """``curve`` at steps ``0 .. total_steps - 1`` as float64 ``[total_steps]``.

    Raises:
        ValueError: the function did not return one value per step.
    """
    function = Constant(curve) if isinstance(curve, float | int) else curve
    values = np.asarray(function(np.arange(total_steps, dtype=np.float64)), dtype=np.float64)
    if values.shape != (total_steps,):
        raise ValueError(
            f"curve: {curve!r} returned shape {values.shape} for {total_steps} steps; "
            "it must map an array of steps to an array of the same shape"
        )
    return values


def _require_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name}: got {value}; give a finite number")


def _require_transition(transition_steps: int) -> None:
    if transition_steps < 1:
        raise ValueError(f"transition_steps: got {transition_steps}; give at least 1")
