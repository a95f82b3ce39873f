"""Curves made of other curves: joined, scaled, clipped, repeated, shifted, stretched."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from .._checks import require_finite, require_positive
from ._curves import Curve, Floats, as_curve


@dataclass(frozen=True)
class Joined(Curve):
    """Curves one after the other: ``curves[i]`` from ``boundaries[i-1]`` (included) to ``boundaries[i]`` (excluded).

    Each begins at its own step 0. ``boundaries`` are steps >= 0 in ascending order, one less than there are curves;
    others raise a ValueError. Equal boundaries leave out the curve between them.

    Examples:
        >>> from clrfast.schedules import Constant, Linear
        >>> Joined((Constant(1.0), Linear(5.0, 7.0, 2)), (2,))([0, 1, 2, 3, 4]).tolist()
        [1.0, 1.0, 5.0, 6.0, 7.0]
    """

    curves: tuple[Curve, ...]
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "curves", tuple(as_curve("curves", curve) for curve in self.curves))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        if len(self.boundaries) != len(self.curves) - 1:
            raise ValueError(
                f"boundaries: got {len(self.boundaries)} for {len(self.curves)} curves; "
                "give one less than there are curves"
            )
        ascending = zip((0, *self.boundaries), self.boundaries, strict=False)
        if not _are_numbers(*self.boundaries) or not all(low <= high for low, high in ascending):
            raise ValueError(f"boundaries: got {self.boundaries}; give steps >= 0 in ascending order")

    def _values(self, steps: Floats) -> Floats:
        values = np.empty(steps.shape)
        part = np.searchsorted(self.boundaries, steps, side="right")
        for index, (start, curve) in enumerate(zip((0.0, *self.boundaries), self.curves, strict=True)):
            inside = part == index
            if inside.any():
                values[inside] = curve(steps[inside] - start)
        return values


@dataclass(frozen=True)
class DerivedCurve(Curve):
    """Base of the curves that change one other curve."""

    curve: Curve

    def __post_init__(self) -> None:
        object.__setattr__(self, "curve", as_curve("curve", self.curve))


@dataclass(frozen=True)
class Scaled(DerivedCurve):
    """``factor * curve(step)``; ``factor`` is finite."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(factor=self.factor)

    def _values(self, steps: Floats) -> Floats:
        return self.factor * self.curve(steps)


@dataclass(frozen=True)
class Clipped(DerivedCurve):
    """``curve(step)``, clipped to [low, high]; ``low`` <= ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (_are_numbers(self.low, self.high) and self.low <= self.high):
            raise ValueError(f"low, high: got {self.low} and {self.high}; give numbers, low <= high")

    def _values(self, steps: Floats) -> Floats:
        return np.clip(self.curve(steps), self.low, self.high)


@dataclass(frozen=True)
class Repeated(DerivedCurve):
    """``curve(step mod period_steps)`` at every step; ``period_steps`` > 0.

    Examples:
        >>> from clrfast.schedules import Linear
        >>> Repeated(Linear(0.0, 1.0, 2), 3)([0, 1, 2, 3, 4]).tolist()
        [0.0, 0.5, 1.0, 0.0, 0.5]
    """

    period_steps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(period_steps=self.period_steps)

    def _values(self, steps: Floats) -> Floats:
        return self.curve(steps % self.period_steps)


@dataclass(frozen=True)
class Shifted(DerivedCurve):
    """``curve(max(step - by_steps, 0))``: later by ``by_steps``, or earlier if it is negative."""

    by_steps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(by_steps=self.by_steps)

    def _values(self, steps: Floats) -> Floats:
        return self.curve(np.maximum(steps - self.by_steps, 0.0))


@dataclass(frozen=True)
class Stretched(DerivedCurve):
    """``curve(step / factor)``, ``factor`` > 0: the number of steps per epoch turns epochs into steps."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(factor=self.factor)

    def _values(self, steps: Floats) -> Floats:
        return self.curve(steps / self.factor)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, Real) for value in values)
