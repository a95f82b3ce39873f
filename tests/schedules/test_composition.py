import pickle

import numpy as np
import pytest

from clrfast.schedules import Clipped, Constant, Curve, Joined, Linear, Repeated, Scaled, Shifted, Stretched

LINE = Linear(0.0, 4.0, 4)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (Joined((Constant(1.0), LINE), (2,)), [1, 1, 0, 1, 2, 3, 4, 4]),
        (Joined((Constant(1.0), Constant(2.0), Constant(3.0)), (1, 1)), [1, 3, 3]),
        (Joined((Constant(1.0), LINE), (1.5,)), [1, 1, 0.5, 1.5]),
        (Scaled(LINE, 0.5), [0, 0.5, 1, 1.5, 2, 2]),
        (Clipped(LINE, 1.0, 2.5), [1, 1, 2, 2.5, 2.5]),
        (Repeated(LINE, 3), [0, 1, 2, 0, 1, 2, 0]),
        (Shifted(LINE, 2), [0, 0, 0, 1, 2]),
        (Shifted(LINE, -2), [2, 3, 4, 4]),
        (Stretched(LINE, 2), [0, 0.5, 1, 1.5, 2]),
        (Scaled(Repeated(Joined((LINE, Constant(9.0)), (2,)), 3), 2.0), [0, 2, 18, 0, 2, 18]),
    ],
)
def test_composed_curves_have_their_values_and_survive_dict_and_pickle(curve, expected):
    np.testing.assert_allclose(curve(np.arange(len(expected))), expected)
    assert Curve.from_dict(curve.to_dict()) == curve
    assert pickle.loads(pickle.dumps(curve)) == curve


def test_parts_of_a_composed_curve_may_be_numbers_and_functions():
    joined = Joined((0.5, Linear(1.0, 2.0, 1), lambda step: step / step.max()), (2, 2))
    assert joined(np.arange(4)).tolist()[:2] == [0.5, 0.5]
    assert joined([0, 1]).tolist() == [0.5, 0.5]  # the function is not called for no steps
    assert Scaled(2.0, 3.0)([0]).tolist() == [6.0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Joined((Constant(1.0),), (3,)), "boundaries: got 1 for 1 curves"),
        (lambda: Joined((Constant(1.0),) * 3, (5, 3)), r"boundaries: got \(5, 3\)"),
        (lambda: Joined((Constant(1.0),) * 2, (float("nan"),)), r"boundaries: got \(nan,\)"),
        (lambda: Scaled("line", 2.0), "curve: got 'line'"),
        (lambda: Scaled(LINE, float("inf")), "factor: got inf"),
        (lambda: Clipped(LINE, 2.0, 1.0), "low, high: got 2.0 and 1.0"),
        (lambda: Repeated(LINE, 0), "period_steps: got 0"),
        (lambda: Shifted(LINE, float("nan")), "by_steps: got nan"),
        (lambda: Stretched(LINE, -1), "factor: got -1"),
    ],
)
def test_errors_name_the_bad_argument(make, named):
    with pytest.raises(ValueError, match=named):
        make()
