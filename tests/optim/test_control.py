"""StepControl against hand-computed values; test_native_control.py compares the backends."""

import math

import pytest
import torch

from clrfast import Schedule
from clrfast.optim import StepControl
from clrfast.schedules import Linear
from tests.helpers.optimizers import BACKENDS

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def make(backend, total_steps=3):
    return StepControl(Schedule(Linear(1.0, 3.0, 2), momentum=0.5).table(total_steps), backend=backend)


def test_rows_follow_the_table_and_the_last_one_stays(backend):
    control = make(backend)
    rows = []
    for _ in range(5):
        control.advance()
        rows.append(control.row[0].tolist())
    assert rows == [[1, 0.5, 0, 1], [2, 0.5, 0, 1], [3, 0.5, 0, 1], [3, 0.5, 0, 1], [3, 0.5, 0, 1]]
    assert control.host_step == int(control.step) == 5


def test_a_skipped_update_does_not_move_the_step(backend):
    control = make(backend)
    control.advance(torch.tensor(1.0), torch.tensor(2.0))
    assert control.row[0].tolist() == [1, 0.5, 0, 0]
    assert int(control.step) == 0
    assert control.losses[0] == 1.0


def test_the_average_has_bias_correction(backend):
    control = make(backend)
    control.watch_divergence(smoothing=0.5, stop_factor=10)
    for loss in (1.0, 2.0):
        control.advance(loss)
    average, weight, best = control.average.tolist()
    assert (average, weight, best) == (1.25, 0.75, 1.0)  # smoothed: 1, then (1 + 2 * 2) / 3


@pytest.mark.parametrize(
    ("losses", "stopped_at"),
    [
        ([1.0, 3.9, 4.1], 2),
        ([2.0, 1.0, 3.9], None),
        ([-1.0, -3.0, 5.9], None),
        ([-1.0, -3.0, 6.1], 2),
        ([1.0, math.nan, 1.0], 1),
        ([1.0, math.inf, 1.0], 1),
        ([1.0, -math.inf, 1.0], 1),
    ],
)
def test_stop_is_sticky_and_freezes_everything(backend, losses, stopped_at):
    control = make(backend)
    control.watch_divergence(smoothing=0.0, stop_factor=4.0)
    for step, loss in enumerate(losses):
        control.advance(loss)
        assert bool(control.stop) == (stopped_at is not None and step >= stopped_at)
    if stopped_at is not None:
        assert int(control.step) == stopped_at
        assert control.row[0, 3] == 0
        before = control.progress()
        control.advance(1.0)
        for name in ("step", "losses", "average", "stop"):
            torch.testing.assert_close(getattr(control, name), before[name], equal_nan=True)


def test_divergence_stops_nothing_unless_it_is_watched(backend):
    control = make(backend)
    for loss in (1.0, math.nan, 1e9):
        control.advance(loss)
    assert not control.stop
    assert int(control.step) == 3


def test_progress_resumes_with_a_table_of_another_length(backend):
    control = make(backend)
    control.advance(5.0)
    control.advance(4.0)
    longer = make(backend, total_steps=6)
    longer.resume(control.progress())
    assert longer.host_step == 2
    assert longer.losses[:2].tolist() == [5.0, 4.0]
    shorter = make(backend, total_steps=1)
    shorter.resume(control.progress())
    assert shorter.losses.tolist() == [5.0]
    assert shorter.host_row() == [[1.0, 0.5, 0.0]]


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"smoothing": 1.0}, "smoothing: got 1.0"),
        ({"smoothing": -0.1}, "smoothing"),
        ({"stop_factor": 1.0}, "stop_factor: got 1.0"),
    ],
)
def test_an_error_names_the_bad_argument(backend, kwargs, named):
    with pytest.raises(ValueError, match=named):
        make(backend).watch_divergence(**kwargs)
