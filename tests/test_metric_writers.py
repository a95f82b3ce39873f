import math
import re

import numpy as np
import pytest

from clrfast._metric_writers import write_series
from tests.helpers.writers import Log

SERIES = {"loss": np.array([2.0, math.nan, 1.0], dtype=np.float32), "lr": [0.1, math.inf, 0.3]}
ROWS = [({"run/loss": 2.0, "run/lr": 0.1}, 5), ({"run/loss": 1.0, "run/lr": 0.3}, 7)]
"""What is written of them from step 5 on: the row without a finite value is left out."""


class LogMetrics:
    """A logger like MLflow's and Lightning's; the latter has a ``log`` for something else as well."""

    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((metrics, step))

    def log(self):
        raise AssertionError


class Steps(Log):
    """A logger like W&B's, which takes no step below its own."""

    def __init__(self):
        super().__init__()
        self.defined = []

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))


class Scalars:
    """A logger like TensorBoard's."""

    def __init__(self):
        self.scalars = []

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))


@pytest.mark.parametrize("kind", [Log, LogMetrics])
def test_a_row_is_written_in_one_call_under_its_step(kind):
    writer = kind()
    write_series(writer, "run", SERIES, start=5)
    assert writer.rows == ROWS
    assert {type(value) for row, _ in writer.rows for value in row.values()} == {float}


def test_a_writer_of_scalars_gets_one_call_for_each_value():
    writer = Scalars()
    write_series(writer, "run", SERIES, start=5)
    assert writer.scalars == [(name, value, step) for row, step in ROWS for name, value in row.items()]


def test_a_writer_with_a_step_of_its_own_gets_the_step_as_a_series():
    writer = Steps()
    write_series(writer, "run", SERIES, start=5)
    assert writer.defined == [("run/step", None), ("run/*", "run/step")]
    assert writer.rows == [({"run/step": step, **row}, None) for row, step in ROWS]


def test_values_that_are_not_finite_are_left_out_one_by_one():
    writer = Log()
    write_series(writer, "run", {"loss": [math.nan, 1.0], "lr": [0.1, -math.inf]})
    assert writer.rows == [({"run/lr": 0.1}, 0), ({"run/loss": 1.0}, 1)]


def test_without_rows_nothing_is_written():
    writer = Log()
    write_series(writer, "run", {"loss": [], "lr": []})
    assert writer.rows == []


@pytest.mark.parametrize("writer", [None, print, "runs/"])
def test_a_writer_that_cannot_log_is_an_error_that_names_what_can(writer):
    summary = f"writer: got {type(writer).__name__}; give an object with add_scalar(name, value, step), "
    with pytest.raises(TypeError, match=re.escape(summary)):
        write_series(writer, "run", SERIES)
