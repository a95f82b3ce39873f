"""Schedules: curves ``step -> value``, the policies made of them, and a torch scheduler for other optimizers."""

from ._composition import Clipped, Joined, Repeated, Scaled, Shifted, Stretched
from ._curves import Constant, Curve, CurveLike, Exponential, Function, Linear, Tabulated
from ._cycles import Triangular
from ._decay import (
    cosine_annealing,
    cosine_restarts,
    exponential_decay,
    flat_cosine,
    inverse_sqrt,
    polynomial_decay,
    step_decay,
)
from ._decay_curves import Cosine, CosineRestarts, ExponentialDecay, InverseSqrt, Polynomial
from ._follow_lr import FollowLR
from ._lr_scheduler import ScheduleLR, as_lr_scheduler
from ._one_cycle import one_cycle, one_cycle_cos, one_cycle_fastai, one_cycle_linear, one_cycle_three_phase
from ._policies import constant, exp_range, lr_ramp, triangular, triangular2
from ._schedule import Schedule
from ._table import QUANTITIES

POLICIES = {
    policy.__name__: policy
    for policy in (
        constant,
        lr_ramp,
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
"""All policies, by name."""

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
    "lr_ramp",
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
