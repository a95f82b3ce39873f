"""Checks of arguments."""

import numpy as np
import pytest

from clrfast import _checks as checks
from clrfast._checks import is_whole, parse_float, require_finite, require_positive, short_repr


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no text")


def test_a_long_or_unprintable_value_has_a_short_text():
    assert len(short_repr(list(range(1000)))) < 50
    assert short_repr(Unprintable()).startswith("<Unprintable instance at")
    assert short_repr(10**5000) == "a value of type int"


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3.0), 10**300])
def test_whole_numbers_of_every_type_are_whole(value):
    assert is_whole(value)


@pytest.mark.parametrize("value", [3.5, True, "3", None, float("inf"), float("nan"), 10**400])
def test_other_values_are_not_whole(value):
    assert not is_whole(value)


@pytest.mark.parametrize("value", [True, "fast", None, [1.0], 10**400])
def test_a_value_that_does_not_read_as_a_number_is_named(value):
    with pytest.raises(ValueError, match=r"^lr: got .*; give a number within the range of a float"):
        parse_float("lr", value)


def test_the_first_bad_number_is_named():
    require_finite(a=0, b=-1.5)
    require_positive(a=1, b=0.5)
    with pytest.raises(ValueError, match=r"^b: got inf; give a finite number$"):
        require_finite(a=1, b=float("inf"), c=float("nan"))
    with pytest.raises(ValueError, match=r"^b: got 0; give a finite number above 0$"):
        require_positive(a=1, b=0)


@pytest.mark.parametrize("steps", [5, 7, 15, 40])
def test_a_ramp_needs_enough_steps_for_close_rates(steps):
    widest = checks.MAX_RATE_RATIO ** (steps - 1)
    checks.require_ramp_steps("steps", steps, 1.0, widest, "exponential")
    checks.require_ramp_steps("steps", steps, 1.0, 1e9, "linear")
    with pytest.raises(
        ValueError, match=f"--steps: got {steps}; give at least {steps + 1}, or 'auto': fewer .* are too far apart"
    ):
        checks.require_ramp_steps("--steps", steps, 1.0, 1.01 * widest, "exponential")
    checks.require_ramp_steps("steps", 1100, 1e-320, 1e308, "exponential")
    with pytest.raises(ValueError, match=r"steps: got 4; give at least 5, .*: fewer rates do not define a slope"):
        checks.require_ramp_steps("steps", 4, 1.0, 2.0, "linear")
