"""Policies: named schedules of the literature, each a few lines over curves."""

from __future__ import annotations

import math
from typing import Literal

from .curves import Constant, Curve, CurveLike, Exponential, Joined, Linear
from .schedule import Schedule

Spacing = Literal["exponential", "linear"]


def constant(lr: float, total_steps: int, *, momentum: float | None = None) -> Schedule:
    """``lr`` at every step, and ``momentum`` likewise (None: as the parameter groups have it)."""
    return Schedule(lr=lr, momentum=momentum, total_steps=total_steps)


def lr_sweep(
    min_lr: float,
    max_lr: float,
    total_steps: int,
    *,
    spacing: Spacing = "exponential",
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """The learning-rate range test's sweep: from ``min_lr`` at step 0 to ``max_lr`` at the last step, both included.

        exponential: lr = min_lr * (max_lr / min_lr) ** (step / (total_steps - 1))
        linear:      lr = min_lr + (max_lr - min_lr) * step / (total_steps - 1)

    Args:
        min_lr, max_lr: 0 < min_lr < max_lr.
        total_steps: >= 2.
        spacing: "exponential" (equal ratios) or "linear" (equal differences; Smith 2015 for cyclical bounds).
        momentum, weight_decay: as in ``Schedule``; None keeps the parameter groups' values.
    Raises:
        ValueError: rates out of order or not positive and finite, fewer than 2 steps, an unknown spacing.

    Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    if not (0 < min_lr < max_lr and math.isfinite(max_lr)):
        raise ValueError(f"min_lr, max_lr: got {min_lr} and {max_lr}; give finite rates with 0 < min_lr < max_lr")
    if total_steps < 2:
        raise ValueError(f"total_steps: got {total_steps}; a sweep needs at least 2 steps")
    kinds: dict[str, type[Exponential] | type[Linear]] = {"exponential": Exponential, "linear": Linear}
    if spacing not in kinds:
        raise ValueError(f"spacing: got {spacing!r}; give one of {sorted(kinds)}")
    lr = kinds[spacing](min_lr, max_lr, total_steps - 1)
    return Schedule(lr, momentum, weight_decay, total_steps)


def one_cycle(
    max_lr: float,
    total_steps: int,
    *,
    div: float = 10.0,
    final_div: float = 100.0,
    tail_frac: float = 0.1,
    max_momentum: float = 0.95,
    min_momentum: float = 0.85,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Smith's 1cycle: one linear cycle of the rate, momentum cycling against it, then a tail that annihilates the rate.

        low = max_lr / div,  up_steps = round((1 - tail_frac) * total_steps / 2)
        step 0 .. up_steps:              lr low -> max_lr            momentum max -> min
        up_steps .. 2 * up_steps:        lr max_lr -> low            momentum min -> max
        2 * up_steps .. total_steps - 1: lr low -> low / final_div   momentum max

    Every end point is reached exactly: step 0 has ``low``, step ``up_steps`` has ``max_lr``, the last step has
    ``low / final_div``. What rounding leaves over goes to the tail; ``up_steps`` is at most
    ``(total_steps - 1) // 2``, so a run of fewer than 3 steps has no peak.

    Args:
        max_lr: the upper bound, > 0: what a range test suggests.
        total_steps: length of the run in optimizer steps, >= 1.
        div: max_lr over the lower bound, >= 1 (Smith: 10 to 20).
        final_div: the lower bound over the last rate, >= 1 (Smith: 10, 100 or more).
        tail_frac: the tail's share of the run, in [0, 1); with 0 the rate ends at the lower bound.
        max_momentum, min_momentum: 0 <= min_momentum <= max_momentum < 1.
        weight_decay: as in ``Schedule``; None keeps the parameter groups' values.
    Raises:
        ValueError: an argument outside of its range.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.1 to 4.3.

    >>> one_cycle(1.0, 10, tail_frac=0.2).lr(range(10)).round(6).tolist()
    [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.001]
    """
    total_steps = Schedule(max_lr, total_steps=total_steps).total_steps or 1
    for name, value, fits, needed in (
        ("max_lr", max_lr, 0 < max_lr < math.inf, "a finite rate above 0"),
        ("div", div, 1 <= div < math.inf, "a finite number >= 1"),
        ("final_div", final_div, 1 <= final_div < math.inf, "a finite number >= 1"),
        ("tail_frac", tail_frac, 0 <= tail_frac < 1, "a fraction in [0, 1)"),
        ("max_momentum", max_momentum, 0 <= max_momentum < 1, "a number in [0, 1)"),
        ("min_momentum", min_momentum, 0 <= min_momentum <= max_momentum, f"0 to max_momentum ({max_momentum})"),
    ):
        if not fits:
            raise ValueError(f"{name}: got {value}; give {needed}")
    low = max_lr / div
    final = low / final_div if tail_frac else low
    up_steps = min(round((1 - tail_frac) * total_steps / 2), (total_steps - 1) // 2)
    tail_steps = total_steps - 1 - 2 * up_steps

    def line(start: float, end: float, steps: int) -> Curve:
        return Linear(start, end, steps) if steps else Constant(start)

    def cycle(bound: float, peak: float, end: float) -> Curve:
        parts = line(bound, peak, up_steps), line(peak, bound, up_steps), line(bound, end, tail_steps)
        return Joined(parts, (up_steps, 2 * up_steps))

    return Schedule(
        lr=cycle(low, max_lr, final),
        momentum=cycle(max_momentum, min_momentum, max_momentum),
        weight_decay=weight_decay,
        total_steps=total_steps,
    )
