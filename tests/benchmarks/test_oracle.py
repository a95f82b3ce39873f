"""The oracle: which trainings it makes, how it judges them, and when its cache is used."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import oracle
from benchmarks.finder_quality.optimizers import OPTIMIZERS
from benchmarks.oracle import Grid, Oracle, Retraining
from benchmarks.peer_packages import why_missing
from benchmarks.recipe_quality.reference import OPTIMIZERS as RECIPE_OPTIMIZERS
from benchmarks.task_library.definition import TaskDefinition, build_task


def make(seed):
    """A linear model."""
    inputs = torch.arange(8.0).reshape(8, 1)
    return build_task(seed, lambda: nn.Linear(1, 1), nn.MSELoss(), (inputs,) * 4, batch_size=2, steps=7)


LINEAR = TaskDefinition("linear", make, low=-2.0, high=0.0, packed=False)


def loss(task, lr, weight_decay, steps):
    """Diverges above 0.1, else a loss that says what it was trained with."""
    return math.inf if lr > 0.2 else task.seed + lr + weight_decay + 100 * steps


GRID = Grid("test", loss, lambda task: 1000.0 + task.seed, 2, (0.0, 0.01), range(2), max_failed_rates=1)


def test_every_cell_is_trained_until_too_many_rates_diverged():
    untrained, losses, _ = oracle._train_grid(LINEAR, GRID, 1, None)
    assert untrained == 1001.0
    assert np.shape(losses) == (5, 2)
    assert losses[0] == pytest.approx([701.01, 701.02])
    assert np.isinf(losses[3:]).all()
    counted = []
    counting = replace(GRID, train=lambda *cell: counted.append(cell[1:3]) or math.inf)
    oracle._train_grid(LINEAR, counting, 0, None)
    assert len(counted) == len(GRID.weight_decays)  # of the first rate only


def test_a_grid_may_have_a_range_of_its_own():
    own = replace(GRID, rate_range=(-3.0, 1.0))
    assert own.rates(LINEAR) == pytest.approx([10 ** (x / 2) for x in range(-6, 3)])
    other = replace(LINEAR, low=-7.0)
    assert own.key(LINEAR) == own.key(other) != replace(own, rate_range=(-3.0, 2.0)).key(LINEAR)
    assert GRID.key(LINEAR) != GRID.key(other)
    assert own.key(replace(LINEAR, low=-3.0, high=1.0)) == own.key(LINEAR)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([11, 11, 9, 5, 11, math.inf, 1], [11, 11, 9, 5, 11, math.inf, math.inf]),  # two failures above a useful rate
        ([9.5, 9, 9, 11, 9, 11, 9], [9.5, 9, 9, 11, 9, 11, 9]),  # no two in a row
        ([11] * 7, [10, 11, 11, 11, 11, 11, 11]),
        ([9, 9.9, 9.9, 9.9, 0, 1, 2], [10, 9.9, 9.9, 9.9, 0, 1, 2]),  # two without effect below a useful rate
    ],
)
def test_from_a_first_rate_on_the_trainings_end_where_they_fail_or_have_no_effect(losses, expected):
    def loss_at(task, lr, *_):
        return losses[round(2 * math.log10(lr)) + 6]

    grid = Grid("test", loss_at, lambda task: 10.0, 2, (0.0,), range(1), 2, (-3.0, 0.0), 10**-1.5)
    _, found, _ = oracle._train_grid(LINEAR, grid, 0, None)
    assert found == [[loss] for loss in expected]


def test_the_best_cells_and_the_defaults_are_trained_with_fresh_seeds():
    grid = replace(GRID, n_retrained=1, default_cells=((0.1, 0.0),), retraining_seeds=range(10, 12))
    losses = [oracle._train_grid(LINEAR, grid, seed, 1)[1] for seed in grid.seeds]
    cells = oracle._best_cells(LINEAR, grid, losses, [1e6, 1e6])
    assert cells == [[0.01, 0.0]]
    retraining, _ = oracle._retrain(LINEAR, grid, cells, 1)
    assert retraining.untrained == [1010.0, 1011.0]
    np.testing.assert_allclose(retraining.best_losses, [[110.01, 111.01]])
    np.testing.assert_allclose(retraining.default_losses, [[110.1, 111.1]])


def test_a_loss_above_the_untrained_one_counts_as_the_untrained_one():
    found = Oracle(1, [0.1, 1.0], [0.0], [[[1.0], [math.inf]], [[5.0], [2.0]]], [3.0, 4.0])
    np.testing.assert_array_equal(found.scores(), [[2.5], [2.5]])


SEARCHED = Oracle(
    *(7, [0.01, 0.1], [0.0], [[[1.0], [math.inf]]], [3.0]), Retraining([3.0], [[0.01, 0.0]], [[1.5]], [[2.5]])
)


@pytest.fixture
def computed(monkeypatch):
    """Names of the tasks whose oracle was computed; each is SEARCHED."""
    names = []

    def compute(definitions, grid, processes, steps):
        for definition in definitions:
            names.append(definition.name)
            yield definition, SEARCHED

    monkeypatch.setattr(oracle, "_compute", compute)
    return names


def test_a_kept_oracle_is_read_while_task_and_grid_stay_the_same(tmp_path, computed):
    cache = tmp_path / "oracle.json"
    for _ in range(2):
        assert oracle.find_oracles([LINEAR], GRID, cache) == {"linear": SEARCHED}
    assert computed == ["linear"]
    assert oracle.cached_oracles("test", cache) == {"linear": SEARCHED}
    oracle.find_oracles([LINEAR], replace(GRID, rates_per_decade=3), cache)
    oracle.find_oracles([replace(LINEAR, high=1.0)], GRID, cache)
    assert len(computed) == 3


def test_without_a_cache_nothing_is_kept(computed):
    for _ in range(2):
        oracle.find_oracles([LINEAR], GRID, None)
    assert len(computed) == 2


def test_grids_of_other_names_keep_their_own_entries(tmp_path, computed):
    cache = tmp_path / "oracle.json"
    oracle.find_oracles([LINEAR], GRID, cache)
    oracle.find_oracles([LINEAR], replace(GRID, name="other"), cache)
    assert len(computed) == 2
    assert oracle.cached_oracles("other", cache) == oracle.cached_oracles("test", cache)


MEASURED_WITH = re.search(
    r"^torch==([\d.]+)", (Path(__file__).parents[2] / "constraints.txt").read_text(), re.MULTILINE
)[1]
"""The version of torch with which the results are measured; initial weights differ between versions."""


@pytest.mark.skipif(not torch.__version__.startswith(MEASURED_WITH), reason=f"needs torch {MEASURED_WITH}")
@pytest.mark.parametrize(
    ("grid", "splits"),
    [(each.grid, each.splits) for each in (*OPTIMIZERS.values(), *RECIPE_OPTIMIZERS.values())],
    ids=lambda x: "",
)
def test_the_oracles_in_the_results_are_those_of_todays_tasks(grid, splits):
    pytest.importorskip("sklearn", reason="needs scikit-learn's data")
    entries = oracle.read_cache(oracle.CACHE)
    for split in splits.values():
        for definition in split.values():
            entry = entries[grid.entry_name(definition)]
            if not (definition.packed or why_missing(definition.packages)):
                assert entry["key"] == grid.key(definition), definition.name
