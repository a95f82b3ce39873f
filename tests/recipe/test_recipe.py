import base64
import json
import math
import re
import sys
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

import clrfast
from clrfast import Diagnosis, NoSuggestionError, Recipe, Task, find_recipe
from clrfast.recipe import PairTrials, _search, _stages
from clrfast.recipe._momentum import DEFAULT_MOMENTUM
from clrfast.recipe._plans import MIN_BUDGET, RANGE_TEST_STEPS, SMALL_GRID, pair_steps, plan_grid
from clrfast.recipe._recipe import conclude
from clrfast.recipe._study import Study
from clrfast.recipe._weight_decay import DEFAULT_WEIGHT_DECAY, GRID
from tests.helpers.problems import clouds
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def order(monkeypatch):
    """The stages that are measured, in order, as (name, its options)."""
    calls = []

    def called(name, real, *args, **options):
        calls.append((name, options))
        return real(*args, **options)

    for name in ("range_test", "find_batch_size", "find_pair", "find_weight_decay", "find_momentum"):
        module = _search if name == "range_test" else _stages
        monkeypatch.setattr(module, name, partial(called, name, getattr(module, name)))
    return calls


def names(order):
    return [name for name, _ in order]


def test_small_budget_is_kept_and_the_usual_momentum_taken(order, sgd_updates):
    recipe = find_recipe(clouds(), MIN_BUDGET)
    assert names(order)[:2] == ["range_test", "find_weight_decay"]
    assert "find_momentum" not in names(order)
    assert 240 < len(sgd_updates) <= recipe.steps <= MIN_BUDGET
    assert recipe.complete
    assert recipe.batch_size == 20
    assert recipe.low <= recipe.max_lr <= recipe.high
    assert 1e-3 < recipe.max_lr < 10
    assert recipe.momentum == DEFAULT_MOMENTUM
    assert recipe.weight_decay in SMALL_GRID
    assert order[1][1]["grid"] == SMALL_GRID
    assert "1000 steps, and" in recipe.evidence["momentum"]
    assert any("runs of 40 steps" in warning and "a budget of 1536" in warning for warning in recipe.warnings)
    assert set(recipe.evidence) == {"learning rate", "batch size", "weight decay", "momentum"}
    assert "warning: " in str(recipe)


def test_the_order_of_the_parts_with_all_of_them(order, sgd_updates):
    task = clouds()
    recipe = find_recipe(task, 2600, planned_steps=2000, batch_sizes=True)
    study = recipe.study
    expected = ["range_test", "find_batch_size"]
    expected += ["range_test"] * (study.batch_sizes.fastest != 20)
    expected += ["find_weight_decay"] + ["range_test"] * (recipe.weight_decay >= 1e-3) + ["find_momentum"]
    assert names(order) == expected
    assert recipe.steps <= 2600
    sized = sum(20 for _ in study.batch_sizes.costs) * 2  # those of the batch sizes come on top
    assert len(sgd_updates) <= recipe.steps + sized + 10
    assert recipe.batch_size == study.batch_sizes.fastest
    assert recipe.momentum == study.momentum_trials.cycle
    assert order[-1][1]["weight_decay"] == recipe.weight_decay
    assert order[-1][1]["max_lr"] == recipe.max_lr
    assert task.train_loader.batch_size == 20  # the user's is not changed


def test_the_rate_is_tested_again_after_a_large_weight_decay(order, monkeypatch):
    real = _stages.find_weight_decay
    monkeypatch.setattr(_stages, "find_weight_decay", lambda **options: real(**options | {"grid": (3e-3, 1e-2)}))
    recipe = find_recipe(clouds(), 600)
    assert recipe.weight_decay >= 3e-3
    assert names(order) == ["range_test", "find_weight_decay", "range_test"]
    assert order[2][1]["optimizer"].param_groups[0]["weight_decay"] == recipe.weight_decay
    assert recipe.max_lr == recipe.study.range_test_after_weight_decay.suggest().max_lr
    assert "before the weight decay was changed" in recipe.evidence["learning rate"]


def test_a_budget_of_several_trainings_goes_into_long_runs(order, sgd_updates, tmp_path):
    path = tmp_path / "recipe.json"
    recipe = find_recipe(clouds(), 8 * 100, planned_steps=100, saved=path)
    assert names(order) == ["range_test", "find_pair"]
    pairs = recipe.study.pair_trials
    assert (order[1][1]["steps"], order[1][1]["max_steps"]) == (86, 800 - RANGE_TEST_STEPS)
    assert len(sgd_updates) <= recipe.steps == RANGE_TEST_STEPS + 86 * len(pairs.histories) <= 800
    assert recipe.complete
    assert (recipe.max_lr, recipe.weight_decay) == (pairs.suggest().max_lr, pairs.suggest().weight_decay)
    assert recipe.low < recipe.max_lr < recipe.high
    assert recipe.momentum == DEFAULT_MOMENTUM
    assert "the range test suggested" in recipe.evidence["learning rate"]
    assert "long runs with rates and weight decays" in recipe.evidence["momentum"]
    again = find_recipe(clouds(), 8 * 100, planned_steps=100, saved=path)
    assert len(order) == 2
    assert (str(again), again.evidence, again.diagnoses) == (str(recipe), recipe.evidence, recipe.diagnoses)
    page = Page(recipe.to_html())
    assert "Rate and weight decay" in page.text
    assert f"{pairs.loss[-1]:.4g}" in page.text
    assert page.tags.count("img") == 3  # range test, pairs, schedule


@pytest.mark.parametrize(
    ("left", "planned_steps", "wanted"),
    [(8000, 1000, 1000), (9000, 1000, 1000), (3999, 1000, 499), (2000, 1000, 250), (1999, 1000, 0), (319, 100, 0)],
)
def test_long_runs_are_made_where_they_are_a_quarter_of_the_training(left, planned_steps, wanted):
    assert pair_steps(Study(left, planned_steps, 0, "model", None)) == wanted


def test_long_runs_without_an_answer_are_warned_of():
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


@pytest.mark.parametrize(
    ("steps", "planned_steps", "wanted"),
    [
        (240, 1000, (SMALL_GRID, 40, False)),
        (479, 1000, (SMALL_GRID, 79, False)),
        (480, 1000, (GRID, 40, True)),
        (2199, 1000, (GRID, 183, True)),
        (2200, 1000, (GRID, 100, True)),  # the momenta get 10 parts of 22
        (22 * 300, 1000, (GRID, 200, True)),
        (22 * 300, 3000, (GRID, 300, True)),
        (22 * 300, 2500, (GRID, 250, True)),
    ],
)
def test_how_the_budget_is_shared(steps, planned_steps, wanted):
    assert plan_grid(steps, planned_steps) == wanted


class OwnLoss(nn.Sequential):
    def forward(self, x, y):
        return {"loss": nn.functional.cross_entropy(super().forward(x), y)}


def test_other_batches_and_options():
    """Dicts for a model with a loss of its own; a user's loss, two batches to an update."""
    task = clouds()
    dicts = [[{"x": x, "y": y} for x, y in loader] for loader in (task.train_loader, task.val_loader)]
    recipe = find_recipe(Task(OwnLoss(*task.model), None, *dicts), MIN_BUDGET)
    assert recipe.complete
    assert recipe.batch_size is None
    assert "the loader's" in str(recipe)
    tuples = replace(task, loss_fn=None, compute_loss=lambda model, batch: task.loss_fn(model(batch[0]), batch[1]))
    assert find_recipe(tuples, MIN_BUDGET, accumulate=2).complete


def test_runs_are_long_enough_with_the_budget_that_is_advised():
    assert plan_grid(1536 - 3 * RANGE_TEST_STEPS, 10_000) == (GRID, 100, True)


def test_a_range_test_takes_no_more_than_it_is_charged_with():
    told = []
    task = clouds()
    clrfast.range_test(
        task.model, task.loss_fn, task.train_loader, progress=lambda done, total, shown: told.append(total)
    )
    assert max(told) == RANGE_TEST_STEPS


def test_a_training_shorter_than_the_search_is_told_what_that_needs(monkeypatch):
    monkeypatch.setattr(_search.Search, "open_study", lambda self, *args: (_ for _ in ()).throw(RuntimeError(args[0])))
    told = f"planned_steps: got 66, and the search itself needs {MIN_BUDGET} updates"
    with pytest.warns(UserWarning, match=told), pytest.raises(RuntimeError, match=f"^{MIN_BUDGET}$"):
        find_recipe(clouds(), planned_steps=66)
    with pytest.raises(RuntimeError, match=f"^{MIN_BUDGET}$"):  # whoever gives the budget knows it
        find_recipe(clouds(), MIN_BUDGET, planned_steps=66)


def test_a_time_as_text_is_refused_with_the_form_that_python_has():
    with pytest.raises(ValueError, match=r"budget: got '5min'; .* datetime.timedelta\(minutes=5\)"):
        find_recipe(clouds(), "5min")


@pytest.mark.parametrize(("planned", "wanted"), [(None, 1000), (2000, MIN_BUDGET), (30_000, 3000)])
def test_the_default_budget_is_a_tenth_of_the_training(planned, wanted, monkeypatch):
    monkeypatch.setattr(_search.Search, "open_study", lambda self, *args: (_ for _ in ()).throw(RuntimeError(args[0])))
    with pytest.raises(RuntimeError, match=f"^{wanted}$"):
        find_recipe(clouds(), planned_steps=planned)


def test_all_is_as_before_and_progress_is_told():
    told = []
    task = clouds()
    shown = torch.optim.SGD(task.model.parameters(), lr=0.1)
    before, generator = full_state(task.model, shown), task.train_loader.generator.get_state()
    find_recipe(task, MIN_BUDGET, progress=lambda *args: told.append(args[:2]))
    assert full_state(task.model, shown) == before
    assert torch.equal(task.train_loader.generator.get_state(), generator)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {MIN_BUDGET}


def test_it_goes_straight_into_training():
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


# ------------------------------------------------------------ the file


def test_json_round_trip(tmp_path):
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


def test_runs_that_diverged_are_saved(tmp_path):
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


def test_a_second_call_skips_what_is_there(tmp_path, order):
    path = tmp_path / "recipe.json"
    first = find_recipe(clouds(), MIN_BUDGET, saved=path)
    n = len(order)
    again = find_recipe(clouds(), MIN_BUDGET, saved=path)
    assert len(order) == n
    assert str(again) == str(first)
    more = find_recipe(clouds(), first.steps + 1000, saved=path)  # now there is enough for the momenta
    assert names(order)[n:] == ["find_momentum"]
    assert more.study.momentum_trials is not None
    assert more.steps <= first.steps + 1000


@pytest.mark.parametrize("stopped", ["find_weight_decay", "find_momentum"])
def test_what_was_found_before_ctrl_c_is_kept_and_gone_on_from(stopped, tmp_path, order, monkeypatch):
    path = tmp_path / "recipe.json"
    whole = find_recipe(clouds(), 2600, planned_steps=2000)
    n, real = len(order), getattr(_stages, stopped)

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
    assert found.momentum == DEFAULT_MOMENTUM
    if stopped == "find_weight_decay":
        assert found.weight_decay == DEFAULT_WEIGHT_DECAY
    resumed = find_recipe(task, 2600, planned_steps=2000, saved=path)
    at = names(order)[:n].index(stopped)
    assert names(order)[n:] == [*names(order)[: at + 1], *names(order)[at:n]]  # only what was interrupted came twice
    assert str(resumed) == str(whole)
    assert resumed.evidence == whole.evidence


def test_long_runs_made_before_ctrl_c_are_kept_and_gone_on_from(tmp_path, sgd_updates, monkeypatch):
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


def test_long_runs_end_where_a_lower_budget_allows_no_three(tmp_path, sgd_updates):
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


def test_an_interruption_before_the_first_answer_leaves_no_file(tmp_path):
    task = clouds()

    def interrupted(outputs, targets):
        raise KeyboardInterrupt

    task.loss_fn = interrupted
    with pytest.raises(KeyboardInterrupt):
        find_recipe(task, MIN_BUDGET, saved=tmp_path / "recipe.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="interrupted before its first answer"):
        conclude(Study(500, 1000, 0, "model", None))


# ------------------------------------------------------------ the report


class Page(HTMLParser):
    """Its text, tags and what it refers to; raises where the tags do not close in order."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.references, self.code, self._open = "", [], [], [], []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self._open and self._open[-1] == "code":
            self.code.append(data)


def test_the_report_holds_everything_and_refers_to_nothing():
    recipe = find_recipe(clouds(), 2600, planned_steps=2000, batch_sizes=True)
    html = recipe.to_html("two <clouds>", saved="some 'where'.json")
    page = Page(html)
    for told in (*recipe.evidence.values(), *recipe.warnings):
        assert told in page.text
    for heading in ("What was chosen", "Learning rate", "Batch size", "Weight decay", "Momentum", "Next steps"):
        assert heading in page.text
    assert "two <clouds>" in page.text
    assert """clrfast.Recipe.load("some 'where'.json")""" in page.text
    curves = len(recipe.study.range_tests)
    assert page.tags.count("img") == curves + 3  # weight decay, momentum, schedule
    assert page.references.pop(0) == "data:,"
    assert [x[:22] for x in page.references] == ["data:image/png;base64,"] * (curves + 3)
    assert base64.b64decode(page.references[0][22:]).startswith(b"\x89PNG")
    outside = re.sub(r'"data:[^"]*"', "", html)
    assert not re.search(r"https?:|//|@import|url\(|<script|javascript", outside, re.IGNORECASE)


def test_the_code_of_the_report_runs(tmp_path):
    task = clouds()
    recipe = find_recipe(task, MIN_BUDGET, saved=tmp_path / "recipe.json")
    by_file, by_numbers = Page(recipe.to_html(saved=str(tmp_path / "recipe.json"))).code
    names = {"epochs": 2, **vars(task)}
    exec(by_file, names)
    assert len(names["optimizer"].control.losses) == 40
    lr, momentum, weight_decay = recipe.schedule(40).table()[10, 0]
    shown = {}
    exec(by_numbers, {"clrfast": clrfast, "total_steps": 40, **vars(task)}, shown)
    np.testing.assert_allclose(shown["schedule"].table()[10, 0], [lr, momentum, weight_decay], rtol=0.01)


def test_every_text_of_the_report_is_escaped():
    evil = "<script>alert('&amp;\"')</script>"
    recipe = find_recipe(clouds(), MIN_BUDGET)
    diagnosis = Diagnosis("plateau", (0, 1), 1.0, evil, evil)
    curve = replace(recipe.study.range_test, stop_reason=evil)
    recipe = replace(
        recipe,
        evidence=dict.fromkeys(recipe.evidence, evil),
        warnings=(evil,),
        diagnoses=(diagnosis,),
        study=replace(recipe.study, model=evil, range_test=curve),
    )
    html = recipe.to_html(evil, saved=evil)
    assert html.startswith("<!doctype html>\n")
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count(evil) >= 10


def test_without_matplotlib_the_report_has_its_tables(monkeypatch):
    recipe = find_recipe(clouds(), MIN_BUDGET)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = Page(recipe.to_html())
    assert "img" not in page.tags
    assert "table" in page.tags
    assert "no picture: matplotlib.figure is not installed" in page.text


def test_an_incomplete_recipe_can_be_reported():
    study = find_recipe(clouds(), MIN_BUDGET).study
    begun = conclude(Study(500, 1000, RANGE_TEST_STEPS, "model", None, range_test=study.range_test))
    text = Page(begun.to_html()).text
    assert "It was interrupted" in text
    assert "not tested; 0.0001 is usual" in text
    assert "the loader's" in text


# ------------------------------------------------------------ bad input


def test_another_models_file_is_refused(tmp_path):
    path = tmp_path / "recipe.json"
    find_recipe(clouds(), MIN_BUDGET, saved=path)
    task = clouds()
    task.model = nn.Linear(6, 2)
    with pytest.raises(ValueError, match=r"another model \(Sequential, 146 elements in 4 tensors; this is Linear"):
        find_recipe(task, MIN_BUDGET, saved=path)
    with pytest.raises(ValueError, match=r"is of another batch size \(20; this is 10\); give another path"):
        find_recipe(clouds(batch_size=10), MIN_BUDGET, saved=path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "clrfast.LRCurve/1"}', '{"format": "clrfast.Recipe/1"}'])
def test_other_files_are_refused_and_kept(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json does not hold a saved recipe"):
        Recipe.load(path)
    with pytest.raises(ValueError, match="delete the file to begin anew"):
        find_recipe(clouds(), MIN_BUDGET, saved=path)
    assert path.read_text() == text


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
        (clouds, {"optimizer": None}, "optimizer: the recipe is one for clrfast.SGD"),
        (clouds, {"progress": 3}, "progress: got 3"),
        (clouds, {"saved": "missing/x.json"}, "saved: missing is no folder"),
    ],
)
def test_bad_input_is_told_before_any_training(make_task, options, message, monkeypatch):
    task = make_task()
    if isinstance(task, Task):
        loss_fn = task.loss_fn
        task.loss_fn = lambda *args: pytest.fail("trained") or loss_fn(*args)
    with pytest.raises(ValueError, match=message):
        find_recipe(task, **options)


def test_a_rate_without_answer_is_an_error():
    x = torch.zeros(8, 3)
    batches, held_out = [(x, torch.ones(8, 1))], [(x.clone(), torch.ones(8, 1))]
    task = Task(nn.Linear(3, 1, bias=False), nn.MSELoss(), batches, held_out)
    with pytest.raises(NoSuggestionError, match="the loss never falls"):
        find_recipe(task, MIN_BUDGET)


def test_validation_data_that_never_get_better_are_warned_of():
    task = clouds()
    x, y = next(iter(task.val_loader))
    task.val_loader = [(x, 1 - y)]  # the opposite of what is learnt
    recipe = find_recipe(task, 2600, planned_steps=2000)
    assert recipe.weight_decay == DEFAULT_WEIGHT_DECAY
    assert recipe.study.momentum_trials is None
    assert recipe.complete
    assert any("in no short run" in warning for warning in recipe.warnings)
