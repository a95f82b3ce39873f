"""Schedules as data: curves ``step -> value``, and the policies made of them."""

from .annealing import Cosine, CosineRestarts, ExponentialDecay, InverseSqrt, Polynomial
from .composition import Clipped, Joined, Repeated, Scaled, Shifted, Stretched
from .curves import Constant, Curve, CurveLike, Exponential, Function, Linear, Tabulated
from .cycles import Triangular
from .decay import (
    cosine_annealing,
    cosine_restarts,
    exponential_decay,
    flat_cosine,
    inverse_sqrt,
    polynomial_decay,
    step_decay,
)
from .follow import FollowLR
from .one_cycle import one_cycle, one_cycle_cos, one_cycle_fastai, one_cycle_linear, one_cycle_three_phase
from .policies import constant, exp_range, lr_sweep, triangular, triangular2
from .schedule import QUANTITIES, Schedule
from .torch_scheduler import ScheduleLR, as_lr_scheduler

POLICIES = {
    policy.__name__: policy
    for policy in (
        constant,
        lr_sweep,
        triangular,
        triangular2,
        exp_range,
        one_cycle,
        one_cycle_cos,
        one_cycle_linear,
        one_cycle_three_phase,
        one_cycle_fastai,
        step_decay,
        exponential_decay,
        polynomial_decay,
        cosine_annealing,
        cosine_restarts,
        flat_cosine,
        inverse_sqrt,
    )
}
"""All policies by name."""

__all__ = [
    "POLICIES",
    "QUANTITIES",
    "Clipped",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Curve",
    "CurveLike",
    "Exponential",
    "ExponentialDecay",
    "FollowLR",
    "Function",
    "InverseSqrt",
    "Joined",
    "Linear",
    "Polynomial",
    "Repeated",
    "Scaled",
    "Schedule",
    "ScheduleLR",
    "Shifted",
    "Stretched",
    "Tabulated",
    "Triangular",
    "as_lr_scheduler",
    "constant",
    "cosine_annealing",
    "cosine_restarts",
    "exp_range",
    "exponential_decay",
    "flat_cosine",
    "inverse_sqrt",
    "lr_sweep",
    "one_cycle",
    "one_cycle_cos",
    "one_cycle_fastai",
    "one_cycle_linear",
    "one_cycle_three_phase",
    "polynomial_decay",
    "step_decay",
    "triangular",
    "triangular2",
]
