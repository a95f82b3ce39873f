"""Policies with a falling rate: step, exponential, polynomial, cosine, restarts, flat-then-cosine, inverse square root.

All begin with ``lr`` at step 0. A policy with a ``final_lr`` reaches it at step ``total_steps``, one past the last, as
torch's schedulers do with ``T_max`` or ``total_iters`` = total_steps, and keeps it afterwards. ``momentum`` and
``weight_decay`` are as in ``Schedule``. ``schedule.with_warm_up`` adds a warm-up to any of them.
"""

from __future__ import annotations

from .._checks import require_finite, require_positive
from ._composition import Joined
from ._curves import Constant, CurveLike
from ._decay_curves import Cosine, CosineRestarts, ExponentialDecay, InverseSqrt, Polynomial
from ._schedule import Schedule
from ._table import check_total_steps


def step_decay(
    lr: float,
    total_steps: int,
    *,
    step_size: int,
    gamma: float = 0.1,
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make a schedule with the rate ``lr * gamma ** floor(step / step_size)``.

    Args:
        lr: rate at step 0, >= 0.
        total_steps: length of the run in optimizer steps, >= 1.
        step_size: steps from one reduction to the next, > 0.
        gamma: factor of each reduction, > 0.
        momentum, weight_decay: as in ``Schedule``; None keeps the parameter groups' values.
    Raises:
        ValueError: an argument is outside its range.
    """
    _check(lr, total_steps, step_size=step_size)
    return Schedule(ExponentialDecay(lr, gamma, step_size, stepwise=True), momentum, weight_decay, total_steps)


def exponential_decay(
    lr: float,
    total_steps: int,
    *,
    gamma: float,
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make a schedule with the rate ``lr * gamma ** step``.

    Args:
        lr, total_steps, momentum, weight_decay: as in ``step_decay``.
        gamma: factor of each step, > 0.
    """
    _check(lr, total_steps)
    return Schedule(ExponentialDecay(lr, gamma), momentum, weight_decay, total_steps)


def polynomial_decay(
    lr: float,
    total_steps: int,
    *,
    power: float = 1.0,
    final_lr: float = 0.0,
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make a schedule with the rate ``final_lr + (lr - final_lr) * (1 - step / total_steps) ** power``.

    Args:
        lr, total_steps, momentum, weight_decay: as in ``step_decay``.
        power: exponent of the decay, > 0; 1 is linear.
        final_lr: rate at step ``total_steps``, one past the last, >= 0.
    """
    _check(lr, total_steps)
    return Schedule(Polynomial(lr, final_lr, total_steps, power), momentum, weight_decay, total_steps)


def cosine_annealing(
    lr: float,
    total_steps: int,
    *,
    final_lr: float = 0.0,
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make a schedule whose rate falls by half a cosine from ``lr`` to ``final_lr``, without restarts.

    Args:
        lr, total_steps, momentum, weight_decay: as in ``step_decay``.
        final_lr: as in ``polynomial_decay``.

    Source: Loshchilov and Hutter 2016, "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5.
    """
    _check(lr, total_steps)
    return Schedule(Cosine(lr, final_lr, total_steps), momentum, weight_decay, total_steps)


def cosine_restarts(
    lr: float,
    total_steps: int,
    *,
    period_steps: int,
    period_mult: int = 1,
    final_lr: float = 0.0,
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make the schedule of SGDR: cosine annealing from ``lr`` to ``final_lr`` with warm restarts at ``lr``.

    Args:
        lr, total_steps, momentum, weight_decay: as in ``step_decay``.
        period_steps: length of the first period in steps, a whole number >= 1.
        period_mult: ratio of each later period's length to the one before, a whole number >= 1.
        final_lr: rate that each period falls towards, >= 0; the restart takes its step.

    Source: Loshchilov and Hutter 2016, "SGDR: Stochastic Gradient Descent with Warm Restarts", section 3.
    """
    _check(lr, total_steps)
    return Schedule(CosineRestarts(lr, final_lr, period_steps, period_mult), momentum, weight_decay, total_steps)


def flat_cosine(
    lr: float,
    total_steps: int,
    *,
    flat_frac: float = 0.75,
    final_lr: float = 0.0,
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make a schedule that keeps ``lr`` for ``flat_frac`` of the run, then falls by half a cosine to ``final_lr``.

    It is usual with the optimizer Ranger.

    Args:
        lr, total_steps, momentum, weight_decay: as in ``step_decay``.
        flat_frac: length of the constant part as a fraction of the run, in [0, 1].
        final_lr: as in ``polynomial_decay``.

    Source: fastai.callback.schedule.Learner.fit_flat_cos.
    """
    _check(lr, total_steps)
    if not 0 <= flat_frac <= 1:
        raise ValueError(f"flat_frac: got {flat_frac}; give a fraction in [0, 1]")
    if flat_frac == 1:
        return Schedule(lr, momentum, weight_decay, total_steps)
    flat_steps = flat_frac * total_steps
    curve = Joined((Constant(lr), Cosine(lr, final_lr, total_steps - flat_steps)), (flat_steps,))
    return Schedule(curve, momentum, weight_decay, total_steps)


def inverse_sqrt(
    lr: float,
    total_steps: int,
    *,
    scale_steps: float,
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """Make a schedule with the rate ``lr * sqrt(scale_steps / (scale_steps + step))``.

    Args:
        lr, total_steps, momentum, weight_decay: as in ``step_decay``.
        scale_steps: number of steps after which the rate is ``lr / sqrt(2)``, > 0.

    Source: Vaswani et al. 2017, "Attention Is All You Need", equation 3, after its warm-up of ``scale_steps``.
    """
    _check(lr, total_steps)
    return Schedule(InverseSqrt(lr, scale_steps), momentum, weight_decay, total_steps)


def _check(lr: float, total_steps: int, **lengths: float) -> None:
    """Check the arguments under the policy's names; the curve's errors would have other names."""
    require_finite(lr=lr)
    if lr < 0:
        raise ValueError(f"lr: got {lr}; give a rate >= 0")
    check_total_steps(total_steps)
    require_positive(**lengths)
