"""Budgets of time, with a fake clock that only work advances."""

import json
from datetime import timedelta

import pytest
from torch.utils.data import DataLoader

import clrfast
from clrfast import Recipe, find_momentum, find_recipe, find_weight_decay
from clrfast.finder._validation import Validation
from clrfast.recipe import OutOfTimeError, _stages
from clrfast.recipe import _deadline as clock
from clrfast.recipe._deadline import Deadline
from clrfast.recipe._momentum import DEFAULT_MOMENTUM_CYCLE
from clrfast.recipe._step_allocation import RANGE_TEST_STEPS, SMALL_GRID
from clrfast.recipe._time_budget import _overhead_per_step, speedup
from clrfast.training import StepOptions
from tests.helpers.problems import clouds

pytestmark = pytest.mark.usefixtures("one_thread")


class Clock:
    """A clock, and the seconds that an update, a validation and the loading of a sample take."""

    def __init__(self, monkeypatch):
        self.now, self.update, self.validation, self.load = 1000.0, 0.01, 0.0, 0.0
        monkeypatch.setattr(clock, "now", lambda: self.now)
        self._goes_on(monkeypatch, clrfast.SGD, "step", "update")
        self._goes_on(monkeypatch, Validation, "total", "validation")  # every validation calls it
        self._goes_on(monkeypatch, Slow, "__getitem__", "load")

    def _goes_on(self, monkeypatch, owner, name, what):
        real = getattr(owner, name)

        def spent(*args, **options):
            self.now += getattr(self, what)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, spent)


class Slow:
    """A dataset whose samples take time to load."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


@pytest.fixture
def fake(monkeypatch):
    return Clock(monkeypatch)


@pytest.mark.parametrize("validation", [0.0, 0.05])
def test_a_search_uses_its_time_and_ends_within_it(validation, fake, tmp_path):
    fake.validation = validation
    begin = fake.now
    recipe = find_recipe(clouds(), timedelta(seconds=27), planned_steps=2000, saved=tmp_path / "x.json")
    assert 0.5 < (fake.now - begin) / 27 <= 1
    assert recipe.complete
    assert (recipe.study.momentum_trials is None) == (validation > 0)
    assert recipe.study.seconds_per_step == pytest.approx(
        0.01 + validation / 2, rel=0.1
    )  # a validation every second update
    assert Recipe.load(tmp_path / "x.json").complete
    assert json.loads((tmp_path / "x.json").read_text())["seconds_per_step"] == recipe.study.seconds_per_step


def test_little_time_is_for_the_small_grid(fake):
    begin = fake.now
    recipe = find_recipe(clouds(), timedelta(seconds=5))
    assert fake.now - begin <= 5
    assert set(recipe.study.weight_decay_trials.values) == set(SMALL_GRID)
    assert recipe.study.momentum_trials is None
    assert recipe.momentum == DEFAULT_MOMENTUM_CYCLE
    assert recipe.complete
    assert "for that takes 1000 steps, and" in recipe.evidence["momentum"]


def test_too_little_time_is_an_error_that_names_the_minimum_and_keeps_the_rate(fake, tmp_path):
    path = tmp_path / "x.json"
    message = (
        r"budget: got 2 s; an update takes about 10 ms here, .* about (4\.\d) s; less says nothing, so give more "
        r"\(what was found is in .*x\.json; the next call goes on from there\)"
    )
    with pytest.raises(ValueError, match=message) as caught:
        find_recipe(clouds(), timedelta(seconds=2), saved=path)
    found = Recipe.load(path)
    assert found.steps == RANGE_TEST_STEPS
    assert not found.complete
    begin = fake.now
    recipe = find_recipe(clouds(), timedelta(seconds=3.6), saved=path)  # the first range test needs no time now
    assert recipe.complete
    assert fake.now - begin <= 3.6
    assert recipe.steps <= RANGE_TEST_STEPS + 360
    needed = float(str(caught.value).partition("about 10 ms")[2].partition("about ")[2].split()[0])
    assert find_recipe(clouds(), timedelta(seconds=1.05 * needed)).complete
    with pytest.raises(ValueError, match="less says nothing"):
        find_recipe(clouds(), timedelta(seconds=0.9 * needed))


def test_a_search_for_steps_can_continue_for_a_time(fake, tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    real = _stages.find_weight_decay
    monkeypatch.setattr(_stages, "find_weight_decay", lambda **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find_recipe(clouds(), 464, saved=path)
    monkeypatch.setattr(_stages, "find_weight_decay", real)
    assert Recipe.load(path).study.seconds_per_step is None
    recipe = find_recipe(clouds(), timedelta(seconds=5), saved=path)
    assert recipe.complete
    assert recipe.study.seconds_per_step == pytest.approx(0.01, rel=0.1)


def test_steps_that_become_slow_end_the_search_early(fake, tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    real = _stages.find_weight_decay

    def slower(factor):
        def found(**options):
            fake.update = 0.01 * factor
            return real(**options)

        return found

    monkeypatch.setattr(_stages, "find_weight_decay", slower(100))
    begin = fake.now
    with pytest.raises(ValueError, match=r"budget: the time is up, .*sufficed for 0 of 3 weight decays\) \(what was"):
        find_recipe(clouds(), timedelta(seconds=5), saved=path)
    assert fake.now - begin <= 5 + 1.0 * 79  # exceeded by at most one trial of the small grid
    assert not Recipe.load(path).complete
    fake.update = 0.01
    monkeypatch.setattr(_stages, "find_weight_decay", slower(1.5))
    begin = fake.now
    recipe = find_recipe(clouds(), timedelta(seconds=5))
    assert fake.now - begin <= 5
    assert len(recipe.study.weight_decay_trials.values) == 2
    assert {len(runs) for runs in recipe.study.weight_decay_trials.histories} == {2}


def test_momenta_are_left_out_if_no_time_remains(fake, monkeypatch, tmp_path):
    real = _stages.find_momentum

    def slow(**options):
        fake.update = 1.0
        return real(**options)

    monkeypatch.setattr(_stages, "find_momentum", slow)
    recipe = find_recipe(clouds(), timedelta(seconds=27), planned_steps=2000, saved=tmp_path / "x.json")
    assert recipe.study.momentum_trials is None
    assert recipe.momentum == DEFAULT_MOMENTUM_CYCLE
    assert recipe.complete
    assert "not tested" in recipe.evidence["momentum"]
    assert Recipe.load(tmp_path / "x.json").complete


@pytest.mark.parametrize("slower", [1.0, 1.5])
def test_pairs_end_within_the_time(slower, fake, monkeypatch):
    real = _stages.find_pair

    def found(**options):
        fake.update = 0.01 * slower
        return real(**options)

    monkeypatch.setattr(_stages, "find_pair", found)
    begin = fake.now
    recipe = find_recipe(clouds(), timedelta(seconds=9), planned_steps=100)
    assert recipe.complete
    assert recipe.study.pair_trials.steps > 80
    assert 0.7 < (fake.now - begin) / 9 <= 1


def test_a_search_complete_with_pairs_needs_no_more_time(fake, tmp_path):
    path = tmp_path / "x.json"
    ended = find_recipe(clouds(), timedelta(seconds=9), planned_steps=100, saved=path)
    assert ended.study.pair_trials is not None
    again = find_recipe(clouds(), timedelta(seconds=1), planned_steps=100, saved=path)
    assert (again.steps, again.max_lr, again.weight_decay) == (ended.steps, ended.max_lr, ended.weight_decay)


def test_the_overhead_of_a_step_is_its_share_of_validation_and_loading(fake):
    fake.validation, fake.load = 0.06, 0.001
    task = clouds()
    task.train_loader = DataLoader(Slow(task.train_loader.dataset), 20)
    # One batch, validated every second step of 40; a batch has 20 samples, which the second repeat skips.
    assert _overhead_per_step(task, 40, StepOptions()) == pytest.approx(0.06 / 2 + 20 * 0.001 / 2)
    assert _overhead_per_step(task, 200, StepOptions(accumulate=3)) == pytest.approx(0.06 / 10 + 3 * 20 * 0.001 / 2)


@pytest.mark.parametrize("find", [find_weight_decay, find_momentum])
def test_searches_of_one_setting_end_within_max_seconds(find, fake):
    task = clouds()
    given = {"val_loader": task.val_loader, "max_lr": 0.1, "steps": 20, "repeats": 2}
    begin = fake.now
    found = find(task.model, task.loss_fn, task.train_loader, **given, max_seconds=1.1)  # 5 trials of 20 steps
    assert len(found.values) == 2
    assert fake.now - begin <= 1.1
    with pytest.raises(OutOfTimeError, match=r"max_seconds: 0\.5 sufficed for 1 of 4"):
        find(task.model, task.loss_fn, task.train_loader, **given, max_seconds=0.5)
    for wrong in (0, -1.0, float("nan"), "5", True):
        with pytest.raises(ValueError, match=r"max_seconds: got .*; give a number of seconds above 0, or None"):
            find(task.model, task.loss_fn, task.train_loader, **given, max_seconds=wrong)


def test_a_deadline_allows_a_run_only_if_it_would_end_before(fake):
    until = Deadline(10.0)
    fake.now += 9.0
    assert until.allows_another()  # the length of a run is unknown
    until = Deadline(10.0)
    answers = []
    for seconds in (3.0, 2.0, 2.0, 1.0, 1.0):
        answers.append(until.allows_another())
        fake.now += seconds
    assert answers == [True, True, True, True, False]  # 2 are left, and the longest took 3
    assert until.remaining == pytest.approx(1.0)
    assert until.elapsed == pytest.approx(9.0)


def test_the_speedup_of_ranks_is_the_number_of_their_turns():
    stages = ((6,), (8, 4), (8, 2))
    assert [speedup(n, stages) for n in (1, 2, 3, 4)] == [1, 2, 2.4, 3]


@pytest.mark.parametrize("budget", [timedelta(0), timedelta(seconds=-1)])
def test_a_time_of_zero_or_less_is_refused(budget):
    with pytest.raises(ValueError, match=r"budget: got .*; give a time above 0, as datetime\.timedelta"):
        find_recipe(clouds(), budget)
