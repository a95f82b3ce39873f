"""The recipe: what it concludes, makes and saves."""

import json
from dataclasses import replace

import numpy as np
import pytest

from clrfast import Recipe, find_recipe
from clrfast.recipe import Study
from clrfast.recipe._plan import MIN_BUDGET
from clrfast.recipe._recipe import conclude
from clrfast.recipe._setting_trials import DEFAULT_MOMENTUM_CYCLE, DEFAULT_WEIGHT_DECAY
from tests.helpers.problems import clouds
from tests.helpers.studies import Search, decay_loss, make_settings, make_study

pytestmark = pytest.mark.usefixtures("one_thread")


def test_pairs_without_a_suggestion_raise_a_warning():
    study = Search(make_settings(800, planned_steps=100), lambda spec: 10.0).study
    recipe = conclude(study)
    assert recipe.weight_decay == DEFAULT_WEIGHT_DECAY
    assert recipe.max_lr == study.range_test.suggest().max_lr
    assert recipe.diagnoses == ()
    assert recipe.complete
    assert any("in no run of 86 steps" in warning for warning in recipe.warnings)


def test_a_recipe_of_an_unfinished_search_has_usual_values_and_says_so():
    whole = Search(make_settings(2600, planned_steps=2000), decay_loss(1e-3)).study
    first = conclude(replace(whole, trials=whole.trials[:1]))
    assert not first.complete
    assert (first.weight_decay, first.momentum) == (DEFAULT_WEIGHT_DECAY, DEFAULT_MOMENTUM_CYCLE)
    assert "not tested; 0.0001 is usual" in first.evidence["weight decay"]
    assert any("the search has not ended" in warning for warning in first.warnings)
    assert str(first).splitlines()[4] == "the search has not ended; so far 1 trial of 112 steps together"
    later = conclude(replace(whole, trials=whole.trials[:13]))
    assert later.weight_decay == conclude(whole).weight_decay == 1e-3
    assert conclude(whole).complete


def test_several_optimizers_without_a_trial_give_the_first():
    study = make_study(make_settings(1000, optimizers=("adamw", "sgd")), (), None)
    with pytest.raises(ValueError, match="the first range test is not among them"):
        conclude(study)
    whole = Search(make_settings(1000, optimizers=("adamw", "sgd")), decay_loss(1e-4)).study
    ranged = Study(whole.settings, tuple(trial for trial in whole.trials if trial.spec.stage == "range test"))
    recipe = conclude(ranged)
    assert recipe.optimizer_name == "adamw"
    assert recipe.evidence["optimizer"] == "the first that was given; no trial compares them"
    assert recipe.settings["optimizer"] == "adamw"


@pytest.mark.parametrize("planned_steps", [100, 10_000], ids=["pairs", "short trials"])
@pytest.mark.parametrize("best", ["sgd", "adamw"])
def test_the_optimizer_with_the_lowest_loss_is_chosen(best, planned_steps):
    def loss(spec):
        return decay_loss(1e-3 if spec.optimizer == "sgd" else 0.1)(spec) + (spec.optimizer != best)

    settings = make_settings(1600, planned_steps=planned_steps, optimizers=("sgd", "adamw"))
    recipe = conclude(Search(settings, loss).study)
    assert recipe.optimizer_name == best
    assert recipe.max_lr == pytest.approx({"sgd": 0.114, "adamw": 0.0114}[best], rel=0.01)
    assert "with sgd, " in recipe.evidence["optimizer"]
    assert str(recipe).startswith(f"optimizer      {best}\n")


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
    recipe = find_recipe(clouds(), 2600, planned_steps=2000)
    assert recipe.study.momentum_trials is not None
    recipe.save(tmp_path / "a.json")
    loaded = Recipe.load(tmp_path / "a.json")
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert str(loaded) == str(recipe)
    assert (loaded.evidence, loaded.warnings, loaded.diagnoses) == (recipe.evidence, recipe.warnings, recipe.diagnoses)
    assert loaded.complete
    assert json.loads((tmp_path / "b.json").read_text())["chosen"]["max_lr"] == recipe.max_lr
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json"}
