"""Rows of the comparison of finders, on suggestions that are written by hand."""

import json
import math

import numpy as np
import pytest

from benchmarks.finder_quality.contenders import Measurement
from benchmarks.finder_quality.regret import RegretCurve
from benchmarks.finder_quality.rows import (
    best_constant,
    constant_rows,
    summary_row,
    summary_table,
    task_line,
    task_row,
)
from benchmarks.finder_quality.suggestion import Suggestion
from benchmarks.oracle import Oracle

CURVE = RegretCurve(Oracle(100, [0.1, 1.0, 10.0], [0.0], [[[1.0], [2.0], [20.0]]], [11.0]))


def measured(*rates, low_confidence=()):
    return [
        Measurement(
            *("ours", "iris_mlp", seed),
            Suggestion(lr, 90, 1.0, "" if lr else "too noisy", 7, seed in low_confidence),
            bare_seconds=2.0,
        )
        for seed, lr in enumerate(rates)
    ]


def row_of(*rates, low_confidence=()):
    return task_row("sgd", "ours", CURVE, measured(*rates, low_confidence=low_confidence))


def test_the_rates_of_a_task_row_are_over_the_seeds_that_got_a_suggestion():
    row = row_of(0.1, 1.0, None, 5.0, low_confidence=(1,))
    assert (row["optimizer"], row["split"], row["n"]) == ("sgd", "development", 4)
    assert (row["n_no_suggestion"], row["n_divergent"], row["n_low_confidence"]) == (1, 1, 1)
    assert (row["lowest"], row["suggested"], row["highest"]) == (0.1, 1.0, 5.0)
    assert row["log10_std"] == pytest.approx(np.std([-1, 0, math.log10(5)], ddof=1), rel=1e-3)
    assert row["reasons"] == ["too noisy"]
    assert (row["steps"], row["extra_passes"]) == (90, 7)
    assert json.loads(json.dumps(row)) == row


def test_a_refusal_counts_as_a_regret_of_1():
    row = row_of(0.1, None, None, None)
    assert (row["regret"], row["worst_regret"]) == (0.75, 1.0)
    row = row_of(None, None)
    assert (row["regret"], row["suggested"], row["log10_std"]) == (1.0, None, None)
    assert "no suggestion" in task_line(row)
    summary = summary_row("development", [row])
    assert (summary["mean_regret"], summary["n_no_suggestion"], summary["spread"]) == (1.0, 2, None)
    assert "ours" in summary_table([summary])


def test_a_summary_is_over_all_tasks():
    rows = [row_of(0.1, 0.1), row_of(1.0, 10.0, low_confidence=(0,)), row_of(None, None)]
    summary = summary_row("development", rows)
    assert (summary["n_tasks"], summary["n"], summary["near_optimal"]) == (3, 6, 1)
    assert (summary["n_no_suggestion"], summary["n_divergent"], summary["n_low_confidence"]) == (2, 1, 1)
    assert summary["spread"] == pytest.approx((0 + math.sqrt(0.5)) / 2, rel=1e-3)
    assert summary["mean_regret"] == pytest.approx(sum(row["regret"] for row in rows) / 3, rel=1e-3)
    assert summary["mean_low"] <= summary["mean_regret"] <= summary["mean_high"]
    assert (summary["extra_passes"], summary["wall_over_bare"]) == (7, 0.5)


def test_the_best_constant_has_the_lowest_mean_regret():
    sharp = RegretCurve(Oracle(1, [0.1, 1.0, 10.0], [0.0], [[[10.0], [0.0], [10.0]]], [10.0]))
    flat = RegretCurve(Oracle(1, [0.1, 1.0, 10.0], [0.0], [[[9.0], [9.5], [10.0]]], [10.0]))
    assert best_constant([flat]) == 0.1
    assert best_constant([sharp, flat]) == 1.0


def test_a_constant_suggests_its_rate_for_every_task():
    first, second = constant_rows("adamw", "always 1", 1.0, {"iris_mlp": CURVE, "wine_mlp": CURVE})
    assert (first["task"], second["task"]) == ("iris_mlp", "wine_mlp")
    assert first["regret"] == pytest.approx(0.1)
    assert (first["optimizer"], first["suggested"], first["steps"], first["n"]) == ("adamw", 1.0, 0, 1)
