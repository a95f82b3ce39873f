import numpy as np
import pytest
from torch.optim import lr_scheduler

from clrfast.schedules import (
    cosine_annealing,
    cosine_restarts,
    exponential_decay,
    flat_cosine,
    inverse_sqrt,
    polynomial_decay,
    step_decay,
)
from tests.helpers.schedules import assert_equal_curves

N = 3000
EQUALS = {
    "StepLR": (step_decay(0.1, N, step_size=700, gamma=0.3), lambda o: lr_scheduler.StepLR(o, 700, gamma=0.3)),
    "ExponentialLR": (exponential_decay(0.1, N, gamma=0.999), lambda o: lr_scheduler.ExponentialLR(o, 0.999)),
    "PolynomialLR": (polynomial_decay(0.1, N, power=2.0), lambda o: lr_scheduler.PolynomialLR(o, N, power=2.0)),
    "LinearLR": (
        polynomial_decay(0.1, N, final_lr=0.02),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=N),
    ),
    "CosineAnnealingWarmRestarts, 1": (
        cosine_restarts(0.1, N, period_steps=130, final_lr=0.01),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 130, eta_min=0.01),
    ),
    "CosineAnnealingWarmRestarts, 3": (
        cosine_restarts(0.1, N, period_steps=11, period_mult=3),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 11, T_mult=3),
    ),
}


@pytest.mark.parametrize("name", EQUALS)
def test_decays_equal_torchs_schedulers(name):
    """torch's chained forms multiply step by step, which loses half an ulp each: 1e-12 over 3,000 steps."""
    schedule, make = EQUALS[name]
    assert_equal_curves(schedule, make, N, rtol=2e-12)


def test_cosine_annealing_equals_torchs_closed_form():
    """torch's chained form drifts towards the end, where it divides by a rate near 0; its closed form does not."""
    schedule = cosine_annealing(0.1, N, final_lr=0.001)

    def make(optimizer):
        return lr_scheduler.CosineAnnealingLR(optimizer, N, eta_min=0.001)

    assert_equal_curves(schedule, make, N, rtol=1e-9)
    steps = np.arange(N)
    closed = 0.001 + (0.1 - 0.001) * (1 + np.cos(np.pi * steps / N)) / 2
    np.testing.assert_allclose(schedule.lr(steps), closed, rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (step_decay(1.0, 5, step_size=2, gamma=0.5), [1, 1, 0.5, 0.5, 0.25]),
        (exponential_decay(1.0, 3, gamma=0.5), [1, 0.5, 0.25]),
        (polynomial_decay(1.0, 4), [1, 0.75, 0.5, 0.25, 0, 0]),
        (cosine_annealing(1.0, 2, final_lr=0.5), [1, 0.75, 0.5, 0.5]),
        (cosine_restarts(1.0, 6, period_steps=2, period_mult=2), [1, 0.5, 1, 0.853553, 0.5, 0.146447, 1]),
        (flat_cosine(1.0, 4, flat_frac=0.5), [1, 1, 1, 0.5, 0, 0]),
        (flat_cosine(1.0, 4, flat_frac=0), [1, 0.853553, 0.5, 0.146447, 0]),
        (flat_cosine(1.0, 4, flat_frac=1), [1, 1, 1, 1, 1]),
        (inverse_sqrt(1.0, 4, scale_steps=1), [1, 0.707107, 0.57735, 0.5]),
    ],
)
def test_decays_equal_values_computed_by_hand_also_past_the_end(schedule, expected):
    np.testing.assert_allclose(schedule.lr(np.arange(len(expected))), expected, atol=1e-6)


def test_restarts_are_exact_where_a_logarithm_is_not():
    schedule = cosine_restarts(1.0, 10**6, period_steps=3, period_mult=3)
    starts = np.cumsum([0, *(3 ** np.arange(1, 12))])
    np.testing.assert_array_equal(schedule.lr(starts), 1.0)
    assert (schedule.lr(starts[1:] - 1) < 0.5).all()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: step_decay(0.1, 10, step_size=0), "step_size: got 0"),
        (lambda: step_decay(0.1, 10, step_size=3, gamma=-1), "gamma: got -1"),
        (lambda: exponential_decay(float("nan"), 10, gamma=0.9), "lr: got nan"),
        (lambda: polynomial_decay(0.1, 10, power=0), "power: got 0"),
        (lambda: cosine_annealing(0.1, 0), "total_steps: got 0"),
        (lambda: cosine_annealing(-0.1, 10), "lr: got -0.1"),
        (lambda: cosine_annealing("fast", 10), "lr: got 'fast'"),
        (lambda: cosine_restarts(0.1, 10, period_steps=float("nan")), "period_steps: got nan"),
        (lambda: cosine_restarts(0.1, 10, period_steps=0), "period_steps: got 0"),
        (lambda: cosine_restarts(0.1, 10, period_steps=2, period_mult=1.5), "period_mult: got 1.5"),
        (lambda: flat_cosine(0.1, 10, flat_frac=1.5), "flat_frac: got 1.5"),
        (lambda: inverse_sqrt(0.1, 10, scale_steps=0), "scale_steps: got 0"),
    ],
)
def test_errors_name_the_bad_argument(make, named):
    with pytest.raises(ValueError, match=named):
        make()
