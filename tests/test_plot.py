import numpy as np
import pytest

from .test_curve import make_curve


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, np.nan]), "stopped": "non-finite"},
        {"loss": np.full(7, np.nan), "stopped": "non-finite"},
        {"loss": np.full(7, -3.0), "stopped": "completed"},
    ],
)
def test_every_curve_can_be_drawn(changes, tmp_path):
    axes = make_curve(**changes).plot()
    axes.figure.savefig(tmp_path / "curve.png")
    assert axes.get_xscale() == "log"
    assert np.isfinite(axes.get_ylim()).all()


def test_suggestion_and_divergence_are_marked():
    curve = make_curve()
    suggestion = curve.suggest()
    axes = curve.plot(suggestion=suggestion)
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        "loss per batch",
        "smoothed",
        f"suggested {suggestion.max_lr:.2g}",
        f"diverged at {curve.divergence_lr:.2g}",
    ]
    marks = {line.get_label(): line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() in ("o", "X")}
    assert marks == {labels[2]: suggestion.max_lr, labels[3]: curve.divergence_lr}


def test_the_explosion_does_not_flatten_the_descent():
    loss = np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, 8000.0])
    low, high = make_curve(loss=loss).plot().get_ylim()
    assert low < 0.9
    assert 2.0 < high < 10


def test_given_axes_are_used():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert make_curve().plot(axes) is axes
