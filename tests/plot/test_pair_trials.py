"""The picture of long trials with pairs of a rate and a weight decay."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from clrfast import History
from clrfast.recipe import PairTrials
from tests.helpers.figures import labels, laid_out


def long_runs(*losses):
    """Runs from a loss of 2 to these."""
    histories = [History(np.ones(20), [2.0, x], [0, 20]) for x in losses]
    rates, decays = np.array([0.1, 0.1, 0.3, 1e-5]), np.array([1e-3, 1e-2, 1e-3, 1e-3])
    return PairTrials(rates[: len(losses)], decays[: len(losses)], 20, tuple(histories))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0.5,), ["loss after the run", "chosen: 0.1, 0.001"]),
        ((0.5, 0.4, np.inf), ["loss after the run", "diverged, or above its start", "chosen: 0.1, 0.01"]),
        ((0.5, 0.5, 0.5, 0.5), ["loss after the run", "chosen: 1e-05, 0.001"]),
        ((np.inf, 2.5, 2.0), ["diverged, or above its start"]),  # no answer, and nothing to expect from it
    ],
)
def test_all_pairs_can_be_drawn(losses, expected):
    found = long_runs(*losses)
    axes = laid_out(found.plot())
    assert labels(axes) == expected
    assert [text.get_text() for text in axes.texts] == [f"{loss:#.3g}" for loss in losses if np.isfinite(loss)]
    n_marks = sum(len(marks.get_offsets()) for marks in axes.collections if marks.get_label() in expected)
    assert n_marks == len(losses) + ("chosen" in expected[-1])
    for limits, values in ((axes.get_xlim(), found.max_lr), (axes.get_ylim(), found.weight_decay)):
        assert limits[0] < values.min()
        assert values.max() < limits[1]
    own = Figure().subplots()
    assert found.plot(own) is own
