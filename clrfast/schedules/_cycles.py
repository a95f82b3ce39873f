"""The triangular cycle of cyclical learning rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._checks import require_finite, require_positive
from ._curves import Curve, Floats

Amplitude = Callable[[Floats], Any]
"""Function from an array of cycle numbers to factors of the amplitude."""


@dataclass(frozen=True)
class Triangular(Curve):
    """Linear cycles between ``base`` and ``peak``, at every step.

        position = step mod (up_steps + down_steps)
        height   = position / up_steps                                      while rising
                   (up_steps + down_steps - position) / down_steps          while falling
        value    = base + (peak - base) * height * amplitude(cycle) * gamma ** step

    Args:
        base, peak: values at the start and in the middle of a cycle; a ``peak`` below ``base`` cycles downwards.
        up_steps, down_steps: lengths of the two parts of a cycle, > 0.
        cycle_gamma: factor of the amplitude from one cycle to the next, > 0 (triangular2: 0.5).
        step_gamma: factor of the amplitude from one step to the next, > 0 (exp_range).
        amplitude: another factor of the amplitude, a function of the array of cycle numbers 0, 1, ... A curve with one
            has no dict form.
    Raises:
        ValueError: an argument is outside its range.

    Examples:
        >>> Triangular(0.0, 1.0, 2, 2)([0, 1, 2, 3, 4]).tolist()
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    base: float
    peak: float
    up_steps: float
    down_steps: float
    cycle_gamma: float = 1.0
    step_gamma: float = 1.0
    amplitude: Amplitude | None = None

    def __post_init__(self) -> None:
        require_finite(base=self.base, peak=self.peak)
        require_positive(
            up_steps=self.up_steps,
            down_steps=self.down_steps,
            cycle_gamma=self.cycle_gamma,
            step_gamma=self.step_gamma,
        )
        if self.amplitude is not None and not callable(self.amplitude):
            raise ValueError(
                f"amplitude: got {self.amplitude!r}; give a function of the array of cycle numbers, or None"
            )

    def _values(self, steps: Floats) -> Floats:
        length = self.up_steps + self.down_steps
        cycle, position = np.floor(steps / length), steps % length
        height = np.minimum(position / self.up_steps, (length - position) / self.down_steps)
        scale = self.cycle_gamma**cycle * self.step_gamma**steps
        if self.amplitude is not None:
            scale = scale * np.asarray(self.amplitude(cycle), dtype=np.float64)
        return self.base + (self.peak - self.base) * height * scale
