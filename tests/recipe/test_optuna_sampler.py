"""Samplers of Optuna that place the pairs of a search."""

from dataclasses import replace

import optuna
import pytest

from clrfast import find_recipe
from clrfast.recipe import Study, TrialSpec
from clrfast.recipe._optuna_sampler import NoPairError, PairSampler, suggest_pair
from clrfast.recipe._pair_sampler import PairPoint
from clrfast.recipe._plan import due_trials, next_point
from clrfast.recipe._storage import TrialStore
from tests.helpers.problems import clouds
from tests.helpers.recipe_workers import losses, told
from tests.helpers.studies import decay_loss, make_settings, make_trial, result_of

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = ("sgd", "adamw")


def begun(*optimizers, budget=800):
    """A store whose search has ended its range tests and comes to the pairs."""
    store = TrialStore(None, "recipe")
    store.join(make_settings(budget, planned_steps=100, optimizers=optimizers))
    store.study.sampler = PairSampler(store)
    for spec in due_trials(store.read()[0]):
        with store.claim(spec) as claim:
            claim.finish(result_of(spec))
    return store


def place(store):
    """Claim and place the next pair; return the claim."""
    study, running = store.read()
    taken = {spec.key for spec in running}
    claim = store.claim(next(spec for spec in due_trials(study, running) if spec.key not in taken))
    claim.place(replace(claim.spec, **vars(suggest_pair(claim, store.study, study))))
    return claim


@pytest.mark.parametrize("optimizers", [("sgd",), ("adamw",), BOTH])
def test_the_own_sampler_places_what_next_point_says(optimizers):
    store = begun(*optimizers, budget=1600)
    for _ in range(6):
        wanted = next_point(*store.read())
        claim = place(store)
        placed = PairPoint(claim.spec.optimizer, claim.spec.max_lr, claim.spec.weight_decay, claim.spec.repeat)
        assert placed == wanted
        claim.finish(make_trial(claim.spec, decay_loss(1e-3)(claim.spec)).result)


def test_a_running_pair_is_not_placed_again():
    store = begun("sgd")
    claims = [place(store) for _ in range(4)]
    assert len({(claim.spec.max_lr, claim.spec.weight_decay) for claim in claims}) == 4
    study, running = store.read()
    assert [spec.max_lr for spec in running] == [claim.spec.max_lr for claim in claims]
    assert next_point(study, running[:1]) is not None


def test_the_parameters_are_shown_in_the_study():
    store = begun(*BOTH, budget=1600)
    claim = place(store)
    params = store.study.trials[claim.number].params
    assert params == {
        "optimizer": "sgd",
        "learning rate of sgd": claim.spec.max_lr,
        "weight decay of sgd": claim.spec.weight_decay,
    }
    alone = begun("adamw")
    claim = place(alone)
    assert alone.study.trials[claim.number].params == {
        "learning rate": claim.spec.max_lr,
        "weight decay": claim.spec.weight_decay,
    }


def test_without_an_expected_improvement_there_is_no_pair(monkeypatch):
    store = begun("sgd")
    monkeypatch.setattr("clrfast.recipe._optuna_sampler.next_point", lambda *given: None)
    with pytest.raises(NoPairError):
        place(store)


def test_other_parameters_are_refused():
    store = begun("sgd")
    with pytest.raises(ValueError, match="momentum: the search has no such parameter; give find_recipe a sampler of"):
        place(store)._store.study.ask().suggest_float("momentum", 0, 1)


@pytest.mark.parametrize("kind", [optuna.samplers.TPESampler, optuna.samplers.RandomSampler])
@pytest.mark.parametrize("optimizers", [("sgd",), BOTH], ids=["one", "both"])
def test_a_sampler_of_optuna_places_the_pairs_and_uses_the_budget(kind, optimizers, ran):
    options = {"planned_steps": 100, "optimizers": optimizers}
    recipe = find_recipe(clouds(), 800 * len(optimizers), sampler=kind(seed=0), **options)
    pairs = ran.of("pair")
    assert len(pairs) >= 8 * len(optimizers)
    assert len({(spec.max_lr, spec.weight_decay) for spec in pairs}) == len(pairs)
    assert recipe.complete
    assert recipe.study.settings.sampler == kind.__name__
    assert 800 * len(optimizers) - 86 < recipe.steps <= 800 * len(optimizers)
    assert {spec.optimizer for spec in pairs} == set(optimizers)
    best = min(
        (trial for trial in recipe.study.trials if trial.spec.stage == "pair"),
        key=lambda each: each.result.val_loss[-1],
    )
    assert recipe.optimizer_name == best.spec.optimizer
    again = find_recipe(clouds(), 800 * len(optimizers), sampler=kind(seed=0), **options)
    assert losses(again) == losses(recipe)


def test_a_sampler_sees_the_losses_of_the_pairs_alone():
    """Range tests and weight decays have no parameter that it chooses."""

    class Noting(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study, trial):
            seen.append([each.value for each in study.get_trials(states=[optuna.trial.TrialState.COMPLETE])])
            return super().infer_relative_search_space(study, trial)

    seen = []
    recipe = find_recipe(clouds(), 800, planned_steps=100, sampler=Noting(seed=0))
    pairs = [float(trial.result.val_loss[-1]) for trial in recipe.study.trials if trial.spec.stage == "pair"]
    assert seen[-1] == pairs[:-1]


def test_samplers_that_model_all_parameters_at_once_learn_from_the_pairs():
    """They look for the parameters that all trials have in common, and a range test has none."""

    class Noting(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study, trial):
            spaces.append(set(optuna.search_space.IntersectionSearchSpace().calculate(study)))
            return {}

    spaces = []
    find_recipe(clouds(), 800, planned_steps=100, sampler=Noting(seed=0))
    assert spaces[0] == set()
    assert spaces[-1] == {"learning rate", "weight decay"}


def test_a_sampler_that_stops_optuna_s_loop_costs_no_result():
    class Stopping(optuna.samplers.RandomSampler):
        def after_trial(self, study, trial, state, values):
            study.stop()

    recipe = find_recipe(clouds(), 800, planned_steps=100, sampler=Stopping(seed=0))
    assert len(recipe.study.pair_trials.loss) == 8


def test_a_sampler_is_not_used_where_there_are_no_pairs():
    recipe = find_recipe(clouds(), 464)
    other = find_recipe(clouds(), 464, sampler=optuna.samplers.RandomSampler(seed=0))
    assert told(other) == told(recipe)


def test_a_worker_with_another_sampler_is_refused(tmp_path):
    path = tmp_path / "study.log"
    find_recipe(clouds(), 464, storage=path, sampler=optuna.samplers.RandomSampler(seed=0))
    with pytest.raises(ValueError, match="with sampler RandomSampler, and this call has sampler None"):
        find_recipe(clouds(), 464, storage=path)


def test_a_study_is_not_changed_by_reading_what_is_due():
    store = begun("sgd")
    study, _ = store.read()
    assert isinstance(study, Study)
    assert [spec.key for spec in due_trials(study)] == [f"pair/{i}" for i in range(8)]
    assert TrialSpec("pair/0", "pair", "sgd", 86, momentum=(0.95, 0.85), batch_size=20) in due_trials(study)
