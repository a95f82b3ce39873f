import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import OneCycleLR

from clrfast.schedules import one_cycle, one_cycle_cos, one_cycle_fastai, one_cycle_linear, one_cycle_three_phase
from tests.helpers.schedules import assert_equal_curves, columns, torch_values


def test_one_cycle_equals_values_computed_by_hand():
    lr, momentum, weight_decay = columns(one_cycle(1.0, 12, tail_frac=0.3, final_div_factor=10, weight_decay=0.25))
    # 0.7 * 12 / 2 = 4.2: 4 steps up, 4 down, 3 in the tail, from 0.1 to 0.01.
    assert lr == [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.07, 0.04, 0.01]
    assert momentum == [0.95, 0.925, 0.9, 0.875, 0.85, 0.875, 0.9, 0.925, 0.95, 0.95, 0.95, 0.95]
    assert weight_decay == [0.25] * 12


def test_one_cycle_reproduces_the_article():
    """0.08 to 0.8 and back in 41 + 41 epochs, then 13 epochs down to a tenth of 0.08; momentum 0.95 to 0.80."""
    lr, momentum, _ = columns(one_cycle(0.8, 95, tail_frac=13 / 95, final_div_factor=10, momentum=(0.95, 0.8)))
    assert [lr[i] for i in (0, 41, 82, 94)] == [0.08, 0.8, 0.08, 0.008]
    assert [momentum[i] for i in (0, 41, 82, 94)] == [0.95, 0.8, 0.95, 0.95]
    assert np.allclose(np.diff(lr[:42]), 0.72 / 41, atol=2e-6)


@pytest.mark.parametrize(
    ("total_steps", "expected"),
    [
        (1, [0.1]),
        (2, [0.1, 0.001]),
        (3, [0.1, 1.0, 0.1]),
        (4, [0.1, 1.0, 0.1, 0.001]),
        (5, [0.1, 0.55, 1.0, 0.55, 0.1]),
    ],
)
def test_one_cycle_of_few_steps_leaves_out_the_tail_then_the_peak(total_steps, expected):
    assert columns(one_cycle(1.0, total_steps))[0] == expected


def test_one_cycle_without_a_tail_ends_at_the_lower_bound():
    assert columns(one_cycle(1.0, 6, tail_frac=0))[0] == [0.1, 0.55, 1.0, 0.55, 0.1, 0.1]


@given(
    max_lr=st.floats(1e-6, 100),
    total_steps=st.integers(4, 400),
    div_factor=st.floats(1, 50),
    tail_frac=st.floats(0.01, 0.4),
)
def test_one_cycle_stays_within_its_bounds(max_lr, total_steps, div_factor, tail_frac):
    schedule = one_cycle(max_lr, total_steps, div_factor=div_factor, tail_frac=tail_frac)
    lr, momentum = schedule.lr(np.arange(total_steps)), schedule.momentum(np.arange(total_steps))
    assert lr[0] == pytest.approx(max_lr / div_factor)
    assert lr.max() == pytest.approx(max_lr)
    assert momentum.min() == pytest.approx(0.85)
    assert momentum.max() == pytest.approx(0.95)
    peak = lr.argmax()
    assert (np.diff(lr[: peak + 1]) >= -1e-9).all()
    assert (np.diff(lr[peak:]) <= 1e-9).all()


def test_one_cycle_reproduces_the_article_in_steps():
    """The same over 98 batches an epoch: 4,018 steps up, as many down."""
    lr = one_cycle(0.8, 9310, tail_frac=13 / 95, final_div_factor=10, momentum=(0.95, 0.8)).lr(np.arange(9310))
    np.testing.assert_allclose(lr[[0, 4018, 8036, 9309]], [0.08, 0.8, 0.08, 0.008], rtol=1e-12)
    assert lr.argmax() == 4018


TORCH_FORMS = {
    "cos": (one_cycle_cos, {"anneal_strategy": "cos"}),
    "linear": (one_cycle_linear, {"anneal_strategy": "linear"}),
    "three phase": (one_cycle_three_phase, {"anneal_strategy": "cos", "three_phase": True}),
}


@pytest.mark.parametrize("form", TORCH_FORMS)
@pytest.mark.parametrize("total_steps", [10, 97, 5000])
@pytest.mark.parametrize("pct_start", [0.21, 0.3, 0.45])
def test_cosine_linear_and_three_phase_forms_equal_torchs_one_cycle_lr(form, total_steps, pct_start):
    policy, options = TORCH_FORMS[form]
    schedule = policy(0.7, total_steps, pct_start=pct_start, div_factor=20, final_div_factor=300, momentum=(0.9, 0.6))

    def make(optimizer):
        return OneCycleLR(
            optimizer,
            0.7,
            total_steps=total_steps,
            pct_start=pct_start,
            div_factor=20,
            final_div_factor=300,
            base_momentum=0.6,
            max_momentum=0.9,
            **options,
        )

    assert_equal_curves(schedule, make, total_steps, momentum=True)


def test_one_cycle_cos_is_right_where_torchs_one_cycle_lr_is_wrong():
    """Past the end torch rises again for a step and then raises; at pct_start * total_steps = 1 it divides by zero."""
    lr, _ = torch_values(lambda o: OneCycleLR(o, 1.0, total_steps=10), 11)
    assert lr[10] > lr[9]
    ours = one_cycle_cos(1.0, 10).lr(np.arange(1000))
    assert (ours[10:] == ours[9]).all()
    with pytest.raises(ZeroDivisionError):
        torch_values(lambda o: OneCycleLR(o, 1.0, total_steps=10, pct_start=0.1), 10)
    ours = one_cycle_cos(1.0, 10, pct_start=0.1).lr(np.arange(10))
    assert ours[0] == 1.0
    assert (np.diff(ours) < 0).all()


@pytest.mark.parametrize("policy", [one_cycle_cos, one_cycle_linear, one_cycle_fastai])
def test_a_phase_without_steps_is_left_out(policy):
    falling, rising = (policy(1.0, 20, pct_start=pct).lr(np.arange(20)) for pct in (0, 1))
    assert falling[0] == 1.0
    assert (np.diff(falling) < 0).all()
    assert rising[0] == 1 / 25
    assert (np.diff(rising) > 0).all()


def test_one_cycle_fastai_equals_values_computed_by_hand():
    """Half cosines over [0, 0.25] and [0.25, 1] of the run, at the positions step / total_steps."""
    lr, momentum, _ = columns(one_cycle_fastai(1.0, 8, div_factor=5, final_div_factor=10, momentum=(0.9, 0.8)))
    half = (1 - np.cos(np.pi * np.arange(6) / 6)) / 2
    np.testing.assert_allclose(lr, [0.2, 0.6, *(1.0 + (0.1 - 1.0) * half)], atol=1e-6)
    np.testing.assert_allclose(momentum, [0.9, 0.85, *(0.8 + 0.1 * half)], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: one_cycle(0, 10), "max_lr: got 0"),
        (lambda: one_cycle("0.1", 10), "max_lr: got '0.1'"),
        (lambda: one_cycle(float("nan"), 10), "got nan"),
        (lambda: one_cycle(1, 0), "total_steps: got 0"),
        (lambda: one_cycle(1, None), "total_steps: got None"),
        (lambda: one_cycle_cos(1, 2.5), "total_steps: got 2.5"),
        (lambda: one_cycle(1, 10, div_factor=0.5), "div_factor: got 0.5"),
        (lambda: one_cycle(1, 10, final_div_factor=0), "final_div_factor: got 0"),
        (lambda: one_cycle(1, 10, tail_frac=1), "tail_frac: got 1"),
        (lambda: one_cycle(1, 10, momentum=1.0), "momentum: got 1.0"),
        (lambda: one_cycle(1, 10, momentum=(0.9, 0.99)), r"momentum: got \(0.9, 0.99\)"),
        (lambda: one_cycle_cos(1, 10, pct_start=1.5), "pct_start: got 1.5"),
        (lambda: one_cycle_linear(-1, 10), "max_lr: got -1"),
        (lambda: one_cycle_three_phase(1, 10, pct_start=0.6), "pct_start: got 0.6"),
        (lambda: one_cycle_fastai(1, 10, pct_start=-0.1), "pct_start: got -0.1"),
        (lambda: one_cycle_fastai(1, 0), "total_steps: got 0"),
    ],
)
def test_errors_name_the_bad_argument(make, named):
    with pytest.raises(ValueError, match=named):
        make()
