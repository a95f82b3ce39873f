"""Scores and rows of the comparison, on outcomes that are written by hand."""

import json
import math

import pytest

from benchmarks.finder_quality.regret import RegretCurve
from benchmarks.oracle import Oracle
from benchmarks.tables.untuned import untuned_table
from benchmarks.untuned_training.contenders import OURS
from benchmarks.untuned_training.rows import merged, score, summary_rows, task_line, task_row
from benchmarks.untuned_training.training import Outcome

BEST, UNTRAINED = 1.0, 11.0
CURVE = RegretCurve(Oracle(100, [0.1, 1.0, 10.0], [0.0], [[[BEST], [2.0], [20.0]]], [UNTRAINED]))
PEER = "Prodigy, cosine"


def outcome(loss, passes=100, search_passes=0, reason=""):
    return Outcome(loss, UNTRAINED, passes, search_passes, reason)


def row(contender, task, *losses):
    return task_row(contender, "torch 2", task, 100, CURVE, [outcome(loss) for loss in losses], 1.0)


@pytest.mark.parametrize(("loss", "expected"), [(1.0, 0.0), (0.0, -0.1), (6.0, 0.5), (11.0, 1.0), (99.0, 1.0)])
def test_the_score_is_0_at_the_best_sgd_and_1_without_training(loss, expected):
    assert score(outcome(loss), BEST) == pytest.approx(expected)


def test_a_failed_training_has_the_score_1():
    assert score(outcome(math.inf), BEST) == 1.0


def test_a_best_loss_that_is_no_better_than_no_training_is_refused():
    with pytest.raises(ValueError, match="give a loss below the untrained loss"):
        score(outcome(1.0), best=UNTRAINED)


def test_a_task_row_is_over_the_seeds():
    outcomes = [
        outcome(2.0, passes=150, search_passes=50),
        outcome(math.inf, passes=110, search_passes=60, reason="no"),
    ]
    found = task_row("ours", "torch 2", "iris_mlp", 100, CURVE, outcomes, 1.0)
    assert (found["score"], found["scores"]) == (0.55, [0.1, 1.0])
    assert (found["n"], found["n_failed"], found["reasons"]) == (2, 1, ["no"])
    assert (found["cost"], found["search_passes"]) == (1.3, 55.0)
    assert json.loads(json.dumps(found)) == found
    assert "no" in task_line(found)


def test_a_summary_is_over_the_tasks():
    rows = [row("a", "one", 1.0), row("a", "two", 6.0), row("a", "three", math.inf)]
    rows += [row("b", "one", 0.0), row("b", "two", 7.0), row("b", "three", 99.0)]
    a, b = summary_rows("development", rows, reference="a")
    assert (a["contender"], a["mean_score"], a["median_score"]) == ("a", 0.5, 0.5)
    assert (a["worst_score"], a["worst_task"], a["failed_tasks"], a["n_tasks"]) == (1.0, "three", 1, 3)
    assert (a["better_than_best"], b["better_than_best"]) == (0, 1)
    assert (a["lowest"], b["lowest"]) == (1, 1)  # nobody has the lowest score where all fail
    assert (b["lower_than_reference"], b["n_compared"]) == (1, 3)


def test_without_rows_of_the_reference_nothing_is_compared():
    (found,) = summary_rows("development", [row("a", "one", 1.0)], reference="b")
    assert found["n_compared"] == found["lower_than_reference"] == 0


def test_new_rows_replace_older_ones_and_all_others_stay():
    kept = merged([], [row(OURS, "iris_mlp", 1.0), row(PEER, "iris_mlp", 6.0), row(PEER, "no such task", 6.0)])
    found = merged(kept, [row(PEER, "iris_mlp", 2.0)])
    tasks = {each["contender"]: each for each in found if each["benchmark"] == "untuned_task"}
    summaries = [each for each in found if each["benchmark"] == "untuned"]
    assert {name: each["score"] for name, each in tasks.items()} == {OURS: 0.0, PEER: 0.1}
    assert {each["split"] for each in tasks.values()} == {"development"}
    assert [(each["split"], each["contender"], each["mean_score"]) for each in summaries] == [
        ("development", OURS, 0.0),
        ("development", PEER, 0.1),
    ]


def test_the_table_compares_with_clrfast_only_where_it_was_measured():
    machine = {"environment": {"cpu": "a CPU", "cores": 2, "torch": "2", "commit": "abc"}}
    alone = untuned_table({**machine, "rows": merged([], [row(PEER, "iris_mlp", 6.0)])})
    both = untuned_table({**machine, "rows": merged([], [row(PEER, "iris_mlp", 6.0), row(OURS, "iris_mlp", 1.0)])})
    assert f"| {PEER} | 0.50 (0.50 to 0.50) |" in alone
    assert "lower than clrfast SGD" not in alone
    assert "lower than clrfast SGD" in both
