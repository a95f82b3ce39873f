"""Budgets of time, with a fake clock that only work advances."""

from datetime import timedelta

import pytest

import clrfast
from clrfast import Recipe, find_recipe
from clrfast.finder._validation import Validation
from clrfast.recipe import _find_recipe, _storage, _trial_runner
from clrfast.recipe._setting_trials import DEFAULT_MOMENTUM_CYCLE, SMALL_GRID
from clrfast.recipe._study import RANGE_TEST_STEPS
from clrfast.recipe._trial_runner import TrialRunner
from tests.helpers.problems import clouds

pytestmark = pytest.mark.usefixtures("one_thread")

MOMENTA = {"budget": timedelta(seconds=27), "planned_steps": 2000}
PAIRS = {"budget": timedelta(seconds=9), "planned_steps": 100}


class Clock:
    """A clock, and the seconds that an update and a validation take. It stands in for the module ``time``."""

    def __init__(self, monkeypatch):
        self.now, self.update, self.validation = 1000.0, 0.01, 0.0
        for module in (_find_recipe, _storage, _trial_runner):
            monkeypatch.setattr(module, "time", self)
        self._goes_on(monkeypatch, clrfast.SGD, "step", "update")
        self._goes_on(monkeypatch, Validation, "total", "validation")  # every validation calls it

    def time(self):
        return self.now

    perf_counter = monotonic = time

    def sleep(self, seconds):
        self.now += seconds

    def _goes_on(self, monkeypatch, owner, name, what):
        real = getattr(owner, name)

        def spent(*args, **options):
            self.now += getattr(self, what)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, spent)


@pytest.fixture
def fake(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def slow_down(fake, monkeypatch):
    """A function that makes updates slower by a factor from the first trial of a stage on."""
    real = TrialRunner.run

    def from_stage(stage, factor):
        def run(self, specs, progress):
            if specs[0].stage == stage and specs[0].steps != 40:
                fake.update = 0.01 * factor
            return real(self, specs, progress)

        monkeypatch.setattr(TrialRunner, "run", run)

    return from_stage


@pytest.mark.parametrize("validation", [0.0, 0.05])
def test_a_search_uses_its_time_and_ends_within_it(validation, fake, tmp_path):
    fake.validation = validation
    begin = fake.now
    recipe = find_recipe(clouds(), **MOMENTA)
    assert 0.5 < (fake.now - begin) / 27 <= 1
    assert recipe.complete
    assert (recipe.study.momentum_trials is None) == (validation > 0)
    first, *others = recipe.study.trials
    # A validation every second update.
    assert first.seconds_per_step == pytest.approx(0.01 + validation / 2, rel=0.1)
    assert all(trial.seconds_per_step is not None for trial in others if trial.spec.stage != "range test")
    recipe.save(tmp_path / "x.json")
    loaded = Recipe.load(tmp_path / "x.json")
    assert loaded.complete
    assert loaded.study.budget == recipe.study.budget >= recipe.steps


def test_little_time_is_for_the_small_grid(fake):
    begin = fake.now
    recipe = find_recipe(clouds(), timedelta(seconds=6))
    assert fake.now - begin <= 6
    assert set(recipe.study.weight_decay_trials.values) == set(SMALL_GRID)
    assert recipe.study.momentum_trials is None
    assert recipe.momentum == DEFAULT_MOMENTUM_CYCLE
    assert recipe.complete
    assert "that takes 1000 steps, and" in recipe.evidence["momentum"]


def test_too_little_time_is_an_error_that_names_the_minimum_and_keeps_the_rate(fake, tmp_path):
    path = tmp_path / "study.log"
    message = r"budget: got 2 s; a step takes about 10 ms here, .* take about (4\.\d) s; .*, with another study_name"
    with pytest.raises(ValueError, match=message) as caught:
        find_recipe(clouds(), timedelta(seconds=2), storage=path)
    found = Recipe.from_storage(path)
    assert found.steps == RANGE_TEST_STEPS
    assert not found.complete
    with pytest.raises(ValueError, match=message):  # a later call says the same
        find_recipe(clouds(), timedelta(seconds=2), storage=path)
    needed = float(str(caught.value).partition("about 10 ms")[2].partition("about ")[2].split()[0])
    more = timedelta(seconds=1.05 * needed)
    with pytest.raises(ValueError, match=r"begun with budget 2 s, and this call has budget"):
        find_recipe(clouds(), more, storage=path)
    assert find_recipe(clouds(), more, storage=path, study_name="more").complete
    with pytest.raises(ValueError, match="shorter trials show nothing"):
        find_recipe(clouds(), timedelta(seconds=0.9 * needed))


def test_steps_that_become_slow_end_the_search_early(fake, slow_down):
    slow_down("weight decay", 3)
    begin = fake.now
    recipe = find_recipe(clouds(), timedelta(seconds=6))
    assert fake.now - begin <= 6
    n = len([trial for trial in recipe.study.trials if trial.spec.stage == "weight decay"])
    assert 0 < n < 6
    assert recipe.complete
    assert recipe.weight_decay in (*SMALL_GRID, 1e-4)


def test_a_trial_that_becomes_slow_exceeds_the_time_by_itself_alone(fake, slow_down):
    slow_down("weight decay", 100)
    begin = fake.now
    recipe = find_recipe(clouds(), timedelta(seconds=6))
    (_, trial) = recipe.study.trials
    assert fake.now - begin <= 6 + 1.0 * (trial.spec.steps + 1)
    assert recipe.complete
    assert recipe.weight_decay == 1e-4
    assert "not tested" in recipe.evidence["weight decay"]


def test_momenta_are_left_out_if_no_time_remains(fake, slow_down):
    slow_down("momentum", 1000)
    recipe = find_recipe(clouds(), **MOMENTA)
    assert recipe.study.momentum_trials is None
    assert recipe.momentum == DEFAULT_MOMENTUM_CYCLE
    assert recipe.complete
    assert "not tested" in recipe.evidence["momentum"]


@pytest.mark.parametrize("slower", [1.0, 1.5])
def test_pairs_end_within_the_time(slower, fake, slow_down):
    slow_down("pair", slower)
    begin = fake.now
    recipe = find_recipe(clouds(), **PAIRS)
    assert recipe.complete
    assert recipe.study.pair_trials.steps > 70
    assert 0.7 < (fake.now - begin) / 9 <= 1


def test_a_complete_search_needs_no_more_time(fake, tmp_path, ran):
    path = tmp_path / "study.log"
    ended = find_recipe(clouds(), **PAIRS, storage=path)
    assert ended.study.pair_trials is not None
    fake.now += 1e6
    n = len(ran)
    again = find_recipe(clouds(), **PAIRS, storage=path)
    assert (again.steps, again.max_lr, again.weight_decay) == (ended.steps, ended.max_lr, ended.weight_decay)
    assert len(ran) == n


def test_an_interrupted_search_whose_time_is_up_gets_the_same_time_again(fake, tmp_path):
    path = tmp_path / "study.log"

    def interrupt(done, total, shown):
        if done > 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_recipe(clouds(), **PAIRS, storage=path, progress=interrupt)
    fake.now += 1e6
    begin = fake.now
    recipe = find_recipe(clouds(), **PAIRS, storage=path)
    assert recipe.complete
    assert fake.now - begin <= 9
    assert recipe.study.settings.deadline == pytest.approx(begin + 9)
    assert len(recipe.study.pair_trials.histories) >= 8


def test_the_time_of_two_workers_counts_twice(fake, tmp_path, monkeypatch):
    """A worker that has joined before the first range test ends doubles the steps that are planned."""
    path = tmp_path / "study.log"
    alone = find_recipe(clouds(), **MOMENTA).study
    real = TrialRunner.seconds_per_step

    def joined_by_another(self, spec):
        store = _storage.TrialStore(path, "recipe")
        store.load()
        store.study.set_user_attr("worker there:2", "now")
        return real(self, spec)

    monkeypatch.setattr(TrialRunner, "seconds_per_step", joined_by_another)
    both = find_recipe(clouds(), **MOMENTA, storage=path).study
    assert both.trials[0].n_workers == 2
    assert both.budget - RANGE_TEST_STEPS == pytest.approx(2 * (alone.budget - RANGE_TEST_STEPS), abs=2)


@pytest.mark.parametrize("budget", [timedelta(0), timedelta(seconds=-1)])
def test_a_time_of_zero_or_less_is_refused(budget):
    with pytest.raises(ValueError, match=r"budget: got .*; give a time above 0, as datetime\.timedelta"):
        find_recipe(clouds(), budget)
