"""Policies that let the rate fall: step, exponential, polynomial, cosine, restarts, flat-then-cosine, inverse root.

All begin with ``lr`` at step 0. Where a policy has a ``final_lr``, it is reached at step ``total_steps``, one past the
last, as in torch's schedulers with ``T_max`` or ``total_iters`` = total_steps; it stays there past the end.
``momentum`` and ``weight_decay`` are as in ``Schedule``. ``schedule.with_warm_up`` puts a warm-up in front of any of
them.
"""

from __future__ import annotations

from .._checks import require_finite, require_positive
from ._annealing import Cosine, CosineRestarts, ExponentialDecay, InverseSqrt, Polynomial
from ._composition import Joined
from ._curves import Constant, CurveLike
from ._schedule import Schedule, checked_total_steps


def step_decay(
    lr: float,
    total_steps: int,
    *,
    step_size: int,
    gamma: float = 0.1,
    momentum: CurveLike | None = None,
    weight_decay: CurveLike | None = None,
) -> Schedule:
    """``lr * gamma ** floor(step / step_size)``."""
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
    """``lr * gamma ** step``."""
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
    """``final_lr + (lr - final_lr) * (1 - step / total_steps) ** power``; power 1 is the linear decay."""
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
    """Half a cosine from ``lr`` to ``final_lr``, without restarts.

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
    """SGDR: cosine annealing with warm restarts after ``period_steps``, then after ``period_mult`` times as many, ...

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
    """``lr`` for ``flat_frac`` of the run, then half a cosine down to ``final_lr``: what users of Ranger run.

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
    """``lr * sqrt(scale_steps / (scale_steps + step))``.

    Source: Vaswani et al. 2017, "Attention Is All You Need", equation 3, behind its warm-up of ``scale_steps``.
    """
    _check(lr, total_steps)
    return Schedule(InverseSqrt(lr, scale_steps), momentum, weight_decay, total_steps)


def _check(lr: float, total_steps: int, **lengths: float) -> None:
    """Name the policy's own arguments, which its curve calls otherwise."""
    require_finite(lr=lr)
    if lr < 0:
        raise ValueError(f"lr: got {lr}; give a rate >= 0")
    checked_total_steps(total_steps)
    require_positive(**lengths)
