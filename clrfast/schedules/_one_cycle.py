"""1cycle, in Smith's form and in those that people know from torch and fastai."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._checks import require_positive
from ._annealing import Cosine
from ._composition import Joined
from ._curves import Constant, Curve, CurveLike, Linear
from ._policies import Momentum, momentum_curve
from ._schedule import Schedule, checked_total_steps


def one_cycle(
    max_lr: float,
    total_steps: int,
    *,
    div: float = 10.0,
    final_div: float = 100.0,
    tail_frac: float = 0.1,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Smith's 1cycle: one linear cycle of the rate, momentum cycling against it, then a tail that annihilates the rate.

        low = max_lr / div,  up_steps = round((1 - tail_frac) * total_steps / 2)
        step 0 .. up_steps:              lr low -> max_lr            momentum upper -> lower
        up_steps .. 2 * up_steps:        lr max_lr -> low            momentum lower -> upper
        2 * up_steps .. total_steps - 1: lr low -> low / final_div   momentum upper

    Every end point is reached exactly: step 0 has ``low``, step ``up_steps`` has ``max_lr``, the last step has
    ``low / final_div``. What rounding leaves over goes to the tail; ``up_steps`` is at most
    ``(total_steps - 1) // 2``. So a run of 1 or 2 steps has no peak, and one of 3 steps no tail. Past the end the
    last values stay.

    Args:
        max_lr: the upper bound, > 0: what a range test suggests.
        total_steps: length of the run in optimizer steps, >= 1.
        div: max_lr over the lower bound, >= 1 (Smith: 10 to 20).
        final_div: the lower bound over the last rate, >= 1 (Smith: 10, 100 or more).
        tail_frac: the tail's share of the run, in [0, 1); with 0 the rate ends at the lower bound.
        momentum: (upper, lower), a fixed number, or None for the parameter groups' own.
        weight_decay: as in ``Schedule``; None keeps the parameter groups' values.
    Raises:
        ValueError: an argument outside of its range.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.1 to 4.3.

    >>> one_cycle(1.0, 10, tail_frac=0.2).lr(range(10)).round(6).tolist()
    [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.001]
    """
    total_steps = _checked(max_lr, total_steps, div=div, final_div=final_div)
    if not 0 <= tail_frac < 1:
        raise ValueError(f"tail_frac: got {tail_frac}; give a fraction in [0, 1)")
    low = max_lr / div
    final = low / final_div if tail_frac else low
    up_steps = min(round((1 - tail_frac) * total_steps / 2), (total_steps - 1) // 2)
    stops = (0, up_steps, 2 * up_steps, total_steps - 1)
    return _phases(Linear, stops, (low, max_lr, low, final), total_steps, momentum, weight_decay)


def one_cycle_cos(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """torch's ``OneCycleLR`` at its defaults: half a cosine up, half a cosine down.

        lr max_lr / div at step 0, max_lr at pct_start * total_steps - 1, max_lr / div / final_div at the last step

    ``pct_start`` is in [0, 1]; where it leaves no step for the way up or down, that way is left out (torch divides
    by zero there). Past the end the last values stay (torch rises again for a step, then raises). The other
    arguments are as in ``one_cycle``.

    Source: torch.optim.lr_scheduler.OneCycleLR.
    """
    stops = _torch_stops(pct_start, total_steps)
    return _two_phases(Cosine, stops, max_lr, total_steps, div, div * final_div, momentum, weight_decay)


def one_cycle_linear(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """torch's ``OneCycleLR`` with anneal_strategy="linear"; arguments and source as of ``one_cycle_cos``."""
    stops = _torch_stops(pct_start, total_steps)
    return _two_phases(Linear, stops, max_lr, total_steps, div, div * final_div, momentum, weight_decay)


def one_cycle_three_phase(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """torch's ``OneCycleLR`` with three_phase=True: up, down to the first rate in as many steps, then to the end.

    ``pct_start`` is in [0, 0.5]; the rest is as in ``one_cycle_cos``.
    """
    if not 0 <= pct_start <= 0.5:
        raise ValueError(f"pct_start: got {pct_start}; the way up and down must fit in the run: give 0 to 0.5")
    total_steps = _checked(max_lr, total_steps, div=div, final_div=final_div)
    start, peak, end = _torch_stops(pct_start, total_steps)
    low = max_lr / div
    stops = (start, peak, min(2 * peak, end), end)
    return _phases(Cosine, stops, (low, max_lr, low, low / final_div), total_steps, momentum, weight_decay)


def one_cycle_fastai(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.25,
    div: float = 25.0,
    final_div: float = 1e5,
    momentum: Momentum = (0.95, 0.85),
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """fastai's ``fit_one_cycle``: half a cosine up in a quarter of the run, half a cosine down in the rest.

        lr max_lr / div at step 0, max_lr at pct_start * total_steps, max_lr / final_div at step total_steps, which
        is one past the last

    ``final_div`` divides ``max_lr`` here, as in fastai. The other arguments are as in ``one_cycle_cos``.

    Source: fastai.callback.schedule.Learner.fit_one_cycle.
    """
    _require_fraction(pct_start)
    total_steps = checked_total_steps(total_steps)
    stops = (0.0, pct_start * total_steps, float(total_steps))
    return _two_phases(Cosine, stops, max_lr, total_steps, div, final_div, momentum, weight_decay)


def _torch_stops(pct_start: float, total_steps: int) -> tuple[float, float, float]:
    _require_fraction(pct_start)
    last = float(checked_total_steps(total_steps) - 1)
    return 0.0, min(max(pct_start * total_steps - 1, 0.0), last), last


def _two_phases(
    kind: type[Linear] | type[Cosine],
    stops: tuple[float, float, float],
    max_lr: float,
    total_steps: int,
    div: float,
    end_div: float,
    momentum: Momentum,
    weight_decay: CurveLike | None,
) -> Schedule:
    total_steps = _checked(max_lr, total_steps, div=div, final_div=end_div)
    return _phases(kind, stops, (max_lr / div, max_lr, max_lr / end_div), total_steps, momentum, weight_decay)


def _phases(
    kind: type[Linear] | type[Cosine],
    stops: Sequence[float],
    rates: Sequence[float],
    total_steps: int,
    momentum: Momentum,
    weight_decay: CurveLike | None,
) -> Schedule:
    """The schedule through ``rates`` at the steps ``stops``; the peak is the second, and momentum goes against it."""

    def against(upper: float, lower: float) -> Curve:
        return _through(kind, stops, [lower if index == 1 else upper for index in range(len(stops))])

    return Schedule(_through(kind, stops, rates), momentum_curve(momentum, against), weight_decay, total_steps)


def _through(kind: type[Linear] | type[Cosine], stops: Sequence[float], values: Sequence[float]) -> Curve:
    """The curve through ``values`` at ``stops``; ways of no steps are left out."""
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


def _checked(max_lr: float, total_steps: int, **divisors: float) -> int:
    require_positive(max_lr=max_lr)
    for name, value in divisors.items():
        if not 1 <= value < math.inf:
            raise ValueError(f"{name}: got {value}; give a finite number >= 1")
    return checked_total_steps(total_steps)
