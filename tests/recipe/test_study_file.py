"""A search that continues from its file."""

import numpy as np
import pytest
import torch
from torch import nn

from clrfast import Recipe, find_recipe
from clrfast.recipe import _search, _stages
from clrfast.recipe._momentum import DEFAULT_MOMENTUM_CYCLE
from clrfast.recipe._recipe import conclude
from clrfast.recipe._step_allocation import MIN_BUDGET, RANGE_TEST_STEPS
from clrfast.recipe._study import Study
from clrfast.recipe._weight_decay import DEFAULT_WEIGHT_DECAY
from tests.helpers.problems import clouds
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_second_call_measures_only_what_is_missing(tmp_path, stage_calls):
    path = tmp_path / "recipe.json"
    first = find_recipe(clouds(), MIN_BUDGET, saved=path)
    n = len(stage_calls)
    again = find_recipe(clouds(), MIN_BUDGET, saved=path)
    assert len(stage_calls) == n
    assert str(again) == str(first)
    more = find_recipe(clouds(), first.steps + 1000, saved=path)  # now there is enough for the momenta
    assert stage_calls.names[n:] == ["find_momentum"]
    assert more.study.momentum_trials is not None
    assert more.steps <= first.steps + 1000


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["find_weight_decay", "find_momentum"])
def test_a_search_continues_after_ctrl_c_in_short_trials(stopped, tmp_path, stage_calls, monkeypatch):
    path = tmp_path / "recipe.json"
    whole = find_recipe(clouds(), 2600, planned_steps=2000)
    n, real = len(stage_calls), getattr(_stages, stopped)

    def interrupted(**options):
        def tell(done, total, shown):
            raise KeyboardInterrupt

        return real(**options | {"progress": tell})

    task = clouds()
    before = full_state(task.model, torch.optim.SGD(task.model.parameters(), lr=0.1))
    with monkeypatch.context() as patched:
        patched.setattr(_stages, stopped, interrupted)
        with pytest.raises(KeyboardInterrupt):
            find_recipe(task, 2600, planned_steps=2000, saved=path)
    assert full_state(task.model, torch.optim.SGD(task.model.parameters(), lr=0.1)) == before
    found = Recipe.load(path)
    assert not found.complete
    assert any("the search was interrupted" in warning for warning in found.warnings)
    assert found.momentum == DEFAULT_MOMENTUM_CYCLE
    if stopped == "find_weight_decay":
        assert found.weight_decay == DEFAULT_WEIGHT_DECAY
    resumed = find_recipe(task, 2600, planned_steps=2000, saved=path)
    at = stage_calls.names[:n].index(stopped)
    assert stage_calls.names[n:] == [
        *stage_calls.names[: at + 1],
        *stage_calls.names[at:n],
    ]  # only what was interrupted came twice
    assert str(resumed) == str(whole)
    assert resumed.evidence == whole.evidence


def test_a_search_continues_after_ctrl_c_in_pairs(tmp_path, sgd_updates, monkeypatch):
    path = tmp_path / "recipe.json"
    whole = find_recipe(clouds(), 800, planned_steps=100)
    steps, told = whole.study.pair_trials.steps, []

    def tell(done, total, shown):
        if done > RANGE_TEST_STEPS + 3.5 * steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_recipe(clouds(), 800, planned_steps=100, saved=path, progress=tell)
    found = Recipe.load(path)
    assert not found.complete
    assert found.study.pair_trials.table() == whole.study.pair_trials.table()[:3]
    assert found.steps == RANGE_TEST_STEPS + 3 * steps
    assert found.max_lr == found.study.pair_trials.suggest().max_lr
    assert any("the search was interrupted" in warning for warning in found.warnings)

    sgd_updates.clear()
    monkeypatch.setattr(_search, "range_test", None)  # not called again
    resumed = find_recipe(clouds(), 800, planned_steps=100, saved=path, progress=lambda done, *_: told.append(done))
    assert len(sgd_updates) == 5 * steps
    assert told[0] <= RANGE_TEST_STEPS + 3 * steps + 1
    assert told[-1] == whole.steps
    assert resumed.study.pair_trials.table() == whole.study.pair_trials.table()
    assert (str(resumed), resumed.evidence) == (str(whole), whole.evidence)
    assert Recipe.load(path).complete


def test_pairs_end_if_a_lower_budget_does_not_allow_three(tmp_path, sgd_updates):
    path = tmp_path / "recipe.json"

    def tell(done, total, shown):
        if done > RANGE_TEST_STEPS + 1.5 * 186:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_recipe(clouds(), 1600, planned_steps=200, saved=path, progress=tell)
    sgd_updates.clear()
    ended = find_recipe(clouds(), MIN_BUDGET, planned_steps=200, saved=path)
    assert sgd_updates == []
    assert ended.complete
    assert [np.size(run.train_loss) for run in ended.study.pair_trials.histories] == [186]
    assert ended.steps == RANGE_TEST_STEPS + 186


def test_an_interruption_before_the_first_result_leaves_no_file(tmp_path):
    task = clouds()

    def interrupted(outputs, targets):
        raise KeyboardInterrupt

    task.loss_fn = interrupted
    with pytest.raises(KeyboardInterrupt):
        find_recipe(task, MIN_BUDGET, saved=tmp_path / "recipe.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="interrupted before its first answer"):
        conclude(Study(500, 1000, 0, "model", None))


def test_the_file_of_another_model_or_batch_size_is_refused(tmp_path):
    path = tmp_path / "recipe.json"
    find_recipe(clouds(), MIN_BUDGET, saved=path)
    task = clouds()
    task.model = nn.Linear(6, 2)
    with pytest.raises(ValueError, match=r"another model \(Sequential, 146 elements in 4 tensors; this is Linear"):
        find_recipe(task, MIN_BUDGET, saved=path)
    with pytest.raises(ValueError, match=r"is of another batch size \(20; this is 10\); give another path"):
        find_recipe(clouds(batch_size=10), MIN_BUDGET, saved=path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "clrfast.LRCurve/1"}', '{"format": "clrfast.Recipe/1"}'])
def test_a_file_that_is_no_recipe_is_refused_and_kept(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json does not hold a saved recipe"):
        Recipe.load(path)
    with pytest.raises(ValueError, match="delete the file to begin anew"):
        find_recipe(clouds(), MIN_BUDGET, saved=path)
    assert path.read_text() == text
