"""Rows of the comparison of finders, on suggestions that are written by hand."""

import json

import pytest

from benchmarks.finder_quality.contenders import Measurement
from benchmarks.finder_quality.regret import RegretCurve
from benchmarks.finder_quality.rows import summary_row, summary_table, task_line, task_row
from benchmarks.finder_quality.suggestion import Suggestion
from benchmarks.oracle import Oracle

CURVE = RegretCurve(Oracle(100, [0.1, 1.0, 10.0], [0.0], [[[1.0], [2.0], [20.0]]], [11.0]))


def measured(*rates):
    return [
        Measurement("ours", "iris_mlp", seed, Suggestion(lr, 90, 1.0, "" if lr else "too noisy"), 2.0)
        for seed, lr in enumerate(rates)
    ]


def test_a_task_row_is_over_the_seeds_that_got_a_suggestion():
    row = task_row("ours", CURVE, measured(0.1, 1.0, None, 5.0))
    assert (row["split"], row["n"], row["n_no_suggestion"], row["n_divergent"]) == ("development", 4, 1, 1)
    assert (row["lowest"], row["suggested"], row["highest"]) == (0.1, 1.0, 5.0)
    assert row["reasons"] == ["too noisy"]
    assert row["worst_regret"] == pytest.approx(CURVE.regret(5.0), rel=1e-3)
    assert json.loads(json.dumps(row)) == row


def test_without_any_suggestion_the_figures_are_none():
    row = task_row("ours", CURVE, measured(None, None))
    assert row["regret"] is None
    assert "no suggestion" in task_line(row)
    summary = summary_row("ours", "all", [row])
    assert (summary["mean_regret"], summary["no_suggestion"], summary["spread"]) == (None, 1.0, None)
    assert "no suggestion at all" in summary_table([summary])


def test_a_summary_is_over_the_tasks_with_a_suggestion():
    rows = [task_row("ours", CURVE, measured(*rates)) for rates in ((0.1, 0.1), (1.0, 2.0), (None, None))]
    summary = summary_row("ours", "all", rows)
    assert summary["n_tasks"] == 3
    assert summary["near_optimal"] == 1
    assert summary["no_suggestion"] == pytest.approx(1 / 3, rel=1e-3)
    assert summary["spread"] == 2.0
    assert summary["wall_over_bare"] == 0.5
    assert summary["mean_regret"] == pytest.approx((rows[0]["regret"] + rows[1]["regret"]) / 2, rel=1e-3)
