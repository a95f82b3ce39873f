"""The picture of one range test."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from clrfast.plot import lr_curve, lr_curves
from tests.helpers.curves import make_curve
from tests.helpers.figures import LOSS, drawn, joined, labels, laid_out, measured, span


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, np.nan]), "stopped": "non-finite"},
        {"loss": np.array([2.0, 1.9, 1.5, np.nan, np.nan, np.nan, np.nan]), "stopped": "non-finite"},
        {"loss": np.full(7, np.nan), "stopped": "non-finite"},
        {"loss": np.full(7, -3.0), "stopped": "completed"},
        {"loss": LOSS - 20.0, "initial_loss": -18.0},
        {"loss": LOSS[:5], "lr": np.geomspace(1e-3, 1.0, 5)},
        {"loss": LOSS[:1], "lr": np.array([0.1])},
        {"loss": np.array([2.0, 1.9, 1.5, 1.0, 0.9, 0.8, 0.8]), "stopped": "completed"},
        {"metric": np.full(7, np.nan), "metric_name": "accuracy"},
        {"metric": np.array([1, np.nan, np.inf, 1, 1, 1, 1]), "metric_name": "validation loss"},
    ],
)
def test_every_curve_can_be_drawn(changes):
    axes = laid_out(make_curve(**changes).plot())
    assert axes.get_xscale() == "log"
    for each in axes.figure.axes:
        low, high = each.get_ylim()
        assert np.isfinite((low, high)).all()
        assert low < high
    laid_out(lr_curves({"one": make_curve(**changes), "two": make_curve()}))


def test_suggestion_and_divergence_are_marked():
    curve = make_curve()
    suggestion = curve.suggest()
    axes = curve.plot(suggestion=suggestion)
    low, high = f"{suggestion.low:.2g}", f"{suggestion.high:.2g}"
    suggested = f"suggested {suggestion.max_lr:.2g}" + (f" ({low} to {high})" if low != high else "")
    diverged = f"diverged at {curve.divergence_lr:.2g}"
    assert labels(axes) == ["loss per batch", "smoothed", suggested, diverged]
    assert drawn(axes, suggested).get_xdata() == suggestion.max_lr
    assert drawn(axes, diverged).get_xdata() == curve.divergence_lr


def test_the_lower_bound_is_marked_and_printed_for_cyclical_rates_alone():
    curve = make_curve()
    suggestion = replace(curve.suggest(), method="clr_bounds")
    bound = f"lower bound of a cyclical rate {suggestion.base_lr:.2g}"
    assert bound in str(suggestion)
    assert drawn(curve.plot(suggestion=suggestion), bound).get_xdata() == suggestion.base_lr
    assert "cyclical" not in str(curve.suggest())


def test_the_interval_is_shaded_in_both_panels():
    curve = joined()
    suggestion = replace(curve.suggest(), low=0.01, high=0.09)
    axes = curve.plot(suggestion=suggestion)
    assert any("(0.01 to 0.09)" in label for label in labels(axes))
    for panel in axes.figure.axes:
        (shade,) = panel.patches
        assert span(shade) == pytest.approx((0.01, 0.09))


def test_without_a_suggestion_and_a_divergence_nothing_is_marked():
    curve = make_curve(loss=np.array([2.0, 1.9, 1.5, 1.0, 0.9, 0.8, 0.8]), stopped="completed")
    assert labels(curve.plot()) == ["loss per batch", "smoothed"]


def test_an_explosion_does_not_flatten_the_descent():
    loss = np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, 8000.0])
    low, high = make_curve(loss=loss).plot().get_ylim()
    assert low < 0.9
    assert 2.0 < high < 10


def test_an_explosion_of_the_validation_loss_does_not_flatten_the_descent():
    curve = measured("validation loss", [2.1, 1.4, 7000.0])
    low, high = curve.plot().get_ylim()
    assert low < 0.9
    assert 2.1 < high < 10


def test_losses_after_the_divergence_are_faint():
    curve = make_curve()
    lines = [line for line in curve.plot().get_lines() if len(line.get_xdata()) > 1 and line.get_color() == "#0072B2"]
    full = next(line for line in lines if line.get_label() == "smoothed")
    (faint,) = (line for line in lines if line is not full)
    assert full.get_xdata()[-1] == faint.get_xdata()[0] == curve.divergence_lr
    assert faint.get_alpha() < 0.5 * full.get_alpha()


def test_the_legend_hides_no_data():
    axes = laid_out(joined(repeats=(joined(),)).plot(suggestion=joined().suggest()))
    legend = axes.get_legend().get_window_extent()
    assert legend.y0 >= axes.get_window_extent().y1
    assert legend.x1 <= axes.figure.bbox.x1
    assert legend.y1 <= axes.figure.bbox.y1


def test_the_legend_of_narrow_axes_is_no_wider_than_they_are():
    axes = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
    for ax in axes:
        joined().plot(ax, suggestion=joined().suggest())
    laid_out(axes[0])
    assert axes[0].get_legend().get_window_extent().x1 < axes[1].get_window_extent().x0


def test_given_axes_are_used_and_no_others():
    axes = Figure().subplots()
    assert make_curve().plot(axes) is axes
    assert axes.figure.axes == [axes]
    assert axes.get_legend().get_title().get_text() == ""
    assert lr_curve(make_curve(), Figure().subplots(), title="mine").get_legend().get_title().get_text() == "mine"


def test_accuracy_has_its_own_axis():
    axes = laid_out(measured("accuracy").plot())
    own = axes.figure.axes[-1]
    assert own is not axes
    assert own.get_ylabel() == "accuracy"
    assert "accuracy" in labels(axes)
    points = [xy for line in own.get_lines() for xy in zip(line.get_xdata(), line.get_ydata(), strict=True)]
    lr = make_curve().lr
    assert {(lr[1], 0.1), (lr[3], 0.5), (lr[5], 0.9)} == set(points)
    assert axes.get_zorder() > own.get_zorder()
    assert not axes.patch.get_visible()


def test_validation_loss_shares_the_axis_of_the_loss():
    axes = measured("validation loss", [1.9, 1.4, 2.2]).plot()
    assert len(axes.figure.axes) == 2
    assert axes.get_ylabel() == "loss"
    assert 1.4 in drawn(axes, "validation loss").get_ydata()


def test_the_metric_can_be_left_out():
    axes = lr_curve(measured("accuracy"), metric=False)
    assert len(axes.figure.axes) == 2
    assert labels(axes) == ["loss per batch", "smoothed", labels(axes)[-1]]


def test_repeats_are_thin_lines_with_one_entry():
    curve = joined(repeats=(joined(initial_loss=2.5), joined()))
    axes = curve.plot()
    assert labels(axes).count("other ramps, smoothed") == 1
    assert drawn(axes, "other ramps, smoothed").get_linewidth() < drawn(axes, "smoothed").get_linewidth()
    starts = [line for line in axes.get_lines() if len(line.get_xdata()) > 2 and line.get_xdata()[0] == curve.lr[0]]
    assert len(starts) == 4


def test_the_descent_fills_the_panel_of_slopes():
    loss = joined().loss
    curve = joined(loss=np.where(joined().lr > 4, np.where(np.arange(72) % 8 < 4, 2.0, 40.0), loss))
    slim = curve.plot().figure.axes[1]
    low, high = slim.get_ylim()
    deepest = curve.slope[curve.lr < curve.divergence_lr].min()
    assert low < deepest < 0.7 * low
    assert 0 < high < -low
    assert slim.get_xlabel()


def linear(n=40):
    lr = np.linspace(0.004, 0.4, n)
    return make_curve(lr=lr, loss=2.0 - 1.5 * (1 - np.exp(-lr / 0.05)), stopped="completed")


def test_a_linear_ramp_has_a_linear_axis():
    curve = linear()
    above = laid_out(curve.plot())
    below = above.figure.axes[1]
    assert [axes.get_xscale() for axes in (above, below)] == ["linear", "linear"]
    assert (below.get_xlabel(), below.get_ylabel()) == ("learning rate", "change per\n0.1 of rate")
    assert laid_out(lr_curves({"one": curve, "two": curve})).get_xscale() == "linear"
    assert laid_out(lr_curves({"one": curve, "two": joined()})).get_xscale() == "log"


def test_a_long_curve_is_drawn_by_its_extremes():
    """Each pixel shows the lowest and the highest of its losses; slopes take no weight for each pair of points."""
    n = 300_000
    lr = np.geomspace(1e-7, 0.5, n)
    loss = 2.0 - 1.5 / (1 + 1e-2 / lr) + 0.05 * np.random.default_rng(0).normal(size=n)
    loss[[1000, 200_000]] = 1.0, 3.0
    curve = make_curve(lr=lr, loss=loss, stopped="completed")
    axes = laid_out(curve.plot())
    for each in axes.figure.axes:
        assert max(len(line.get_xdata()) for line in each.get_lines()) <= 4_002
    raw = drawn(axes, "loss per batch")
    assert {1.0, 3.0} <= set(raw.get_ydata())
    assert (raw.get_xdata()[0], raw.get_xdata()[-1]) == (lr[0], lr[-1])
    assert (np.diff(raw.get_xdata()) > 0).all()


def test_lines_of_few_points_are_drawn_unchanged():
    curve = make_curve(lr=np.geomspace(1e-3, 0.5, 4_000), loss=np.linspace(2.0, 1.0, 4_000), stopped="completed")
    np.testing.assert_array_equal(drawn(curve.plot(), "loss per batch").get_ydata(), curve.loss)
