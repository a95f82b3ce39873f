"""The picture of a schedule."""

import numpy as np

from clrfast.schedules import Schedule, one_cycle


def test_a_schedule_draws_the_quantities_that_it_sets():
    figure = one_cycle(0.5, 20).plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["learning rate", "momentum"]
    lr = figure.axes[0].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(lr, one_cycle(0.5, 20).table()[:, 0, 0])

    figure = Schedule([0.1, 0.2], weight_decay=1e-4).plot(total_steps=5)
    assert [axes.get_ylabel() for axes in figure.axes] == ["learning rate", "weight decay"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["group 0", "group 1"]
    assert all(axes.get_ylim()[0] == 0 for axes in figure.axes)
    assert one_cycle(0.5, 20).plot().axes[0].get_ylim()[0] == 0
