"""What a search may do with a task: which samples it sees, what a training costs, which ranges it has."""

import math

import pytest
import torch

import clrfast
from benchmarks.recipe_quality.contenders import clrfast_recipe
from benchmarks.recipe_quality.reference import (
    ADAMW_GRID,
    FRESH_SEEDS,
    OPTIMIZERS,
    SGD_GRID,
    held_out_halves,
)
from benchmarks.recipe_quality.searched_task import Answer
from benchmarks.task_library.definition import TaskDefinition
from tests.helpers.searched_tasks import LINEAR, STEPS, make, searched


def test_the_validation_and_the_test_samples_are_every_other_one():
    task = make(0)
    for part, (validation, test) in zip(task.val, zip(*held_out_halves(task), strict=True), strict=True):
        assert torch.equal(torch.stack([validation, test], 1).flatten(0, 1), part)


def test_a_training_is_judged_by_the_validation_samples_and_charged():
    search = searched()
    loss = search.train(0.1, 0.0)
    task = make(100)
    optimizer = clrfast.SGD(task.model.parameters(), schedule=clrfast.one_cycle(0.1, STEPS, weight_decay=0.0))
    task.fit(lambda _: optimizer.step(), STEPS)
    assert loss == task.evaluate(*held_out_halves(task)[0])
    assert (search.used_steps, search.trainings) == (STEPS, 1)
    assert loss == search.train(0.1, 0.0)  # every training has the same start
    assert search.answer(0.1, 0.0) == Answer("sgd", 0.1, 0.0, 2 * STEPS, 2)


def test_a_training_that_diverges_is_charged_until_then_and_counts_as_none():
    search = searched()
    assert search.train(1e30, 0.0) == search.untrained
    assert 0 < search.used_steps < STEPS


def test_a_report_may_end_a_training():
    search, reported = searched(), []

    def report(ninths, loss):
        reported.append((ninths, loss))
        if ninths == 3:
            raise StopIteration

    with pytest.raises(StopIteration):
        search.train(0.1, 0.0, report)
    assert [ninths for ninths, _ in reported] == [1, 3]
    assert all(math.isfinite(loss) and loss <= search.untrained for _, loss in reported)
    assert search.used_steps == STEPS // 3


def test_random_draws_differ_between_tasks_seeds_and_optimizers():
    other = TaskDefinition("other", make, low=-2.5, high=1.0, packed=False)
    searches = [searched(), searched(seed=101), searched(optimizer="adamw"), searched(definition=other)]
    assert len({search.sampler_seed for search in searches}) == 4
    assert searched().sampler_seed == searches[0].sampler_seed


def test_reports_do_not_change_a_training():
    assert searched().train(0.1, 1e-3, lambda *_: None) == searched().train(0.1, 1e-3)


def test_a_training_has_to_fit_into_what_is_left():
    search = searched(max_steps=2 * STEPS - 1)
    assert (search.n_trainings, search.can_train()) == (1, True)
    search.train(0.1, 0.0)
    assert not search.can_train()


@pytest.mark.parametrize(("optimizer", "grid"), [("sgd", SGD_GRID), ("adamw", ADAMW_GRID)])
def test_the_ranges_are_those_of_the_grid(optimizer, grid):
    search = searched(optimizer=optimizer)
    rates = grid.rates(LINEAR)
    assert search.lr_range == (rates[0], rates[-1])
    assert search.weight_decay_range == (grid.weight_decays[1], grid.weight_decays[-1])


def test_the_weight_decays_of_adamw_are_100_times_those_of_sgd():
    assert ADAMW_GRID.weight_decays == pytest.approx([100 * decay for decay in SGD_GRID.weight_decays])
    assert len(ADAMW_GRID.rates(LINEAR)) == len(SGD_GRID.rates(LINEAR))


def test_search_seeds_are_not_those_of_the_grid_or_of_the_trainings_that_count():
    assert ADAMW_GRID.retraining_seeds == FRESH_SEEDS
    assert not set(FRESH_SEEDS) & set(SGD_GRID.seeds)


def test_every_task_has_one_split_for_each_optimizer():
    for tuned in OPTIMIZERS.values():
        names = [name for split in tuned.splits.values() for name in split]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_answer_trains_as_the_recipe_does(optimizer):
    search = searched(480, optimizer)
    answer = clrfast_recipe(search)
    assert answer.optimizer == optimizer
    assert 0 < answer.steps <= 480

    task = make(100)
    user_task = clrfast.Task(task.model, task.loss_fn, task.loader(), [held_out_halves(task)[0]])
    recipe = clrfast.find_recipe(user_task, 480, planned_steps=STEPS, optimizers=optimizer)
    assert (recipe.max_lr, recipe.weight_decay, recipe.momentum) == (answer.lr, answer.weight_decay, answer.momentum)
    first, second = make(1), make(1)
    direct = recipe.optimizer(first.model, STEPS)
    first.fit(lambda _: direct.step(), STEPS)
    assert answer.loss(second, STEPS) == first.evaluate(*held_out_halves(first)[1])
