"""The contenders on a linear model: all stay within the budget, and answer with settings from the ranges."""

import math

import pytest

from benchmarks.peer_packages import why_missing
from benchmarks.recipe_quality.contenders import CONTENDERS, full_grid
from benchmarks.recipe_quality.peers import asha, centres, coarse_grid, grid_shape, random_trials
from benchmarks.tables.race import TITLES
from tests.helpers.searched_tasks import REFERENCE, STEPS, searched


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in ("clrfast", "full-grid")])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_search_keeps_its_budget_and_its_ranges(name, optimizer):
    for package in CONTENDERS[name].packages:
        pytest.importorskip(package)
    search = searched(optimizer=optimizer)
    answer = CONTENDERS[name].search(search)
    assert answer.optimizer == optimizer
    assert answer.steps == search.used_steps <= search.max_steps
    assert search.trainings >= 8
    assert search.lr_range[0] <= answer.lr <= search.lr_range[1]
    assert search.weight_decay_range[0] <= answer.weight_decay <= search.weight_decay_range[1]
    assert answer == CONTENDERS[name].search(searched(optimizer=optimizer))


def test_the_answer_is_the_best_training(monkeypatch):
    search = searched()
    monkeypatch.setattr(search, "train", lambda lr, weight_decay: abs(math.log(lr)) + abs(math.log10(weight_decay) + 4))
    answer = coarse_grid(search)
    rates, decays = centres(*search.lr_range, 4), centres(*search.weight_decay_range, 2)
    assert (answer.lr, answer.weight_decay) == (min(rates, key=lambda lr: abs(math.log(lr))), decays[0])


def test_bad_trials_end_early_so_that_there_are_more_of_them():
    pytest.importorskip("optuna")
    search = searched(8 * STEPS)
    answer = asha(search)
    assert answer.trainings > 8
    assert answer.steps < answer.trainings * STEPS


@pytest.mark.parametrize("n", range(1, 40))
def test_the_coarse_grid_fits_into_the_budget(n):
    n_rates, n_decays = grid_shape(n)
    assert n - n_decays < n_rates * n_decays <= n
    assert n_decays <= n_rates


def test_a_third_of_the_trials_is_random_and_at_least_three():
    assert random_trials(searched(8 * STEPS)) == 3
    assert random_trials(searched(30 * STEPS)) == 10


def test_the_full_grid_answers_with_the_best_cell_of_a_seed():
    answer = full_grid(searched())
    assert (answer.lr, answer.weight_decay) == (1.0, 0.01)
    assert (answer.steps, answer.trainings) == (REFERENCE.grid_steps, 4)


def test_every_contender_has_a_title():
    assert set(CONTENDERS) == set(TITLES)


def test_a_missing_package_is_named():
    assert why_missing(("optuna_of_nobody",)) == "not installed: optuna_of_nobody"
