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


def test_schedule_draws_what_it_decides():
    from clrfast.schedules import Schedule, one_cycle

    figure = one_cycle(0.5, 20).plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["learning rate", "momentum"]
    lr = figure.axes[0].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(lr, one_cycle(0.5, 20).table()[:, 0, 0])

    figure = Schedule([0.1, 0.2], weight_decay=1e-4).plot(total_steps=5)
    assert [axes.get_ylabel() for axes in figure.axes] == ["learning rate", "weight decay"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["group 0", "group 1"]
    assert all(axes.get_ylim()[0] == 0 for axes in figure.axes)
    assert one_cycle(0.5, 20).plot().axes[0].get_ylim()[0] == 0
