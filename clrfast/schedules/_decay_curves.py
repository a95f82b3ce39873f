"""Curves that fall from a high value to a low one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._checks import is_whole, require_finite, require_positive
from ._curves import Curve, Floats, Transition


@dataclass(frozen=True)
class Cosine(Transition):
    """Half a cosine: ``end + (start - end) * (1 + cos(pi * frac)) / 2``, frac = min(step / transition_steps, 1).

    ``start`` and ``end`` are finite, and ``transition_steps`` > 0; other values raise a ValueError.

    Examples:
        >>> Cosine(1.0, 0.0, 2)([0, 1, 2, 3]).round(12).tolist()
        [1.0, 0.5, 0.0, 0.0]
    """

    def _values(self, steps: Floats) -> Floats:
        weight = (1.0 + np.cos(np.pi * self._frac(steps))) / 2.0
        return self.start * weight + self.end * (1.0 - weight)  # exact at both ends


@dataclass(frozen=True)
class Polynomial(Transition):
    """``end + (start - end) * (1 - frac) ** power``, frac = min(step / transition_steps, 1).

    ``start`` and ``end`` are finite, ``transition_steps`` and ``power`` > 0; other values raise a ValueError.

    Examples:
        >>> Polynomial(1.0, 0.0, 2, power=2.0)([0, 1, 2, 3]).tolist()
        [1.0, 0.25, 0.0, 0.0]
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(power=self.power)

    def _values(self, steps: Floats) -> Floats:
        return self.end + (self.start - self.end) * (1.0 - self._frac(steps)) ** self.power


@dataclass(frozen=True)
class ExponentialDecay(Curve):
    """``start * gamma ** (step / decay_steps)`` at every step; ``stepwise`` rounds the exponent down.

    ``start`` is finite, ``gamma`` and ``decay_steps`` > 0; other values raise a ValueError.

    Examples:
        >>> ExponentialDecay(1.0, 0.5, 2, stepwise=True)([0, 1, 2, 3, 4]).tolist()
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    start: float
    gamma: float
    decay_steps: float = 1.0
    stepwise: bool = False

    def __post_init__(self) -> None:
        require_finite(start=self.start)
        require_positive(gamma=self.gamma, decay_steps=self.decay_steps)
        if not isinstance(self.stepwise, bool):
            raise ValueError(f"stepwise: got {self.stepwise!r}; give True or False")

    def _values(self, steps: Floats) -> Floats:
        exponent = steps / self.decay_steps
        return self.start * self.gamma ** (np.floor(exponent) if self.stepwise else exponent)


@dataclass(frozen=True)
class InverseSqrt(Curve):
    """``start * sqrt(scale_steps / (scale_steps + step))`` at every step: half of ``start`` after 3 * scale_steps.

    ``start`` is finite, and ``scale_steps`` > 0; other values raise a ValueError.
    """

    start: float
    scale_steps: float

    def __post_init__(self) -> None:
        require_finite(start=self.start)
        require_positive(scale_steps=self.scale_steps)

    def _values(self, steps: Floats) -> Floats:
        return self.start * np.sqrt(self.scale_steps / (self.scale_steps + steps))


@dataclass(frozen=True)
class CosineRestarts(Curve):
    """Cosine annealing from ``start`` to ``end``, again and again.

    Each period restarts at ``start`` and is ``period_mult`` times as long as the one before. The first has
    ``period_steps`` steps. Both are whole numbers >= 1; other values raise a ValueError. ``end`` itself is not reached,
    because the restart takes its step.

    Examples:
        >>> CosineRestarts(1.0, 0.0, 2, 2)([0, 1, 2, 3, 4, 6]).round(4).tolist()
        [1.0, 0.5, 1.0, 0.8536, 0.5, 1.0]
    """

    start: float
    end: float
    period_steps: int
    period_mult: int = 1

    def __post_init__(self) -> None:
        require_finite(start=self.start, end=self.end)
        for name in ("period_steps", "period_mult"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise ValueError(f"{name}: got {value}; give a whole number, at least 1")

    def _values(self, steps: Floats) -> Floats:
        if self.period_mult == 1:
            frac = (steps % self.period_steps) / self.period_steps
        else:
            # Exact boundaries; a logarithm would be off by one at some restarts.
            starts, lengths = [0.0], [float(self.period_steps)]
            while starts[-1] + lengths[-1] <= steps.max(initial=0.0):
                starts.append(starts[-1] + lengths[-1])
                lengths.append(lengths[-1] * self.period_mult)
            index = np.searchsorted(starts, steps, side="right") - 1
            frac = (steps - np.array(starts)[index]) / np.array(lengths)[index]
        return self.end + (self.start - self.end) * (1.0 + np.cos(np.pi * frac)) / 2.0
