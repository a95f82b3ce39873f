import pickle

import numpy as np
import pytest

from clrfast.schedules import Constant, Curve, Exponential, Joined, Linear, Tabulated

CURVES = [
    Constant(0.5),
    Linear(1.0, 3.0, 4),
    Exponential(1e-3, 10.0, 7),
    Joined((Constant(1.0), Linear(5.0, 7.0, 2)), (2,)),
    Tabulated((3.0, 1.0, 2.0)),
]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (Constant(0.5), [0.5, 0.5, 0.5, 0.5, 0.5]),
        (Linear(1.0, 3.0, 4), [1.0, 1.5, 2.0, 2.5, 3.0, 3.0, 3.0]),
        (Linear(3.0, 1.0, 2), [3.0, 2.0, 1.0, 1.0]),
        (Exponential(1.0, 16.0, 2), [1.0, 4.0, 16.0, 16.0]),
        (Joined((Constant(1.0), Linear(5.0, 7.0, 2)), (2,)), [1.0, 1.0, 5.0, 6.0, 7.0, 7.0]),
        (Joined((Constant(1.0), Constant(2.0), Constant(3.0)), (1, 1)), [1.0, 3.0, 3.0]),
        (Tabulated((3.0, 1.0, 2.0)), [3.0, 1.0, 2.0, 2.0]),
    ],
)
def test_curves_have_their_values_and_keep_the_last(curve, expected):
    np.testing.assert_allclose(curve(np.arange(len(expected))), expected, rtol=1e-15)


@pytest.mark.parametrize("curve", CURVES)
def test_values_have_the_shape_of_the_steps(curve):
    assert curve(3).shape == ()
    assert curve(np.zeros((2, 3), dtype=np.int64)).shape == (2, 3)
    assert curve(np.arange(4)).dtype == np.float64


@pytest.mark.parametrize("curve", [Linear(0.1, 0.7, 3), Exponential(1e-7, 10.0, 99)])
def test_end_points_are_exact(curve):
    assert curve(0) == curve.start
    assert curve(curve.transition_steps) == curve.end
    assert curve(10**9) == curve.end


@pytest.mark.parametrize("curve", CURVES)
def test_curves_survive_dict_and_pickle(curve):
    assert Curve.from_dict(curve.to_dict()) == curve
    assert pickle.loads(pickle.dumps(curve)) == curve


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Constant(float("nan")), "value: got nan"),
        (lambda: Linear(0.0, float("inf"), 1), "end: got inf"),
        (lambda: Linear(0.0, 1.0, 0), "transition_steps: got 0"),
        (lambda: Exponential(0.0, 1.0, 1), "start: got 0.0"),
        (lambda: Exponential(1.0, -1.0, 1), "end: got -1.0"),
        (lambda: Joined((Constant(1.0),), (3,)), "boundaries: got 1 for 1 curves"),
        (lambda: Joined((Constant(1.0),) * 3, (5, 3)), r"boundaries: got \(5, 3\)"),
        (lambda: Tabulated(()), "values: got none"),
        (lambda: Curve.from_dict({"kind": "Zigzag"}), "curve: 'Zigzag' is unknown"),
        (lambda: Curve.from_dict({"kind": "Constant", "height": 1}), "does not describe a Constant"),
    ],
)
def test_errors_name_the_bad_argument(make, named):
    with pytest.raises(ValueError, match=named):
        make()
