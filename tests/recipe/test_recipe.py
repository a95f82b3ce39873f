"""The recipe and its file."""

import json
import math

import numpy as np
import pytest

import clrfast
from clrfast import Recipe, find_recipe
from clrfast.recipe import PairTrials
from clrfast.recipe._recipe import conclude
from clrfast.recipe._step_allocation import MIN_BUDGET
from clrfast.recipe._study import Study
from clrfast.recipe._weight_decay import DEFAULT_WEIGHT_DECAY
from tests.helpers.problems import clouds

pytestmark = pytest.mark.usefixtures("one_thread")


def test_pairs_without_a_suggestion_raise_a_warning():
    study = find_recipe(clouds(), MIN_BUDGET).study
    risen = clrfast.History(np.ones(20), [1.0, 1.1], [0, 20])
    pairs = PairTrials(np.array([0.1]), np.array([1e-3]), 20, (risen,))
    recipe = conclude(
        Study(800, 20, 132, "model", None, range_test=study.range_test, pair_trials=pairs, pair_trials_complete=True)
    )
    assert recipe.weight_decay == DEFAULT_WEIGHT_DECAY
    assert recipe.max_lr == study.range_test.suggest().max_lr
    assert recipe.diagnoses == ()
    assert recipe.complete
    assert any("in no run of 20 steps" in warning for warning in recipe.warnings)


def test_a_recipe_makes_a_schedule_and_an_optimizer():
    task = clouds()
    recipe = find_recipe(task, MIN_BUDGET)
    schedule = recipe.schedule(50)
    assert schedule.total_steps == 50
    assert schedule.table()[:, 0, 0].max() == pytest.approx(recipe.max_lr, rel=0.05)
    optimizer = recipe.optimizer(task.model, 50)
    losses = []
    for _, (x, y) in zip(range(50), list(task.train_loader) * 3, strict=False):
        optimizer.zero_grad()
        loss = task.loss_fn(task.model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < np.mean(losses[:5])
    (group,) = recipe.optimizer(task.model).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (
        recipe.max_lr,
        recipe.momentum[0],
        recipe.weight_decay,
    )


def test_a_recipe_survives_its_file(tmp_path):
    recipe = find_recipe(clouds(), 2600, planned_steps=2000, saved=tmp_path / "a.json")
    assert recipe.study.momentum_trials is not None
    recipe.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    loaded = Recipe.load(tmp_path / "b.json")
    loaded.save(tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text() == (tmp_path / "b.json").read_text()
    assert str(loaded) == str(recipe)
    assert (loaded.evidence, loaded.warnings, loaded.diagnoses) == (recipe.evidence, recipe.warnings, recipe.diagnoses)
    assert json.loads((tmp_path / "b.json").read_text())["chosen"]["max_lr"] == recipe.max_lr
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json", "c.json"}


def test_a_study_saves_trials_that_diverged(tmp_path):
    recipe = find_recipe(clouds(), MIN_BUDGET)
    runs = recipe.study.weight_decay_trials.histories
    broken = clrfast.History([1.0, math.inf], [1.0, math.nan], [0, 2])
    found = clrfast.WeightDecayTrials(np.array([0.0, 1.0]), (runs[0], (broken, broken)), 1.0)
    Study(500, 1000, 3, "model", None, range_test=recipe.study.range_test, weight_decay_trials=found).write(
        tmp_path / "x.json"
    )
    read = Study.read(tmp_path / "x.json").weight_decay_trials
    np.testing.assert_array_equal(read.histories[1][0].val_loss, [1.0, math.nan])
    np.testing.assert_array_equal(read.histories[1][0].train_loss, [1.0, math.inf])
    np.testing.assert_array_equal(read.loss, found.loss)
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(name))
