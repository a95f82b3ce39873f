import numpy as np

from tests.helpers.curves import make_curve
from tests.helpers.figures import joined


def test_the_slope_does_not_depend_on_where_the_points_are():
    curve = joined(loss=np.log10(joined().lr) * -0.7 + 3, initial_loss=7.3)
    np.testing.assert_allclose(curve.slope[3:-3], -0.7, atol=0.02)
    noise = 0.02 * np.random.default_rng(0).normal(size=len(curve.lr))
    noisy = joined(loss=curve.loss + noise, initial_loss=7.3)
    differences = np.gradient(noisy.smoothed, np.log10(noisy.lr))
    assert noisy.slope[20:-3].std() < 0.7 * differences[20:-3].std()


def test_the_slope_of_a_linear_ramp_is_per_unit_of_rate():
    lr = np.linspace(0.1, 1.0, 50)
    change = make_curve(lr=lr, loss=3.0 - 2.0 * lr, stopped="completed", initial_loss=3.0).slope
    np.testing.assert_allclose(change, -2.0, rtol=1e-6)
