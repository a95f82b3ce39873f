"""1cycle in Smith's form and in those of torch and fastai."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._checks import require_positive
from ._composition import Joined
from ._curves import Constant, Curve, CurveLike, Linear
from ._decay_curves import Cosine
from ._policies import Momentum, momentum_curve
from ._schedule import Schedule
from ._table import check_total_steps


def one_cycle(
    max_lr: float,
    total_steps: int,
    *,
    div_factor: float = 10.0,
    final_div_factor: float = 100.0,
    tail_frac: float = 0.1,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make Smith's 1cycle: the rate rises and falls while momentum falls and rises; a tail lowers the rate further.

        low = max_lr / div_factor,  up_steps = round((1 - tail_frac) * total_steps / 2)
        step 0 .. up_steps:              lr low -> max_lr                   momentum upper -> lower
        up_steps .. 2 * up_steps:        lr max_lr -> low                   momentum lower -> upper
        2 * up_steps .. total_steps - 1: lr low -> low / final_div_factor   momentum upper

    Every end point is exact: step 0 has ``low``, step ``up_steps`` has ``max_lr``, the last step has
    ``low / final_div_factor``. The tail takes the steps that rounding leaves; ``up_steps`` is at most
    ``(total_steps - 1) // 2``. So a run of 1 or 2 steps has no peak, and one of 3 steps no tail. Past the end the
    last values stay.

    Args:
        max_lr: the upper bound of the rate, > 0, as a range test suggests it.
        total_steps: length of the run in optimizer steps, >= 1.
        div_factor: ratio of max_lr to the lower bound, >= 1 (Smith: 10 to 20).
        final_div_factor: ratio of the lower bound to the last rate, >= 1 (Smith: 10, 100 or more).
        tail_frac: length of the tail as a fraction of the run, in [0, 1); with 0 the rate ends at the lower bound.
        momentum: (upper, lower), a fixed number, or None for the parameter groups' own.
        weight_decay: as in ``Schedule``; None keeps the parameter groups' values.
    Raises:
        ValueError: an argument is outside its range.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.1 to 4.3.

    Examples:
        >>> one_cycle(1.0, 10, tail_frac=0.2).lr(range(10)).round(6).tolist()
        [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.001]
    """
    total_steps = _check(max_lr, total_steps, div_factor=div_factor, final_div_factor=final_div_factor)
    if not 0 <= tail_frac < 1:
        raise ValueError(f"tail_frac: got {tail_frac}; give a fraction in [0, 1)")
    low = max_lr / div_factor
    final = low / final_div_factor if tail_frac else low
    up_steps = min(round((1 - tail_frac) * total_steps / 2), (total_steps - 1) // 2)
    stops = (0, up_steps, 2 * up_steps, total_steps - 1)
    return _phases(Linear, stops, (low, max_lr, low, final), total_steps, momentum, weight_decay)


def one_cycle_cos(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make torch's ``OneCycleLR`` at its defaults: half a cosine up, half a cosine down.

        step 0:                              lr max_lr / div_factor
        step pct_start * total_steps - 1:    lr max_lr
        step total_steps - 1:                lr max_lr / div_factor / final_div_factor

    A phase without steps is left out (torch divides by zero there). Past the end the last values stay (torch's rate
    rises for one step, then torch raises an error).

    Args:
        max_lr, total_steps, div_factor, final_div_factor, momentum, weight_decay: as in ``one_cycle``.
        pct_start: length of the rise as a fraction of the run, in [0, 1].

    Source: torch.optim.lr_scheduler.OneCycleLR.
    """
    stops = _torch_stops(pct_start, total_steps)
    return _two_phases(
        Cosine, stops, max_lr, total_steps, div_factor, div_factor * final_div_factor, momentum, weight_decay
    )


def one_cycle_linear(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make torch's ``OneCycleLR`` with anneal_strategy="linear". The ends are those of ``one_cycle_cos``.

    Args:
        max_lr, total_steps, pct_start, div_factor, final_div_factor, momentum, weight_decay: as in ``one_cycle_cos``.
    """
    stops = _torch_stops(pct_start, total_steps)
    return _two_phases(
        Linear, stops, max_lr, total_steps, div_factor, div_factor * final_div_factor, momentum, weight_decay
    )


def one_cycle_three_phase(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make torch's ``OneCycleLR`` with three_phase=True.

    The rate rises, falls to its first value in the same number of steps, then falls to its last value. The ends are
    those of ``one_cycle_cos``.

    Args:
        max_lr, total_steps, div_factor, final_div_factor, momentum, weight_decay: as in ``one_cycle_cos``.
        pct_start: length of the rise as a fraction of the run, in [0, 0.5].
    """
    if not 0 <= pct_start <= 0.5:
        raise ValueError(f"pct_start: got {pct_start}; the rise and the fall must fit into the run: give 0 to 0.5")
    total_steps = _check(max_lr, total_steps, div_factor=div_factor, final_div_factor=final_div_factor)
    start, peak, end = _torch_stops(pct_start, total_steps)
    low = max_lr / div_factor
    stops = (start, peak, min(2 * peak, end), end)
    return _phases(Cosine, stops, (low, max_lr, low, low / final_div_factor), total_steps, momentum, weight_decay)


def one_cycle_fastai(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.25,
    div_factor: float = 25.0,
    final_div_factor: float = 1e5,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make fastai's ``fit_one_cycle``: half a cosine up in a quarter of the run, half a cosine down in the rest.

        step 0:                          lr max_lr / div_factor
        step pct_start * total_steps:    lr max_lr
        step total_steps, past the last: lr max_lr / final_div_factor

    Args:
        max_lr, total_steps, pct_start, div_factor, momentum, weight_decay: as in ``one_cycle_cos``.
        final_div_factor: ratio of max_lr to the rate past the last step, >= 1, as in fastai.

    Source: fastai.callback.schedule.Learner.fit_one_cycle.
    """
    _require_fraction(pct_start)
    total_steps = check_total_steps(total_steps)
    stops = (0.0, pct_start * total_steps, float(total_steps))
    return _two_phases(Cosine, stops, max_lr, total_steps, div_factor, final_div_factor, momentum, weight_decay)


def _torch_stops(pct_start: float, total_steps: int) -> tuple[float, float, float]:
    _require_fraction(pct_start)
    last = float(check_total_steps(total_steps) - 1)
    return 0.0, min(max(pct_start * total_steps - 1, 0.0), last), last


def _two_phases(
    kind: type[Linear] | type[Cosine],
    stops: tuple[float, float, float],
    max_lr: float,
    total_steps: int,
    div_factor: float,
    end_div: float,
    momentum: Momentum,
    weight_decay: CurveLike | None,
) -> Schedule:
    total_steps = _check(max_lr, total_steps, div_factor=div_factor, final_div_factor=end_div)
    return _phases(kind, stops, (max_lr / div_factor, max_lr, max_lr / end_div), total_steps, momentum, weight_decay)


def _phases(
    kind: type[Linear] | type[Cosine],
    stops: Sequence[float],
    rates: Sequence[float],
    total_steps: int,
    momentum: Momentum,
    weight_decay: CurveLike | None,
) -> Schedule:
    """Return the schedule with ``rates`` at the steps ``stops``; the second is the peak, where momentum is lowest."""

    def cycle(upper: float, lower: float) -> Curve:
        return _interpolate(kind, stops, [lower if index == 1 else upper for index in range(len(stops))])

    return Schedule(_interpolate(kind, stops, rates), momentum_curve(momentum, cycle), weight_decay, total_steps)


def _interpolate(kind: type[Linear] | type[Cosine], stops: Sequence[float], values: Sequence[float]) -> Curve:
    """Return the curve with ``values`` at the steps ``stops``; a phase without steps is left out."""
    parts = [
        (start, kind(values[i], values[i + 1], stops[i + 1] - start))
        for i, start in enumerate(stops[:-1])
        if stops[i + 1] > start
    ]
    if not parts:
        return Constant(values[0])
    return Joined(tuple(curve for _, curve in parts), tuple(start for start, _ in parts[1:]))


def _require_fraction(pct_start: float) -> None:
    if not 0 <= pct_start <= 1:
        raise ValueError(f"pct_start: got {pct_start}; give a fraction in [0, 1]")


def _check(max_lr: float, total_steps: int, **divisors: float) -> int:
    require_positive(max_lr=max_lr)
    for name, value in divisors.items():
        if not 1 <= value < math.inf:
            raise ValueError(f"{name}: got {value}; give a finite number >= 1")
    return check_total_steps(total_steps)
