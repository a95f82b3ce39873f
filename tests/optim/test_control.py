"""StepControl against hand-computed values; test_native_control.py compares the backends."""

import math

import pytest
import torch

import clrfast
from clrfast import Schedule
from clrfast.optim import StepControl
from clrfast.schedules import Linear
from tests.helpers.optimizers import BACKENDS
from tests.helpers.writers import Log

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


def trained(schedule, steps, n_groups=1, **options):
    """The control of an optimizer after updates with losses 0, 1, ..., of which the second is not recorded."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))]} for _ in range(n_groups)]
    optimizer = clrfast.SGD(groups, schedule=schedule, **options)
    for step in range(steps):
        for group in groups:
            group["params"][0].grad = torch.ones(2)
        optimizer.step(loss=None if step == 1 else float(step))
    return optimizer.control


def test_a_log_has_what_each_update_used_and_leaves_out_what_was_not_measured(backend):
    schedule = Schedule(Linear(0.1, 0.4, 3), momentum=0.5, total_steps=4)
    control, log = trained(schedule, 3, clip_norm=1.0, backend=backend), Log()
    assert control.log_to(log) == 3
    rows = [row for row, _ in log.rows]
    assert [step for _, step in log.rows] == [0, 1, 2]
    assert [row.get("clrfast/loss") for row in rows] == [0.0, None, 2.0]
    assert [row["clrfast/lr"] for row in rows] == pytest.approx([0.1, 0.2, 0.3])
    assert [row["clrfast/grad_norm"] for row in rows] == pytest.approx([math.sqrt(2)] * 3)
    assert {(row["clrfast/momentum"], row["clrfast/weight_decay"]) for row in rows} == {(0.5, 0.0)}
    assert "clrfast/grad_norm" not in rows_of(trained(schedule, 1, backend=backend))[0]


def rows_of(control, **given):
    log = Log()
    control.log_to(log, **given)
    return [row for row, _ in log.rows]


def test_a_log_continues_where_the_call_before_it_ended(backend):
    control, log = trained(Schedule(0.1, total_steps=4), 3, backend=backend), Log()
    assert control.log_to(log, start=control.log_to(log, start=1)) == 3
    assert [step for _, step in log.rows] == [1, 2]
    assert rows_of(control, start=9) == []


@pytest.mark.filterwarnings("ignore:the schedule has ended")
def test_a_log_ends_with_the_schedule(backend):
    control, log = trained(Schedule(0.1, total_steps=2), 3, backend=backend), Log()
    assert control.log_to(log) == 2
    assert [step for _, step in log.rows] == [0, 1]


def test_a_quantity_that_differs_between_groups_anywhere_in_the_run_has_a_name_for_each_from_the_start(backend):
    rates = (Linear(0.1, 0.1, 3), Linear(0.1, 0.4, 3))  # equal at step 0
    rows = rows_of(trained(Schedule(rates, momentum=0.5, total_steps=4), 2, n_groups=2, backend=backend))
    assert set(rows[0]) == {"clrfast/loss", "clrfast/lr_0", "clrfast/lr_1", "clrfast/momentum", "clrfast/weight_decay"}
    assert (rows[1]["clrfast/lr_0"], rows[1]["clrfast/lr_1"]) == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize("start", [-1, 0.5, None, True])
def test_a_log_refuses_a_start_that_is_no_number_of_updates(backend, start):
    with pytest.raises(ValueError, match=f"start: got {start}; give a number of updates, at least 0"):
        make(backend).log_to(Log(), start=start)
