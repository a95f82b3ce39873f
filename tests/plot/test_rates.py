"""The picture of range tests during a training."""

import numpy as np
import pytest

from clrfast.finder import RateRecord
from clrfast.plot import rates
from tests.helpers.curves import make_curve
from tests.helpers.figures import LOSS, drawn, joined, labels, laid_out


def record(epoch, lr=0.1, curve=None, found=True):
    curve = joined() if curve is None else curve
    return RateRecord(epoch, curve, curve.suggest() if found else None, "because", lr)


def test_rates_are_drawn_over_the_epochs():
    above, below = laid_out(rates([record(0), record(5, found=False), record(10, 0.05)]).axes[0]).figure.axes
    assert set(labels(above)) == {"suggested, with its interval", "diverged at", "in use", "no suggestion"}
    assert list(drawn(above, "in use").get_ydata()) == [0.1, 0.1, 0.05]
    assert list(drawn(above, "no suggestion").get_xdata()) == [5]
    assert labels(below) == ["epoch 0", "epoch 5", "epoch 10"]


@pytest.mark.parametrize(
    "history",
    [
        [record(0, None, found=False, curve=make_curve(loss=LOSS[:5], lr=np.geomspace(1e-3, 1, 5)))],
        [record(0, 0.0, found=False, curve=make_curve(loss=LOSS - 20, initial_loss=-18.0))],
        [record(0, None, found=False, curve=make_curve(loss=np.full(7, np.nan), stopped="non-finite"))],
        [record(epoch) for epoch in range(30)],
    ],
)
def test_every_history_can_be_drawn(history):
    figure = rates(history)
    laid_out(figure.axes[0])
    assert len(labels(figure.axes[1])) <= 6
    assert labels(figure.axes[1])[-1] == f"epoch {history[-1].epoch}"
