"""The picture of short trials."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from clrfast import History, WeightDecayTrials
from tests.helpers.figures import labels, laid_out, span


def decays(*losses):
    """Two short trials for each weight decay, with these losses at the end."""
    histories = [[History(np.ones(20), [2.0, 1.5, x], [0, 10, 20]) for x in row] for row in losses]
    return WeightDecayTrials(np.array([0.0, 1e-3, 1e-2]), tuple(map(tuple, histories)), 0.1)


@pytest.mark.parametrize(
    "losses",
    [
        ([1.0, 1.1], [0.5, 0.6], [1.4, 1.3]),
        ([1.0, 1.1], [0.5, 0.6], [np.inf, 1.3]),
        ([1.0, 1.0], [1.0, 1.0], [1e9, np.nan]),
        ([1.0, 1.0], [1.0, 1.0], [1.0, 1.0]),
        ([np.inf, np.inf], [np.inf, np.inf], [np.inf, np.inf]),  # no answer
    ],
)
def test_all_short_runs_can_be_drawn(losses):
    axes = laid_out(decays(*losses).plot())
    assert labels(axes) == ["0", "0.001", "0.01"]
    low, high = axes.get_ylim()
    assert low < 1.5 < 2.0 < high < 10
    assert len(axes.figure.axes) == 2
    assert axes.figure.axes[1].get_xlabel() == "value"


def test_the_choice_and_values_as_good_are_marked():
    below = decays([1.0, 1.1], [0.5, 0.6], [0.55, 0.52]).plot().figure.axes[1]
    assert [text.get_text() for text in below.texts] == ["chosen: 0.01"]
    (shaded,) = below.patches
    assert span(shaded) == pytest.approx((0.7, 2.3))
    own = Figure().subplots()
    assert decays([1.0, 1.1], [0.5, 0.6], [1.4, 1.3]).plot(own) is own
    assert own.figure.axes == [own]
