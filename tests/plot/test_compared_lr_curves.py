"""The picture of several range tests."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from clrfast.plot import lr_curves, rates
from tests.helpers.curves import make_curve
from tests.helpers.figures import drawn, joined, labels, laid_out


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
