"""The search for a recipe: its stages, their order and its arguments."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from clrfast import LRCurve, NoSuggestionError, Task, find_recipe
from clrfast.recipe import _find_recipe, find_pair
from clrfast.recipe import _plan as plan
from clrfast.recipe._plan import MIN_BUDGET, MIN_TRIAL_STEPS
from clrfast.recipe._setting_trials import (
    DEFAULT_MOMENTUM_CYCLE,
    DEFAULT_WEIGHT_DECAY,
    SMALL_GRID,
    SMALL_GRID_TRIALS,
)
from clrfast.recipe._storage import TrialStore
from clrfast.recipe._study import RANGE_TEST_STEPS
from tests.helpers.problems import clouds
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_small_budget_is_kept_and_the_momentum_is_the_default(ran, sgd_updates):
    recipe = find_recipe(clouds(), MIN_BUDGET)
    assert ran.stages[:2] == ["range test", "weight decay"]
    assert "momentum" not in ran.stages
    assert 240 < len(sgd_updates) <= recipe.steps <= MIN_BUDGET
    assert recipe.complete
    assert recipe.batch_size == 20
    assert recipe.low <= recipe.max_lr <= recipe.high
    assert 1e-3 < recipe.max_lr < 10
    assert recipe.momentum == DEFAULT_MOMENTUM_CYCLE
    assert recipe.weight_decay in SMALL_GRID
    assert {spec.weight_decay for spec in ran.of("weight decay")} == set(SMALL_GRID)
    assert "1000 steps, and" in recipe.evidence["momentum"]
    assert any("trials of 40 steps" in warning and "a budget of 1536" in warning for warning in recipe.warnings)
    assert set(recipe.evidence) == {"learning rate", "batch size", "weight decay", "momentum"}
    assert "warning: " in str(recipe)


def test_all_stages_run_in_the_order_of_the_report(ran, sgd_updates):
    task = clouds()
    recipe = find_recipe(task, 2600, planned_steps=2000, batch_sizes=True)
    study = recipe.study
    expected = ["range test", "batch size"]
    expected += ["range test"] * (study.batch_sizes.fastest != 20)
    expected += ["weight decay"] + ["range test"] * (recipe.weight_decay >= 1e-3) + ["momentum"]
    assert ran.stages == expected
    assert recipe.steps <= 2600
    sized = sum(20 for _ in study.batch_sizes.costs) * 2  # not part of the budget
    assert len(sgd_updates) <= recipe.steps + sized + 10
    assert recipe.batch_size == study.batch_sizes.fastest
    assert recipe.momentum == study.momentum_trials.cycle
    assert {spec.weight_decay for spec in ran.of("momentum")} == {recipe.weight_decay}
    assert {spec.max_lr for spec in ran.of("momentum")} == {recipe.max_lr}
    assert {spec.batch_size for spec in ran.of("momentum")} == {recipe.batch_size}
    assert task.train_loader.batch_size == 20  # the user's loader is unchanged


def test_the_rate_is_tested_again_after_a_large_weight_decay(ran, monkeypatch):
    monkeypatch.setattr(plan, "SMALL_GRID", (3e-3, 1e-2))
    recipe = find_recipe(clouds(), 600)
    assert recipe.weight_decay >= 3e-3
    assert ran.stages == ["range test", "weight decay", "range test"]
    assert ran[-1].key == "range test/sgd/weight decay"
    assert ran[-1].weight_decay == recipe.weight_decay
    assert recipe.max_lr == recipe.study.range_test_after_weight_decay.suggest().max_lr
    assert "before the weight decay was changed" in recipe.evidence["learning rate"]


def test_a_budget_of_several_trainings_goes_into_pairs(ran, sgd_updates):
    recipe = find_recipe(clouds(), 8 * 100, planned_steps=100)
    assert ran.stages == ["range test", "pair"]
    pairs = recipe.study.pair_trials
    assert {spec.steps for spec in ran.of("pair")} == {86}
    assert len(sgd_updates) <= recipe.steps == RANGE_TEST_STEPS + 86 * len(pairs.histories) <= 800
    assert recipe.complete
    assert (recipe.max_lr, recipe.weight_decay) == (pairs.suggest().max_lr, pairs.suggest().weight_decay)
    assert recipe.low < recipe.max_lr < recipe.high
    assert recipe.momentum == DEFAULT_MOMENTUM_CYCLE
    assert "the range test suggested" in recipe.evidence["learning rate"]
    assert "long trials with rates and weight decays" in recipe.evidence["momentum"]


def test_the_pairs_of_a_search_are_those_of_find_pair():
    """The trials of a study are placed as those of one process. They are on other batches: a search has its seed."""
    recipe = find_recipe(clouds(), 8 * 100, planned_steps=100)
    first = recipe.study.range_test.suggest().max_lr
    with _find_recipe._seeded(recipe.study.settings.seed):
        found = find_pair(clouds(), max_lr=first, steps=86, max_steps=8 * 86)
    assert found.table() == recipe.study.pair_trials.table()


def test_several_optimizers_share_the_budget_and_the_better_one_is_chosen(ran):
    recipe = find_recipe(clouds(), 1000, optimizers=("sgd", "adamw"))
    assert recipe.complete
    assert recipe.steps <= 1000
    parts = {name: recipe.study.for_optimizer(name) for name in ("sgd", "adamw")}
    losses = {}
    for name, part in parts.items():
        assert part.steps <= part.budget == 500
        found = part.weight_decay_trials
        losses[name] = found.loss.mean(axis=1)[found.values == found.suggest().value][0]
    assert recipe.optimizer_name == min(losses, key=losses.get)
    assert next(iter(recipe.evidence)) == next(iter(recipe.settings)) == "optimizer"
    assert all(f"{loss:.4g} with {name}" in recipe.evidence["optimizer"] for name, loss in losses.items())
    chosen = parts[recipe.optimizer_name]
    assert recipe.weight_decay == chosen.weight_decay_trials.suggest().value
    assert recipe.max_lr == chosen.range_test.suggest().max_lr


def test_pairs_of_several_optimizers_compete_for_one_budget(ran):
    recipe = find_recipe(clouds(), 1600, planned_steps=100, optimizers=("sgd", "adamw"))
    assert ran.stages == ["range test", "pair"]
    assert recipe.complete
    assert recipe.steps <= 1600
    pairs = [trial for trial in recipe.study.trials if trial.spec.stage == "pair"]
    assert {trial.spec.optimizer for trial in pairs} == {"sgd", "adamw"}
    best = min(pairs, key=lambda trial: trial.result.val_loss[-1])
    assert recipe.optimizer_name == best.spec.optimizer


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


def refused(store, settings):
    """In place of ``TrialStore.join``: end before the search, with its budget as the message."""
    raise RuntimeError(settings.budget)


def test_a_training_shorter_than_the_search_raises_a_warning(monkeypatch):
    monkeypatch.setattr(TrialStore, "join", refused)
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
    monkeypatch.setattr(TrialStore, "join", refused)
    with pytest.raises(RuntimeError, match=f"^{wanted}$"):
        find_recipe(clouds(), planned_steps=planned)
    wanted = max(wanted, 2 * MIN_BUDGET)
    with pytest.raises(RuntimeError, match=f"^{wanted}$"):
        find_recipe(clouds(), planned_steps=planned, optimizers=("sgd", "adamw"))


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


def wrapped():
    """A stand-in for the real class, which needs a process group."""
    task = clouds()
    inner = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(inner)
    task.model = nn.Sequential(task.model, inner)
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
        (
            clouds,
            {"budget": MIN_BUDGET - 1},
            f"budget: got 463; .* at least {MIN_BUDGET}: range tests and 6 trials",
        ),
        (clouds, {"budget": 1e3 + 0.5}, "budget: got 1000.5; give a whole number of steps"),
        (clouds, {"planned_steps": 0}, "planned_steps: got 0; give a whole number of steps, at least 1"),
        (
            clouds,
            {"budget": 927, "optimizers": ("sgd", "adamw")},
            "budget: got 927; .* at least 928: range tests and 12",
        ),
        (clouds, {"optimizers": None}, "optimizers: got None; give 'sgd', 'adamw' or several of them"),
        (clouds, {"optimizers": ()}, r"optimizers: got \(\); give 'sgd', 'adamw' or several of them"),
        (clouds, {"optimizers": ("sgd", "sgd")}, r"optimizers: got \('sgd', 'sgd'\); give .* each once"),
        (clouds, {"optimizers": "lion"}, r"optimizer: got 'lion'; .* one of \['sgd', 'adamw'\]"),
        (clouds, {"progress": 3}, "progress: got 3"),
        (clouds, {"storage": "missing/x.log"}, "storage: got 'missing/x.log'; give the path of a file in an existing"),
        (wrapped, {}, r"model: got a DistributedDataParallel, .*; a trial runs in one process: .*model\.module"),
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
    with pytest.raises(NoSuggestionError, match="check that gradients reach the parameters"):
        find_recipe(task, MIN_BUDGET)


def test_a_validation_loss_that_never_falls_raises_a_warning():
    task = clouds()
    x, y = next(iter(task.val_loader))
    task.val_loader = [(x, 1 - y)]  # the opposite of the training targets
    recipe = find_recipe(task, 2600, planned_steps=2000)
    assert recipe.weight_decay == DEFAULT_WEIGHT_DECAY
    assert recipe.study.momentum_trials is None
    assert recipe.complete
    assert any("in no trial with a rate" in warning for warning in recipe.warnings)


def test_ramps_that_show_no_rate_are_repeated_with_trials_whose_steps_count(monkeypatch):
    """The ramps of a loss in which the noise hides the fall: its suggestion is refused, until there are trials."""
    real = LRCurve.suggest

    def refused(curve, *args, **options):
        if not curve.trials:
            raise NoSuggestionError("the loss falls too little")
        return real(curve, *args, **options)

    monkeypatch.setattr(LRCurve, "suggest", refused)
    recipe = find_recipe(clouds(), MIN_BUDGET)
    curve = recipe.study.range_test
    assert curve.trials
    (first, *others) = recipe.study.trials
    assert first.steps == RANGE_TEST_STEPS + curve.update_steps
    assert [trial.spec.steps for trial in others] == [MIN_TRIAL_STEPS] * SMALL_GRID_TRIALS  # the budget is exceeded
    assert recipe.complete


def test_a_search_in_which_no_loss_falls_ends_with_a_warning():
    """The rate goes down to the lowest of the lattice, and no further."""
    task = clouds()
    x, y = next(iter(task.val_loader))
    task.val_loader = [(x, 1 - y)]  # the opposite of the training targets
    recipe = find_recipe(task, 4000, planned_steps=300)
    assert recipe.complete
    assert 3 <= len(recipe.study.pair_trials.loss) <= 4
    assert any("learning rate: in no run" in warning for warning in recipe.warnings)
