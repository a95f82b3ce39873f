"""The search for a recipe: its stages, their order and its arguments."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from clrfast import NoSuggestionError, Task, find_recipe
from clrfast.recipe import _search, _stages
from clrfast.recipe._momentum import DEFAULT_MOMENTUM_CYCLE
from clrfast.recipe._step_allocation import MIN_BUDGET, RANGE_TEST_STEPS, SMALL_GRID
from clrfast.recipe._weight_decay import DEFAULT_WEIGHT_DECAY
from tests.helpers.problems import clouds
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_small_budget_is_kept_and_the_momentum_is_the_default(stage_calls, sgd_updates):
    recipe = find_recipe(clouds(), MIN_BUDGET)
    assert stage_calls.names[:2] == ["range_test", "find_weight_decay"]
    assert "find_momentum" not in stage_calls.names
    assert 240 < len(sgd_updates) <= recipe.steps <= MIN_BUDGET
    assert recipe.complete
    assert recipe.batch_size == 20
    assert recipe.low <= recipe.max_lr <= recipe.high
    assert 1e-3 < recipe.max_lr < 10
    assert recipe.momentum == DEFAULT_MOMENTUM_CYCLE
    assert recipe.weight_decay in SMALL_GRID
    assert stage_calls[1][1]["grid"] == SMALL_GRID
    assert "1000 steps, and" in recipe.evidence["momentum"]
    assert any("runs of 40 steps" in warning and "a budget of 1536" in warning for warning in recipe.warnings)
    assert set(recipe.evidence) == {"learning rate", "batch size", "weight decay", "momentum"}
    assert "warning: " in str(recipe)


def test_all_stages_run_in_the_order_of_the_report(stage_calls, sgd_updates):
    task = clouds()
    recipe = find_recipe(task, 2600, planned_steps=2000, batch_sizes=True)
    study = recipe.study
    expected = ["range_test", "find_batch_size"]
    expected += ["range_test"] * (study.batch_sizes.fastest != 20)
    expected += ["find_weight_decay"] + ["range_test"] * (recipe.weight_decay >= 1e-3) + ["find_momentum"]
    assert stage_calls.names == expected
    assert recipe.steps <= 2600
    sized = sum(20 for _ in study.batch_sizes.costs) * 2  # not part of the budget
    assert len(sgd_updates) <= recipe.steps + sized + 10
    assert recipe.batch_size == study.batch_sizes.fastest
    assert recipe.momentum == study.momentum_trials.cycle
    assert stage_calls[-1][1]["weight_decay"] == recipe.weight_decay
    assert stage_calls[-1][1]["max_lr"] == recipe.max_lr
    assert task.train_loader.batch_size == 20  # the user's loader is unchanged


def test_the_rate_is_tested_again_after_a_large_weight_decay(stage_calls, monkeypatch):
    real = _stages.find_weight_decay
    monkeypatch.setattr(_stages, "find_weight_decay", lambda **options: real(**options | {"grid": (3e-3, 1e-2)}))
    recipe = find_recipe(clouds(), 600)
    assert recipe.weight_decay >= 3e-3
    assert stage_calls.names == ["range_test", "find_weight_decay", "range_test"]
    assert stage_calls[2][1]["optimizer"].param_groups[0]["weight_decay"] == recipe.weight_decay
    assert recipe.max_lr == recipe.study.range_test_after_weight_decay.suggest().max_lr
    assert "before the weight decay was changed" in recipe.evidence["learning rate"]


def test_a_budget_of_several_trainings_goes_into_pairs(stage_calls, sgd_updates, tmp_path):
    path = tmp_path / "recipe.json"
    recipe = find_recipe(clouds(), 8 * 100, planned_steps=100, saved=path)
    assert stage_calls.names == ["range_test", "find_pair"]
    pairs = recipe.study.pair_trials
    assert (stage_calls[1][1]["steps"], stage_calls[1][1]["max_steps"]) == (86, 800 - RANGE_TEST_STEPS)
    assert len(sgd_updates) <= recipe.steps == RANGE_TEST_STEPS + 86 * len(pairs.histories) <= 800
    assert recipe.complete
    assert (recipe.max_lr, recipe.weight_decay) == (pairs.suggest().max_lr, pairs.suggest().weight_decay)
    assert recipe.low < recipe.max_lr < recipe.high
    assert recipe.momentum == DEFAULT_MOMENTUM_CYCLE
    assert "the range test suggested" in recipe.evidence["learning rate"]
    assert "long runs with rates and weight decays" in recipe.evidence["momentum"]
    again = find_recipe(clouds(), 8 * 100, planned_steps=100, saved=path)
    assert len(stage_calls) == 2
    assert (str(again), again.evidence, again.diagnoses) == (str(recipe), recipe.evidence, recipe.diagnoses)


class OwnLoss(nn.Sequential):
    def forward(self, x, y):
        return {"loss": nn.functional.cross_entropy(super().forward(x), y)}


def test_dict_batches_own_losses_and_accumulation_work():
    """Dicts for a model that returns its loss; a compute_loss with two batches per update."""
    task = clouds()
    dicts = [[{"x": x, "y": y} for x, y in loader] for loader in (task.train_loader, task.val_loader)]
    recipe = find_recipe(Task(OwnLoss(*task.model), None, *dicts), MIN_BUDGET)
    assert recipe.complete
    assert recipe.batch_size is None
    assert "the loader's" in str(recipe)
    tuples = replace(task, loss_fn=None, compute_loss=lambda model, batch: task.loss_fn(model(batch[0]), batch[1]))
    assert find_recipe(tuples, MIN_BUDGET, accumulate=2).complete


def test_a_training_shorter_than_the_search_raises_a_warning(monkeypatch):
    monkeypatch.setattr(_search.Search, "open_study", lambda self, *args: (_ for _ in ()).throw(RuntimeError(args[0])))
    told = f"planned_steps: got 66, and the search itself needs {MIN_BUDGET} updates"
    with pytest.warns(UserWarning, match=told), pytest.raises(RuntimeError, match=f"^{MIN_BUDGET}$"):
        find_recipe(clouds(), planned_steps=66)
    with pytest.raises(RuntimeError, match=f"^{MIN_BUDGET}$"):  # no warning if the budget is given
        find_recipe(clouds(), MIN_BUDGET, planned_steps=66)


def test_a_time_as_text_is_refused_with_the_form_to_use():
    with pytest.raises(ValueError, match=r"budget: got '5min'; .* datetime.timedelta\(minutes=5\)"):
        find_recipe(clouds(), "5min")


@pytest.mark.parametrize(("planned", "wanted"), [(None, 1000), (2000, MIN_BUDGET), (30_000, 3000)])
def test_the_default_budget_is_a_tenth_of_the_training(planned, wanted, monkeypatch):
    monkeypatch.setattr(_search.Search, "open_study", lambda self, *args: (_ for _ in ()).throw(RuntimeError(args[0])))
    with pytest.raises(RuntimeError, match=f"^{wanted}$"):
        find_recipe(clouds(), planned_steps=planned)


def test_everything_is_restored_and_progress_reported():
    told = []
    task = clouds()
    shown = torch.optim.SGD(task.model.parameters(), lr=0.1)
    before, generator = full_state(task.model, shown), task.train_loader.generator.get_state()
    find_recipe(task, MIN_BUDGET, progress=lambda *args: told.append(args[:2]))
    assert full_state(task.model, shown) == before
    assert torch.equal(task.train_loader.generator.get_state(), generator)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {MIN_BUDGET}


def without_validation():
    task = clouds()
    task.val_loader = None
    return task


def overlapping():
    task = clouds()
    task.val_loader = DataLoader(Subset(task.train_loader.dataset, range(5, 15)), 10)
    return task


def ready_made():
    task = clouds()
    task.train_loader = list(task.train_loader)
    return task


@pytest.mark.parametrize(
    ("make_task", "options", "message"),
    [
        (lambda: 3, {}, "task: got .*int.*; give clrfast.Task"),
        (without_validation, {}, "val_loader: got None; .* held out, for example by torch.utils.data.random_split"),
        (overlapping, {}, "val_loader: got the same data as the training's loader too; .* overfitting does not show"),
        (ready_made, {"batch_sizes": True}, "train_loader: got list, whose batches are made already"),
        (clouds, {"budget": MIN_BUDGET - 1}, f"budget: got 463; .* at least {MIN_BUDGET}: two range tests"),
        (clouds, {"budget": 1e3 + 0.5}, "budget: got 1000.5; give a whole number of steps"),
        (clouds, {"planned_steps": 0}, "planned_steps: got 0; give a whole number of steps, at least 1"),
        (clouds, {"optimizer": None}, "optimizer: got None; the short runs make their own optimizers"),
        (clouds, {"progress": 3}, "progress: got 3"),
        (clouds, {"saved": "missing/x.json"}, "saved: missing is no folder"),
    ],
)
def test_a_bad_argument_is_refused_before_any_training(make_task, options, message, monkeypatch):
    task = make_task()
    if isinstance(task, Task):
        loss_fn = task.loss_fn
        task.loss_fn = lambda *args: pytest.fail("trained") or loss_fn(*args)
    with pytest.raises(ValueError, match=message):
        find_recipe(task, **options)


def test_a_first_range_test_without_a_suggestion_is_an_error():
    x = torch.zeros(8, 3)
    batches, held_out = [(x, torch.ones(8, 1))], [(x.clone(), torch.ones(8, 1))]
    task = Task(nn.Linear(3, 1, bias=False), nn.MSELoss(), batches, held_out)
    with pytest.raises(NoSuggestionError, match="the loss never falls"):
        find_recipe(task, MIN_BUDGET)


def test_a_validation_loss_that_never_falls_raises_a_warning():
    task = clouds()
    x, y = next(iter(task.val_loader))
    task.val_loader = [(x, 1 - y)]  # the opposite of the training targets
    recipe = find_recipe(task, 2600, planned_steps=2000)
    assert recipe.weight_decay == DEFAULT_WEIGHT_DECAY
    assert recipe.study.momentum_trials is None
    assert recipe.complete
    assert any("in no short run" in warning for warning in recipe.warnings)
