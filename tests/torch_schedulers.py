"""What torch's own schedulers give, step by step, to compare with."""

import warnings

import numpy as np
import torch


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
