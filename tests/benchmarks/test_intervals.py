"""Bootstrap intervals, on values whose interval is known."""

import pytest

from benchmarks.intervals import bootstrap_interval


def test_a_bootstrap_interval_is_that_of_the_mean():
    assert bootstrap_interval([0.3] * 5) == pytest.approx((0.3, 0.3))
    low, high = bootstrap_interval([0.0] * 50 + [1.0] * 50)
    assert (low, high) == pytest.approx((0.4, 0.6), abs=0.02)  # 0.5 -+ 1.96 * 0.5 / sqrt(100)
