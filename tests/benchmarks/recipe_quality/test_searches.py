"""Searches that are kept, and the rows made of them."""

import math
from dataclasses import replace

import pytest

from benchmarks.oracle import Oracle, Retraining
from benchmarks.recipe_quality import searches
from benchmarks.recipe_quality.contenders import CONTENDERS, Contender
from benchmarks.recipe_quality.reference import SGD_GRID, Reference
from benchmarks.recipe_quality.rows import merged, task_rows
from benchmarks.recipe_quality.searched_task import Answer
from benchmarks.recipe_quality.searches import Place, Search, find_search

RETRAINING = Retraining([10.0] * 3, [[0.1, 0.01]], [[2.0] * 3], [[5.0] * 3, [6.0] * 3, [7.0] * 3, [6.0] * 3])
REFERENCE = Reference(Oracle(5, [0.1, 0.3], [0.0, 0.01], [[[3.0, 2.0], [2.5, 1.0]]], [10.0], RETRAINING))
PLACE = Place("counted", "sgd", "diabetes_mlp", 100, 0.5)
REFERENCES = {("sgd", "diabetes_mlp"): REFERENCE}


@pytest.fixture
def calls(monkeypatch):
    """Budgets of the searches of a contender "counted", which answers at once."""
    pytest.importorskip("sklearn", reason="needs scikit-learn's data")
    budgets = []

    def search(searched):
        budgets.append(searched.max_steps)
        return Answer("sgd", 0.1, 1e-3, 7, None, (0.95, 0.85))

    monkeypatch.setitem(CONTENDERS, "counted", Contender(search))
    return budgets


def test_a_finished_search_is_not_repeated(calls, tmp_path):
    first = find_search(PLACE, REFERENCE, tmp_path)
    assert find_search(PLACE, REFERENCE, tmp_path).answer == first.answer
    assert calls == [10]  # half of four trainings of five updates
    assert len(first.losses) == len(SGD_GRID.retraining_seeds)
    for other in (replace(PLACE, seed=101), replace(PLACE, budget=1.0)):
        find_search(other, REFERENCE, tmp_path)
    assert calls == [10, 10, 20]


def test_a_search_of_a_changed_task_is_repeated(calls, tmp_path, monkeypatch):
    find_search(PLACE, REFERENCE, tmp_path)
    monkeypatch.setattr(searches.OPTIMIZERS["sgd"].grid.__class__, "key", lambda *_: "another")
    find_search(PLACE, REFERENCE, tmp_path)
    assert len(calls) == 2


def test_without_a_folder_nothing_is_kept(calls):
    for _ in range(2):
        find_search(PLACE, REFERENCE, None)
    assert len(calls) == 2


def found(*scores, steps=4):
    """Searches on one task, one per score."""
    return {
        replace(PLACE, seed=seed): Search(Answer("sgd", 0.1, 0.01, steps), [score] * 3, "abc")
        for seed, score in enumerate(scores)
    }


def test_a_row_holds_the_fraction_of_the_gain_and_the_cost():
    (row,) = task_rows(found(2.0, 4.0), REFERENCES)
    assert (row["default"], row["best"]) == (6.0, 2.0)
    assert row["reached"] == 0.75
    assert row["reached_by_search"] == [1.0, 0.5]
    assert row["cost"] == 0.2
    assert (row["n"], row["split"], row["contender"]) == (2, "development", "counted")


def test_an_answer_that_diverges_counts_as_untrained():
    (row,) = task_rows(found(math.inf), REFERENCES)
    assert row["score"] == 10.0
    assert row["reached"] == -1.0


def test_new_rows_replace_old_ones_about_the_same():
    (old,) = task_rows(found(2.0), REFERENCES)
    (new,) = task_rows(found(4.0), REFERENCES)
    other = {**old, "contender": "other"}
    assert merged([new], [old, other]) == [new, other]
