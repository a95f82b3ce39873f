"""The recipe for AdamW: its trials, its weight decays, its file and what it returns."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import Recipe, find_momentum, find_recipe, find_weight_decay
from clrfast.recipe import _stacked_trials as copies
from clrfast.recipe import _trial_runner as runner
from clrfast.recipe import find_pair
from clrfast.recipe._plan import MIN_BUDGET, default_grid
from clrfast.recipe._setting_trials import DEFAULT_MOMENTUM_CYCLE, GRID
from tests.helpers.problems import blobs, blobs_without_dropout, clouds, regression
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A recipe of the smallest budget and its file."""
    path = tmp_path_factory.mktemp("adamw") / "recipe.json"
    recipe = find_recipe(clouds(), MIN_BUDGET, optimizers="adamw")
    recipe.save(path)
    return recipe, path


def test_its_weight_decays_are_100_times_those_of_sgd():
    assert default_grid("sgd") == GRID
    assert default_grid("adamw") == (0.1, 0.01, 0.001, 0.0)


def test_the_recipe_makes_an_adamw_with_its_settings(saved):
    recipe, _ = saved
    model = clouds().model
    assert recipe.optimizer_name == "adamw"
    assert recipe.study.weight_decay_trials.values.tolist() == [0.0, 0.01, 0.1]
    assert recipe.study.range_test.momentum is None
    optimizer = recipe.optimizer(model)
    assert type(optimizer) is clrfast.AdamW
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (recipe.max_lr, recipe.weight_decay)
    assert group["betas"] == (DEFAULT_MOMENTUM_CYCLE[0], 0.999)
    scheduled = recipe.optimizer(model, 50)
    table = scheduled.schedule.table()[:, 0]
    assert table[:, 0].max() == pytest.approx(recipe.max_lr, rel=0.05)
    assert (table[:, 1].min(), table[:, 1].max()) == (np.float32(0.85), np.float32(0.95))
    assert set(table[:, 2]) == {np.float32(recipe.weight_decay)}
    assert "of adamw" in str(recipe)


def test_the_search_leaves_the_model_as_it_was():
    task = clouds()
    unused = torch.optim.SGD(task.model.parameters(), lr=1.0)
    before = full_state(task.model, unused)
    find_weight_decay(task, optimizer="adamw", max_lr=0.01, steps=20, refine=False)
    assert full_state(task.model, unused) == before


def test_the_recipe_survives_its_file(saved, tmp_path):
    recipe, path = saved
    loaded = Recipe.load(path)
    assert loaded.optimizer_name == "adamw"
    assert str(loaded) == str(recipe)
    data = json.loads(path.read_text())
    assert data["settings"]["optimizers"] == ["adamw"]
    assert {trial["optimizer"] for trial in data["trials"]} == {"adamw"}
    data["settings"]["optimizers"] = ["lion"]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"optimizers: got .*'lion'.*; give some of \['sgd', 'adamw'\]"):
        Recipe.load(tmp_path / "bad.json")
    data["settings"]["optimizers"], data["trials"][0]["optimizer"] = ["adamw"], "lion"
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"optimizer: got 'lion'; give one of \['sgd', 'adamw'\]"):
        Recipe.load(tmp_path / "bad.json")


def test_the_report_shows_code_with_adamw(saved):
    recipe, _ = saved
    assert "optimizer = clrfast.AdamW(model.parameters(), schedule=schedule)" in recipe.to_html()


def test_a_trial_equals_a_training_by_torchs_adamw_on_the_same_batches():
    model, loss_fn, loader, val = regression(100, 0.5, features=10)
    batches, decay, steps = list(loader), 0.1, 20
    schedule = clrfast.one_cycle(0.05, steps, momentum=(0.95, 0.85))
    found = find_weight_decay(
        *(model, loss_fn, batches),
        val_loader=list(val),
        grid=(0, decay),
        max_lr=0.05,
        steps=steps,
        refine=False,
        optimizer="adamw",
    )
    own = nn.Linear(10, 1)
    own.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(own.parameters(), lr=1.0, weight_decay=decay)
    losses = []
    for step in range(steps):
        x, y = batches[step % len(batches)]
        betas = float(schedule.momentum(step)), 0.999
        optimizer.param_groups[0].update(lr=float(schedule.lr(step)), betas=betas)
        optimizer.zero_grad()
        loss = loss_fn(own(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    np.testing.assert_allclose(found.histories[1][0].train_loss, losses, rtol=1e-4)
    assert found.optimizer == "adamw"


def test_stacked_trials_equal_single_ones(monkeypatch):
    model, loss_fn, loader = blobs_without_dropout()
    stacked = []

    def noted(*arguments):
        stacked.append(arguments[-1])
        return copies.run_stacked(*arguments)

    found = []
    monkeypatch.setattr(runner, "run_stacked", noted)
    for stacks in (True, False):
        monkeypatch.setattr(runner, "can_stack", lambda device, options, stacks=stacks: stacks)
        found.append(
            find_momentum(
                *(model, loss_fn, loader),
                val_loader=blobs()[2],
                values=(0.5, 0.9),
                max_lr=0.01,
                steps=20,
                optimizer="adamw",
            )
        )
    assert stacked == [clrfast.AdamW] * 2
    for one, other in zip(found[0].histories, found[1].histories, strict=True):
        np.testing.assert_allclose(one[0].train_loss, other[0].train_loss, rtol=1e-3)


def test_pairs_are_tried_on_the_lattice_of_its_decays():
    task = clouds()
    found = find_pair(task, max_lr=0.01, steps=40, max_steps=160, optimizer="adamw")
    assert found.weight_decay[0] == 0.1
    assert set(found.weight_decay) <= {1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0}
    assert found.optimizer == "adamw"


@pytest.mark.parametrize(
    "call",
    [
        lambda name: find_recipe(clouds(), 2 * MIN_BUDGET, optimizers=("sgd", name)),
        lambda name: find_weight_decay(clouds(), optimizer=name),
        lambda name: find_momentum(clouds(), optimizer=name),
        lambda name: find_pair(clouds(), max_lr=0.1, steps=40, max_steps=160, optimizer=name),
    ],
    ids=["find_recipe", "find_weight_decay", "find_momentum", "find_pair"],
)
def test_another_optimizer_is_an_error_that_gives_the_names(call):
    with pytest.raises(ValueError, match=r"optimizer: got 'lion'; .* one of \['sgd', 'adamw'\]"):
        call("lion")
    with pytest.raises(ValueError, match="optimizer: got AdamW; the short runs make their own optimizers"):
        call(torch.optim.AdamW(clouds().model.parameters()))
