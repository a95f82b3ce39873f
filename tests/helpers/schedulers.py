"""Optimizers and plans for the tests of torch schedulers."""

from __future__ import annotations

import numpy as np

from clrfast.schedules import Linear, Schedule, cosine_annealing
from tests.helpers.optimizers import give_grads, make_params

PLAN = cosine_annealing(0.01, 20)
PLANNED = PLAN.table()[:, 0, 0].astype(np.float64)
"""The rates of PLAN: float64 [20]."""


def ramp():
    return Schedule(Linear(0.0, 1.0, 10), total_steps=11)


def rates_of(optimizer, scheduler, steps):
    """Train for ``steps`` updates; return the rates of all groups before each of them: float64 [steps, groups]."""
    seen = []
    for step in range(steps):
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        give_grads([param for group in optimizer.param_groups for param in group["params"]], step)
        optimizer.step()
        scheduler.step()
    return np.array(seen)


def groups_of(*rates, **options):
    return [{"params": make_params([(2,)]), "lr": rate, **options} for rate in rates]
