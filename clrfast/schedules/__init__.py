"""Schedules as data: curves ``step -> value``, and the policies made of them."""

from .curves import Constant, Curve, CurveLike, Exponential, Joined, Linear, Tabulated
from .policies import constant, lr_sweep, one_cycle
from .schedule import QUANTITIES, Schedule

__all__ = [
    "QUANTITIES",
    "Constant",
    "Curve",
    "CurveLike",
    "Exponential",
    "Joined",
    "Linear",
    "Schedule",
    "Tabulated",
    "constant",
    "lr_sweep",
    "one_cycle",
]
