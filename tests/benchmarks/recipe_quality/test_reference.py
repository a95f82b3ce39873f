"""The best cell, the defaults and what counts as reached, on an oracle that is written by hand."""

import math

import numpy as np

from benchmarks.oracle import Oracle, Retraining
from benchmarks.recipe_quality.reference import SGD_GRID as GRID
from benchmarks.recipe_quality.reference import Reference, score
from benchmarks.recipe_quality.rows import reached
from benchmarks.recipe_quality.stability_edge import other_seed_failed

RETRAINING = Retraining(
    untrained=[10.0, 10.0, 10.0],
    best_cells=[[0.3, 0.01], [0.1, 0.01], [0.3, 0.0]],
    best_losses=[[1.0, math.inf, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]],
    default_losses=[[5.0] * 3, [6.0] * 3, [7.0] * 3, [20.0] * 3],
)
REFERENCE = Reference(
    Oracle(100, [0.1, 0.3], [0.0, 0.01], [[[3.0, 2.0], [2.5, 1.0]], [[3.0, 1.5], [2.5, 9.0]]], [10.0, 10.0], RETRAINING)
)


def test_the_grid_costs_one_training_per_cell():
    assert REFERENCE.grid_steps == 4 * 100


def test_the_best_cell_is_the_best_with_fresh_seeds():
    best, cell = REFERENCE.best()
    assert (best, cell) == (2.0, (0.1, 0.01))  # the first cell diverges with a fresh seed


def test_a_default_cell_may_be_the_best():
    losses = [[0.5] * 3, *RETRAINING.default_losses[1:]]
    retraining = Retraining(RETRAINING.untrained, RETRAINING.best_cells, RETRAINING.best_losses, losses)
    oracle = Oracle(100, [0.1], [0.0], [[[1.0]]], [10.0], retraining)
    assert Reference(oracle).best() == (0.5, GRID.default_cells[0])


def test_each_seed_alone_would_choose_its_lowest_loss():
    assert REFERENCE.best_cell_by_seed() == [[0.3, 0.01], [0.1, 0.01]]


def test_a_loss_above_the_start_counts_as_the_start():
    assert REFERENCE.default_scores() == [5.0, 6.0, 7.0, 10.0]
    assert score([math.inf, 1.0], [4.0, 4.0]) == 2.5


def test_the_best_is_1_the_default_0_and_nothing_without_a_gain():
    assert reached(4.0, 2.0, 2.0) == 1.0
    assert reached(4.0, 2.0, 4.0) == 0.0
    assert reached(4.0, 2.0, 5.0) == -0.5
    assert reached(2.0, 2.0, 1.0) is None


def test_pairs_are_grouped_by_their_distance_to_a_failure_of_the_same_seed():
    losses = np.array([[[1.0], [5.0], [math.inf]], [[1.0], [9.9], [2.0]]])
    untrained = np.array([10.0, 10.0])
    # Of the first seed the rates 0 and 1 lie 2 and 1 below its failure, of the second one the rate 0 lies 1 below.
    assert list(other_seed_failed(losses, untrained, 1)) == [True, False]
    assert list(other_seed_failed(losses, untrained, 2)) == [False]


def test_the_defaults_have_decays_of_the_grid():
    assert {decay for _, decay in GRID.default_cells} <= set(GRID.weight_decays)
