import numpy as np
import pytest
from torch.optim.lr_scheduler import CyclicLR

from clrfast import Suggestion, constant, lr_ramp, one_cycle
from clrfast.schedules import POLICIES, Schedule, exp_range, triangular, triangular2
from tests.helpers.schedules import POLICY_ARGUMENTS, assert_equal_curves, columns

SUGGESTION = Suggestion(0.2, 0.05, 0.1, 0.3, "edge", "because")


def test_an_exponential_ramp_has_equal_ratios():
    assert columns(lr_ramp(0.01, 1.0, 5))[0] == [0.01, 0.031623, 0.1, 0.316228, 1.0]


def test_a_linear_ramp_has_equal_differences():
    assert columns(lr_ramp(1.0, 3.0, 5, spacing="linear"))[0] == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_a_ramp_sets_no_momentum_and_no_weight_decay():
    ramp = lr_ramp(0.1, 1.0, 5)
    assert ramp.momentum is None
    assert ramp.weight_decay is None


def test_a_constant_schedule_has_the_same_values_at_every_step():
    assert columns(constant(0.5, 3, momentum=0.25)) == [[0.5] * 3, [0.25] * 3, [0.0] * 3]


def test_triangular_equals_values_computed_by_hand():
    lr, momentum, weight_decay = columns(triangular(0.1, 0.5, 6, step_size=2, weight_decay=0.25))
    assert lr == [0.1, 0.3, 0.5, 0.3, 0.1, 0.3]
    assert momentum == [0.95, 0.9, 0.85, 0.9, 0.95, 0.9]
    assert weight_decay == [0.25] * 6


def test_the_way_down_can_be_longer_than_the_way_up():
    assert columns(triangular(0.0, 1.0, 7, step_size=1, step_size_down=4))[0] == [0.0, 1.0, 0.75, 0.5, 0.25, 0.0, 1.0]


def test_triangular2_halves_its_amplitude_and_exp_range_decays():
    assert columns(triangular2(0.0, 1.0, 9, step_size=2))[0] == [0, 0.5, 1, 0.5, 0, 0.25, 0.5, 0.25, 0]
    assert columns(exp_range(0.0, 1.0, 5, step_size=2, gamma=0.5))[0] == [0, 0.25, 0.25, 0.0625, 0]


def test_the_amplitude_can_be_any_function_of_the_cycle():
    schedule = triangular(0.0, 1.0, 9, step_size=2, amplitude=lambda cycle: 1 / (1 + cycle) ** 2)
    assert columns(schedule)[0] == [0, 0.5, 1, 0.5, 0, 0.125, 0.25, 0.125, 0]
    tabulated = schedule.without_functions()
    np.testing.assert_array_equal(Schedule.from_dict(tabulated.to_dict()).table(), schedule.table())


STEPS = 4000
CYCLES = {
    "triangular": (
        triangular(0.01, 0.3, STEPS, step_size=170, momentum=(0.9, 0.7)),
        {"step_size_up": 170, "mode": "triangular"},
    ),
    "triangular2": (
        triangular2(0.01, 0.3, STEPS, step_size=170, momentum=(0.9, 0.7)),
        {"step_size_up": 170, "mode": "triangular2"},
    ),
    "exp_range": (
        exp_range(0.01, 0.3, STEPS, step_size=170, gamma=0.9995, momentum=(0.9, 0.7)),
        {"step_size_up": 170, "mode": "exp_range", "gamma": 0.9995},
    ),
    "asymmetric": (
        triangular(0.01, 0.3, STEPS, step_size=30, step_size_down=110, momentum=(0.9, 0.7)),
        {"step_size_up": 30, "step_size_down": 110},
    ),
    "amplitude": (
        triangular(0.01, 0.3, STEPS, step_size=50, amplitude=lambda c: 0.9**c, momentum=(0.9, 0.7)),
        {"step_size_up": 50, "scale_fn": lambda cycle: 0.9 ** (cycle - 1), "scale_mode": "cycle"},
    ),
}


@pytest.mark.parametrize("name", CYCLES)
def test_cyclical_policies_equal_torchs_cyclic_lr(name):
    """To 1e-11: torch computes the place in a cycle as a difference of numbers near the count of cycles."""
    schedule, options = CYCLES[name]

    def make(optimizer):
        return CyclicLR(optimizer, 0.01, 0.3, base_momentum=0.7, max_momentum=0.9, **options)

    assert_equal_curves(schedule, make, STEPS, lr=0.01, momentum=True, rtol=1e-11)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("total_steps", [1, 2, 3, 50, 1000])
def test_every_policy_has_a_table_of_every_length_and_a_dict_form(name, total_steps):
    """A table for every length (a ramp needs two steps), a dict form, and no motion past the end of the table."""
    if name == "lr_ramp" and total_steps == 1:
        pytest.skip("a ramp of one step is refused")
    schedule = POLICIES[name](total_steps=total_steps, **POLICY_ARGUMENTS[name])
    table = schedule.table()
    assert table.shape == (total_steps, 1, 3)
    assert Schedule.from_dict(schedule.to_dict()) == schedule
    assert POLICIES[name](total_steps=float(total_steps), **POLICY_ARGUMENTS[name]) == schedule


@pytest.mark.parametrize("momentum", [None, 0.8, (0.9, 0.8), [0.9, 0.8], (0.8, 0.8)])
@pytest.mark.parametrize("name", [name for name in POLICIES if "cycle" in name or name.startswith("tri")])
def test_momentum_is_unset_fixed_or_cycled_against_the_rate(name, momentum):
    schedule = POLICIES[name](total_steps=100, **{**POLICY_ARGUMENTS[name], "momentum": momentum})
    if momentum is None:
        assert schedule.momentum is None
        return
    values = schedule.momentum(np.arange(100))
    upper, lower = momentum if not isinstance(momentum, float) else (momentum, momentum)
    assert values[0] == upper
    # One cos peaks between two steps: its lowest value is not quite reached.
    assert values.min() == pytest.approx(lower, abs=1e-3)
    lr = schedule.lr(np.arange(100))
    if upper != lower:
        assert np.corrcoef(lr[: lr.argmax() + 1], values[: lr.argmax() + 1])[0, 1] < -0.999


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: one_cycle(SUGGESTION, 100), r"max_lr: got Suggestion.*; give its max_lr"),
        (lambda: triangular(0.1, SUGGESTION, 10, step_size=2), "give its max_lr"),
        (lambda: constant(SUGGESTION, 10), "lr: got .*; give its max_lr"),
        (lambda: constant(0.1, 10, momentum=SUGGESTION), "momentum: got .*; give a curve, a finite number"),
        (lambda: lr_ramp(1.0, 1.0, 5), "min_lr, max_lr: got 1.0 and 1.0"),
        (lambda: lr_ramp(0.0, 1.0, 5), "min_lr, max_lr: got 0.0"),
        (lambda: lr_ramp(0.1, float("inf"), 5), "min_lr, max_lr"),
        (lambda: lr_ramp(0.1, 1.0, 1), "total_steps: got 1"),
        (lambda: lr_ramp(0.1, 1.0, 5, spacing="cubic"), "spacing: got 'cubic'"),
        (lambda: triangular(0.5, 0.1, 10, step_size=2), "base_lr, max_lr: got 0.5 and 0.1"),
        (lambda: triangular(0.1, 0.5, 10, step_size=0), "step_size: got 0"),
        (lambda: triangular(0.1, 0.5, 10, step_size=2, step_size_down=-1), "step_size_down: got -1"),
        (lambda: triangular(0.1, 0.5, 10, step_size=2, momentum=(0.8, 0.9)), "momentum: got .0.8, 0.9."),
        (lambda: triangular(0.1, 0.5, 10, step_size=2, momentum=1.0), "momentum: got 1.0"),
        (lambda: exp_range(0.1, 0.5, 10, step_size=2, gamma=0), "step_gamma: got 0"),
        (lambda: constant(-1, 3).table(), "lr: got -1.0"),
    ],
)
def test_errors_name_the_bad_argument(make, named):
    with pytest.raises(ValueError, match=named):
        make()
