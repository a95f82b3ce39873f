import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrfast import constant, lr_sweep, one_cycle


def columns(schedule):
    table = schedule.table()
    return [table[:, 0, k].astype(float).round(6).tolist() for k in range(3)]


def test_one_cycle_whole_curve():
    lr, momentum, weight_decay = columns(one_cycle(1.0, 12, tail_frac=0.3, final_div=10, weight_decay=0.25))
    # 0.7 * 12 / 2 = 4.2: 4 steps up, 4 down, 3 in the tail, from 0.1 to 0.01.
    assert lr == [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.07, 0.04, 0.01]
    assert momentum == [0.95, 0.925, 0.9, 0.875, 0.85, 0.875, 0.9, 0.925, 0.95, 0.95, 0.95, 0.95]
    assert weight_decay == [0.25] * 12


def test_one_cycle_of_the_article():
    """0.08 to 0.8 and back in 41 + 41 epochs, then 13 epochs down to a tenth of 0.08; momentum 0.95 to 0.80."""
    lr, momentum, _ = columns(one_cycle(0.8, 95, tail_frac=13 / 95, final_div=10, momentum=(0.95, 0.8)))
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
def test_one_cycle_of_few_steps(total_steps, expected):
    assert columns(one_cycle(1.0, total_steps))[0] == expected


def test_one_cycle_without_a_tail_ends_at_the_lower_bound():
    assert columns(one_cycle(1.0, 6, tail_frac=0))[0] == [0.1, 0.55, 1.0, 0.55, 0.1, 0.1]


@given(
    max_lr=st.floats(1e-6, 100),
    total_steps=st.integers(4, 400),
    div=st.floats(1, 50),
    tail_frac=st.floats(0.01, 0.4),
)
def test_one_cycle_stays_within_its_bounds(max_lr, total_steps, div, tail_frac):
    schedule = one_cycle(max_lr, total_steps, div=div, tail_frac=tail_frac)
    lr, momentum = schedule.lr(np.arange(total_steps)), schedule.momentum(np.arange(total_steps))
    assert lr[0] == pytest.approx(max_lr / div)
    assert lr.max() == pytest.approx(max_lr)
    assert momentum.min() == pytest.approx(0.85)
    assert momentum.max() == pytest.approx(0.95)
    peak = lr.argmax()
    assert (np.diff(lr[: peak + 1]) >= -1e-9).all()
    assert (np.diff(lr[peak:]) <= 1e-9).all()


def test_exponential_sweep():
    assert columns(lr_sweep(0.01, 1.0, 5))[0] == [0.01, 0.031623, 0.1, 0.316228, 1.0]


def test_linear_sweep():
    assert columns(lr_sweep(1.0, 3.0, 5, spacing="linear"))[0] == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_sweep_leaves_momentum_and_weight_decay_alone():
    sweep = lr_sweep(0.1, 1.0, 5)
    assert sweep.momentum is None
    assert sweep.weight_decay is None


def test_constant():
    assert columns(constant(0.5, 3, momentum=0.25)) == [[0.5] * 3, [0.25] * 3, [0.0] * 3]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: one_cycle(0, 10), "max_lr: got 0"),
        (lambda: one_cycle(float("nan"), 10), "got nan"),
        (lambda: one_cycle(1, 0), "total_steps: got 0"),
        (lambda: one_cycle(1, 10, div=0.5), "div: got 0.5"),
        (lambda: one_cycle(1, 10, final_div=0), "final_div: got 0"),
        (lambda: one_cycle(1, 10, tail_frac=1), "tail_frac: got 1"),
        (lambda: one_cycle(1, 10, momentum=1.0), "momentum: got 1.0"),
        (lambda: one_cycle(1, 10, momentum=(0.9, 0.99)), r"momentum: got \(0.9, 0.99\)"),
        (lambda: lr_sweep(1.0, 1.0, 5), "min_lr, max_lr: got 1.0 and 1.0"),
        (lambda: lr_sweep(0.0, 1.0, 5), "min_lr, max_lr: got 0.0"),
        (lambda: lr_sweep(0.1, float("inf"), 5), "min_lr, max_lr"),
        (lambda: lr_sweep(0.1, 1.0, 1), "total_steps: got 1"),
        (lambda: lr_sweep(0.1, 1.0, 5, spacing="cubic"), "spacing: got 'cubic'"),
        (lambda: constant(-1, 3).table(), "lr: got -1.0"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
