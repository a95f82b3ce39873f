"""Policies that keep, ramp or cycle the rate.

``momentum`` of a cyclical policy is None (the parameter groups keep their own), a number (fixed), or a pair
(upper, lower) that cycles against the rate. ``weight_decay`` is None or a curve, as in ``Schedule``.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Literal

import numpy as np

from .._checks import require_finite, require_positive
from ._curves import Constant, Curve, CurveLike, Exponential, Linear
from ._cycles import Amplitude, Triangular
from ._schedule import Schedule
from ._table import check_total_steps

MAX_LR = float(np.finfo(np.float32).max)
"""The largest finite float32, and so the largest rate of a table."""

Momentum = tuple[float, float] | float | None
"""Argument for a momentum: (upper, lower) to cycle against the rate, a fixed number, or None for the groups' own."""

Spacing = Literal["exponential", "linear"]
"""Spacing of a ramp's rates: equal ratios or equal differences."""


def constant(
    lr: float, total_steps: int, *, momentum: float | None = None, weight_decay: CurveLike | None = None
) -> Schedule:
    """Make the schedule with ``lr`` at every step.

    Args:
        lr: the rate, >= 0.
        total_steps: length of the run in optimizer steps, >= 1.
        momentum, weight_decay: as in ``Schedule``; None keeps the parameter groups' values.
    """
    return Schedule(lr, momentum, weight_decay, total_steps)


def lr_ramp(
    min_lr: float,
    max_lr: float,
    total_steps: int,
    *,
    spacing: Spacing = "exponential",
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make the ramp of a range test: from ``min_lr`` at step 0 to ``max_lr`` at the last step, both included.

        exponential: lr = min_lr * (max_lr / min_lr) ** (step / (total_steps - 1))
        linear:      lr = min_lr + (max_lr - min_lr) * step / (total_steps - 1)

    Args:
        min_lr, max_lr: 0 < min_lr < max_lr.
        total_steps: >= 2.
        spacing: "exponential" (equal ratios) or "linear" (equal differences; Smith 2015 for cyclical bounds).
        momentum, weight_decay: as in ``Schedule``; None keeps the parameter groups' values.
    Raises:
        ValueError: the rates are out of order, not positive or not finite; fewer than 2 steps; an unknown spacing.

    Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    numbers_ = all(isinstance(rate, numbers.Real) for rate in (min_lr, max_lr))
    if not (numbers_ and 0 < min_lr < max_lr <= MAX_LR):
        raise ValueError(
            f"min_lr, max_lr: got {min_lr!r} and {max_lr!r}; give rates with 0 < min_lr < max_lr <= {MAX_LR:.3g}"
        )
    if check_total_steps(total_steps) < 2:
        raise ValueError(f"total_steps: got {total_steps}; a ramp needs at least 2 steps")
    kinds: dict[str, type[Exponential] | type[Linear]] = {"exponential": Exponential, "linear": Linear}
    if spacing not in kinds:
        raise ValueError(f"spacing: got {spacing!r}; give one of {sorted(kinds)}")
    lr = kinds[spacing](min_lr, max_lr, total_steps - 1)
    return Schedule(lr, momentum, weight_decay, total_steps)


def triangular(
    base_lr: float,
    max_lr: float,
    total_steps: int,
    *,
    step_size: float,
    step_size_down: float | None = None,
    cycle_gamma: float = 1.0,
    step_gamma: float = 1.0,
    amplitude: Amplitude | None = None,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make a cyclical learning rate: linear from ``base_lr`` to ``max_lr`` and back, over and over.

    See ``clrfast.schedules.Triangular`` for the formula.

    Args:
        base_lr, max_lr: 0 <= base_lr <= max_lr, as the rule "clr_bounds" of a range test finds them.
        total_steps: length of the run in optimizer steps, >= 1.
        step_size: length of the rising part in steps, > 0; the paper advises 2 to 10 epochs.
        step_size_down: length of the falling part in steps, > 0; None takes ``step_size``.
        cycle_gamma, step_gamma: factors of the amplitude after each cycle and after each step, > 0.
        amplitude: another factor of the amplitude, a function of the array of cycle numbers 0, 1, ...
        momentum: None, a number, or (upper, lower), which cycles against the rate.
        weight_decay: as in ``Schedule``; None keeps the parameter groups' values.
    Raises:
        ValueError: an argument is outside its range.

    Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", sections 3.1 and 3.2.
    """
    require_positive(step_size=step_size, step_size_down=step_size if step_size_down is None else step_size_down)
    require_finite(base_lr=base_lr, max_lr=max_lr)
    if not 0 <= base_lr <= max_lr:
        raise ValueError(f"base_lr, max_lr: got {base_lr} and {max_lr}; give finite rates with 0 <= base_lr <= max_lr")

    def cycle(base: float, peak: float) -> Curve:
        down = step_size if step_size_down is None else step_size_down
        return Triangular(base, peak, step_size, down, cycle_gamma, step_gamma, amplitude)

    return Schedule(cycle(base_lr, max_lr), momentum_curve(momentum, cycle), weight_decay, total_steps)


def triangular2(
    base_lr: float,
    max_lr: float,
    total_steps: int,
    *,
    step_size: float,
    step_size_down: float | None = None,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make the schedule of ``triangular``, and halve the amplitude after every cycle.

    Args:
        base_lr, max_lr, total_steps, step_size, step_size_down, momentum, weight_decay: as in ``triangular``.
    """
    return triangular(
        base_lr,
        max_lr,
        total_steps,
        step_size=step_size,
        step_size_down=step_size_down,
        cycle_gamma=0.5,
        momentum=momentum,
        weight_decay=weight_decay,
    )


def exp_range(
    base_lr: float,
    max_lr: float,
    total_steps: int,
    *,
    step_size: float,
    gamma: float,
    step_size_down: float | None = None,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make the schedule of ``triangular`` with the amplitude times ``gamma ** step``.

    Args:
        base_lr, max_lr, total_steps, step_size, step_size_down, momentum, weight_decay: as in ``triangular``.
        gamma: factor of the amplitude after each step, > 0 (the paper: 0.99994).
    """
    return triangular(
        base_lr,
        max_lr,
        total_steps,
        step_size=step_size,
        step_size_down=step_size_down,
        step_gamma=gamma,
        momentum=momentum,
        weight_decay=weight_decay,
    )


def momentum_curve(momentum: Momentum, cycle: Callable[[float, float], Curve]) -> Curve | None:
    """Return the curve of a policy's argument ``momentum``.

    Args:
        cycle: ``cycle(upper, lower)`` returns the curve that is lowest where the rate is highest.
    Raises:
        ValueError: a momentum is not in [0, 1), or the pair is out of order.
    """
    if momentum is None:
        return None
    pair = momentum if isinstance(momentum, tuple | list) else (momentum, momentum)
    if len(pair) != 2 or not 0 <= pair[1] <= pair[0] < 1:
        raise ValueError(
            f"momentum: got {momentum}; give None, a number in [0, 1), or (upper, lower) with 0 <= lower <= upper < 1"
        )
    upper, lower = pair
    return Constant(upper) if upper == lower else cycle(upper, lower)
