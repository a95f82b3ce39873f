from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from clrfast import History, WeightDecayTrials
from clrfast.finder import RateRecord
from clrfast.plot import lr_curve, lr_curves, rates
from clrfast.recipe import PairTrials
from tests.helpers.curves import make_curve

LOSS = np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, 8.0])


def joined(**changes):
    """Points as of a coarse ramp and a fine one: denser to the right."""
    lr = np.concatenate((np.geomspace(1e-6, 1e-2, 12), np.geomspace(1.2e-2, 10, 60)))
    loss = 2.0 - 1.5 / (1 + (5e-2 / lr) ** 2) + lr**2
    return make_curve(**{"lr": lr, "loss": loss, **changes})


def measured(name, values=None, lr=7):
    metric = np.full(lr, np.nan)
    metric[1::2] = np.linspace(0.1, 0.9, lr // 2) if values is None else values
    return make_curve(metric=metric, metric_name=name)


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def span(patch):
    """From where to where along x, whichever class of patch this matplotlib draws."""
    extents = patch.get_path().get_extents(patch.get_patch_transform())
    return extents.x0, extents.x1


def drawn(axes, label):
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return line


def laid_out(axes):
    axes.figure.draw_without_rendering()
    return axes


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
    told = f"suggested {suggestion.max_lr:.2g}" + (f" ({low} to {high})" if low != high else "")
    base, diverged = f"base_lr {suggestion.base_lr:.2g}", f"diverged at {curve.divergence_lr:.2g}"
    assert labels(axes) == ["loss per batch", "smoothed", told, base, diverged]
    assert drawn(axes, told).get_xdata() == suggestion.max_lr
    assert drawn(axes, base).get_xdata() == suggestion.base_lr
    assert drawn(axes, diverged).get_xdata() == curve.divergence_lr


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


def test_the_slope_does_not_depend_on_where_the_points_are():
    curve = joined(loss=np.log10(joined().lr) * -0.7 + 3, initial_loss=7.3)
    np.testing.assert_allclose(curve.slope[3:-3], -0.7, atol=0.02)
    noise = 0.02 * np.random.default_rng(0).normal(size=len(curve.lr))
    noisy = joined(loss=curve.loss + noise, initial_loss=7.3)
    differences = np.gradient(noisy.smoothed, np.log10(noisy.lr))
    assert noisy.slope[20:-3].std() < 0.7 * differences[20:-3].std()


def test_the_descent_fills_the_panel_of_slopes():
    loss = joined().loss
    curve = joined(loss=np.where(joined().lr > 4, np.where(np.arange(72) % 8 < 4, 2.0, 40.0), loss))
    slim = curve.plot().figure.axes[1]
    low, high = slim.get_ylim()
    deepest = curve.slope[curve.lr < curve.divergence_lr].min()
    assert low < deepest < 0.7 * low
    assert 0 < high < -low
    assert slim.get_xlabel()


def test_several_curves_are_listed_with_their_suggestions():
    one, none = joined(), make_curve(lr=joined().lr, loss=np.linspace(2, 3, 72))
    axes = laid_out(lr_curves({"one": one, "none": none}))
    main, listed = axes.figure.axes
    assert main is axes
    assert [text.get_text() for text in listed.get_yticklabels()] == ["one", "none"]
    found = one.suggest()
    assert [text.get_text() for text in listed.texts] == [f"{found.max_lr:.2g}", "no suggestion"]
    (mark,) = (line for line in main.get_lines() if line.get_marker() == "o")
    assert mark.get_xdata() == found.max_lr
    assert mark.get_color() == drawn(main, "one").get_color() != drawn(main, "none").get_color()


def test_in_given_axes_the_legend_has_the_suggestions():
    axes = Figure().subplots()
    curves = {"a": joined(), "b": joined()}
    assert lr_curves(curves, axes, suggestions={"a": joined().suggest()}) is axes
    assert labels(axes) == [f"a: {joined().suggest().max_lr:.2g}", "b: no suggestion"]
    assert labels(lr_curves(curves, suggestions=False)) == ["a", "b"]


def test_many_curves_have_distinct_styles():
    axes = lr_curves({str(i): joined() for i in range(14)}, suggestions=False)
    looks = {(drawn(axes, str(i)).get_color(), drawn(axes, str(i)).get_linestyle()) for i in range(14)}
    assert len(looks) == 14
    ordered = lr_curves({str(i): joined() for i in range(14)}, suggestions=False, ordered=True)
    light = [sum(drawn(ordered, str(i)).get_color()[:3]) for i in range(14)]
    assert light == sorted(light, reverse=True)


def test_curves_without_names_are_refused():
    with pytest.raises(ValueError, match="curves: got list; give a dict of curves"):
        lr_curves([make_curve()])


def test_empty_arguments_are_refused():
    with pytest.raises(ValueError, match="curves: got none; give at least one"):
        lr_curves({})
    with pytest.raises(ValueError, match="history: it is empty"):
        rates([])


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


def decays(*losses):
    """Two short runs of each weight decay, which end with these losses."""
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


def long_runs(*losses):
    """From a loss of 2 on."""
    histories = [History(np.ones(20), [2.0, x], [0, 20]) for x in losses]
    rates, decays = np.array([0.1, 0.1, 0.3, 1e-5]), np.array([1e-3, 1e-2, 1e-3, 1e-3])
    return PairTrials(rates[: len(losses)], decays[: len(losses)], 20, tuple(histories))


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ((0.5,), ["loss after the run", "chosen: 0.1, 0.001"]),
        ((0.5, 0.4, np.inf), ["loss after the run", "diverged, or above its start", "chosen: 0.1, 0.01"]),
        ((0.5, 0.5, 0.5, 0.5), ["loss after the run", "chosen: 1e-05, 0.001"]),
        ((np.inf, 2.5, 2.0), ["diverged, or above its start"]),  # no answer, and nothing to expect from it
    ],
)
def test_all_pairs_can_be_drawn(losses, told):
    found = long_runs(*losses)
    axes = laid_out(found.plot())
    assert labels(axes) == told
    assert [text.get_text() for text in axes.texts] == [f"{loss:#.3g}" for loss in losses if np.isfinite(loss)]
    n_marks = sum(len(marks.get_offsets()) for marks in axes.collections if marks.get_label() in told)
    assert n_marks == len(losses) + ("chosen" in told[-1])
    for limits, values in ((axes.get_xlim(), found.max_lr), (axes.get_ylim(), found.weight_decay)):
        assert limits[0] < values.min()
        assert values.max() < limits[1]
    own = Figure().subplots()
    assert found.plot(own) is own


def test_a_schedule_draws_the_quantities_that_it_sets():
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


# --- linear ramps and long curves ------------------------------------------------------------------------------------


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


def test_the_slope_of_a_linear_ramp_is_per_unit_of_rate():
    lr = np.linspace(0.1, 1.0, 50)
    change = make_curve(lr=lr, loss=3.0 - 2.0 * lr, stopped="completed", initial_loss=3.0).slope
    np.testing.assert_allclose(change, -2.0, rtol=1e-6)


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
