"""Arguments for every policy, and what torch's own schedulers give, step by step."""

import warnings

import numpy as np
import torch

from clrfast.schedules import POLICIES

POLICY_ARGUMENTS = {
    "constant": {"lr": 0.1},
    "lr_ramp": {"min_lr": 0.01, "max_lr": 1.0},
    "triangular": {"base_lr": 0.1, "max_lr": 1.0, "step_size": 10},
    "triangular2": {"base_lr": 0.1, "max_lr": 1.0, "step_size": 10},
    "exp_range": {"base_lr": 0.1, "max_lr": 1.0, "step_size": 10, "gamma": 0.99},
    **{name: {"max_lr": 1.0} for name in POLICIES if name.startswith("one_cycle")},
    "step_decay": {"lr": 0.1, "step_size": 10},
    "exponential_decay": {"lr": 0.1, "gamma": 0.99},
    "polynomial_decay": {"lr": 0.1, "power": 2.0},
    "cosine_annealing": {"lr": 0.1},
    "cosine_restarts": {"lr": 0.1, "period_steps": 7, "period_mult": 2},
    "flat_cosine": {"lr": 0.1},
    "inverse_sqrt": {"lr": 0.1, "scale_steps": 10},
}
"""Arguments with which each policy makes a schedule, except ``total_steps``."""


def columns(schedule):
    """lr, momentum and weight decay of the first group at every step: three lists of rounded numbers."""
    table = schedule.table()
    return [table[:, 0, k].astype(float).round(6).tolist() for k in range(3)]


def torch_values(make, steps, lr=0.1, momentum=0.9):
    """lr and momentum that ``make(optimizer)`` sets at steps 0 .. steps - 1; two float64 arrays ``[steps]``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=momentum)
    values = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        scheduler = make(optimizer)
        for step in range(steps):
            group = optimizer.param_groups[0]
            values.append((group["lr"], group["momentum"]))
            if step < steps - 1:
                scheduler.step()
    return np.array(values, dtype=np.float64).T


def assert_equal_curves(schedule, make, steps, lr=0.1, momentum=False, rtol=1e-12):
    expected = torch_values(make, steps, lr=lr)
    np.testing.assert_allclose(schedule.lr(np.arange(steps)), expected[0], rtol=rtol, atol=1e-15)
    if momentum:
        np.testing.assert_allclose(schedule.momentum(np.arange(steps)), expected[1], rtol=rtol)
