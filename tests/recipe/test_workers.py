"""Several workers of one search: processes that come and go, and all that they must have in common."""

import contextlib
import random
import subprocess
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from clrfast import Recipe, find_recipe
from clrfast.recipe._plan import MIN_BUDGET
from tests.helpers.problems import clouds
from tests.helpers.recipe_workers import completed_keys, losses, read_study, require_end, start_worker, told
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")

MOMENTA = {"budget": 2600, "planned_steps": 2000}
"""A search with a refinement and momenta, of 21 trials."""

PAIRS = {"budget": 800, "planned_steps": 100}
"""A search with 8 pairs."""


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "study.log"


@pytest.fixture(scope="module")
def undisturbed():
    """The recipe of the smallest budget by one worker."""
    return find_recipe(clouds(), MIN_BUDGET)


# ---------------------------------------------------------------------------------------------------------- processes


def test_two_workers_make_each_trial_once_and_return_equal_recipes(journal, tmp_path, undisturbed):
    outs = [tmp_path / f"{i}.json" for i in range(2)]
    workers = [start_worker(journal, out, budget=MIN_BUDGET) for out in outs]
    for worker in workers:
        require_end(worker)
    assert sorted(completed_keys(journal)) == sorted(trial.spec.key for trial in undisturbed.study.trials)
    first, second = map(Recipe.load, outs)
    assert outs[0].read_text() == outs[1].read_text()
    assert told(first) == told(second) == told(undisturbed)
    assert losses(first) == losses(undisturbed)
    assert first.complete


@pytest.mark.parametrize("n_kills", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_workers_killed_at_random_and_restarted_find_what_an_undisturbed_one_does(
    n_kills, journal, tmp_path, undisturbed
):
    """Each kill is a real SIGKILL at a random moment: during a trial, a claim, or a record of the journal."""
    draw, workers, n_started = random.Random(n_kills), [], 0
    for _ in range(n_kills):
        while len(workers) < 3:
            n_started += 1
            given = {"lease": 2.0, "seconds_per_loss": 0.02, "budget": MIN_BUDGET}
            workers.append(start_worker(journal, tmp_path / f"{n_started}.json", **given))
        victim = workers.pop(draw.randrange(3))
        assert victim.stdout.readline() == "begun\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(draw.uniform(0.0, 2.0))
        victim.kill()
        victim.communicate()
    for worker in workers:
        require_end(worker)
    assert sorted(completed_keys(journal)) == sorted(trial.spec.key for trial in undisturbed.study.trials)
    assert losses(read_study(journal)) == losses(undisturbed)
    assert told(Recipe.from_storage(journal)) == told(undisturbed)


@pytest.mark.slow
def test_workers_share_pairs_without_trying_one_twice(journal, tmp_path):
    workers = [start_worker(journal, tmp_path / f"{i}.json", **PAIRS) for i in range(3)]
    for worker in workers:
        require_end(worker)
    study = read_study(journal)
    pairs = [(trial.spec.max_lr, trial.spec.weight_decay) for trial in study.trials if trial.spec.stage == "pair"]
    assert len(set(pairs)) == len(pairs) == 8
    assert sorted(completed_keys(journal)) == sorted(["range test/sgd", *(f"pair/{i}" for i in range(8))])
    assert len({(tmp_path / f"{i}.json").read_text() for i in range(3)}) == 1


# ------------------------------------------------------------------------------------------------------------- threads


def test_a_worker_that_waits_for_another_one_returns_its_recipe(journal, undisturbed):
    """The second worker joins when the first has begun the first trial, which holds up all others."""
    begun, joined, found = threading.Event(), threading.Event(), []

    def hold(done, total, shown):
        begun.set()
        joined.wait(60)

    def work():
        found.append(find_recipe(clouds(), MIN_BUDGET, storage=journal, progress=hold))

    first = threading.Thread(target=work)
    first.start()
    begun.wait(60)
    threading.Timer(0.5, joined.set).start()
    recipe = find_recipe(clouds(), MIN_BUDGET, storage=journal)
    first.join()
    assert sorted(completed_keys(journal)) == sorted(trial.spec.key for trial in undisturbed.study.trials)
    assert told(recipe) == told(found[0]) == told(undisturbed)


# --------------------------------------------------------------------------------------------- one worker, or continued


@pytest.mark.parametrize(
    "options", [PAIRS, {"budget": 1000, "optimizers": ("sgd", "adamw")}], ids=["pairs", "both optimizers"]
)
def test_one_worker_finds_the_same_recipe_twice_bit_for_bit(options, journal):
    first, again = find_recipe(clouds(), **options), find_recipe(clouds(), **options)
    assert losses(first) == losses(again)
    assert told(first) == told(again)
    kept = find_recipe(clouds(), **options, storage=journal)  # the kind of storage changes nothing either
    assert losses(kept) == losses(read_study(journal)) == losses(first)
    assert told(kept) == told(Recipe.from_storage(journal)) == told(first)


def test_the_results_depend_on_the_random_numbers_at_the_start_alone():
    torch.manual_seed(1)
    first = find_recipe(clouds(), MIN_BUDGET)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    again = find_recipe(clouds(), MIN_BUDGET)
    assert losses(first) == losses(again)  # clouds() seeds torch


@pytest.mark.parametrize(
    ("options", "limits"),
    [({"budget": MIN_BUDGET}, (50, 200, 330)), (MOMENTA, (50, 700, 2000)), (PAIRS, (50, 300, 700))],
    ids=["short", "momenta", "pairs"],
)
def test_an_interrupted_search_continues_and_equals_the_undisturbed_one_bit_for_bit(options, limits, journal, ran):
    whole = find_recipe(clouds(), **options)
    del ran[:]
    for limit in limits:

        def interrupt(done, total, shown, limit=limit):
            if done > limit:
                raise KeyboardInterrupt

        task = clouds()
        shown = torch.optim.SGD(task.model.parameters(), lr=0.1)
        before = full_state(task.model, shown)
        with pytest.raises(KeyboardInterrupt):
            find_recipe(task, **options, storage=journal, progress=interrupt)
        assert full_state(task.model, shown) == before
    begun = len(ran)
    found = Recipe.from_storage(journal)
    assert not found.complete
    assert any("the search has not ended" in warning for warning in found.warnings)
    assert found.steps <= limits[-1]
    resumed = find_recipe(clouds(), **options, storage=journal)
    assert len(ran) == len(whole.study.trials) + len(limits)  # only the interrupted trials came twice
    assert len(ran) - begun == len(whole.study.trials) - len(found.study.trials)
    assert losses(resumed) == losses(whole)
    assert told(resumed) == told(whole)
    keys = completed_keys(journal)
    assert len(set(keys)) == len(keys)


def test_a_finished_search_makes_no_more_trials(journal, ran):
    first = find_recipe(clouds(), MIN_BUDGET, storage=journal)
    n = len(ran)
    again = find_recipe(clouds(), MIN_BUDGET, storage=journal)
    assert len(ran) == n
    assert told(again) == told(first)
    find_recipe(clouds(), MIN_BUDGET, storage=journal, study_name="other")
    assert len(ran) == 2 * n


def test_an_error_of_the_task_gives_the_trial_back(journal, ran):
    task, broken = clouds(), [True]
    real = task.loss_fn

    def breaks(outputs, targets):
        if broken and len(ran) == 3:
            raise OSError("no such disk")
        return real(outputs, targets)

    task.loss_fn = breaks
    with pytest.raises(OSError, match="no such disk"):
        find_recipe(task, MIN_BUDGET, storage=journal)
    assert len(completed_keys(journal)) == 2
    broken.clear()
    assert find_recipe(task, MIN_BUDGET, storage=journal).complete


def test_progress_goes_on_from_the_trials_that_have_finished(journal):
    def interrupt(done, total, shown):
        if done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_recipe(clouds(), MIN_BUDGET, storage=journal, progress=interrupt)
    shown = []
    find_recipe(clouds(), MIN_BUDGET, storage=journal, progress=lambda *args: shown.append(args[:2]))
    assert shown[0][0] >= Recipe.from_storage(journal).study.trials[0].steps
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert {total for _, total in shown} == {MIN_BUDGET}


# ------------------------------------------------------------------------------------------ what workers have in common


def other_weights(task):
    task.model[0].weight.data[0, 0] += 1e-6


def other_training_data(task):
    task.train_loader.dataset.tensors[0].add_(1e-3)


def other_loss(task):
    task.loss_fn = torch.nn.functional.cross_entropy


def other_validation_data(task):
    task.val_loader = list(clouds(seed=1).val_loader)


def other_model(task):
    task.model = torch.nn.Linear(6, 2)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The journal of a search that has begun."""
    path = tmp_path_factory.mktemp("begun") / "study.log"
    find_recipe(clouds(), MIN_BUDGET, storage=path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"budget": 465},
            "with budget 464 steps, and this call has budget 465 steps; give the same, or another study_name",
        ),
        ({"planned_steps": 5000}, "with planned_steps 10000, and this call has planned_steps 5000"),
        ({"optimizers": "adamw"}, "with optimizers sgd, and this call has optimizers adamw"),
        ({"batch_sizes": True}, "with batch_sizes False, and this call has batch_sizes True"),
        ({"clip_norm": 1.0}, "with another set of options, so trials could not be compared"),
    ],
)
def test_a_worker_with_other_arguments_is_refused(options, message, begun, ran):
    with pytest.raises(ValueError, match=f"study_name: its search was begun {message}"):
        find_recipe(clouds(), **{"budget": MIN_BUDGET, "storage": begun, **options})
    assert ran == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_weights, "another model, so trials could not be compared; make the task with the same seed in every"),
        (other_training_data, "another training data, so trials"),
        (other_validation_data, "another validation data, so trials"),
        (other_loss, "another loss, so trials"),
        (other_model, "model Sequential, 146 elements in 4 tensors, and this call has model Linear, 14 elements in 2"),
    ],
)
def test_a_worker_with_another_model_or_other_data_is_refused(change, message, begun, ran):
    task = clouds()
    change(task)
    with pytest.raises(ValueError, match=f"study_name: its search was begun with {message}"):
        find_recipe(task, MIN_BUDGET, storage=begun)
    assert ran == []


def test_a_worker_with_another_batch_size_is_refused(begun):
    with pytest.raises(
        ValueError, match="was begun with loader's batch size 20, and this call has loader's batch size 10"
    ):
        find_recipe(clouds(batch_size=10), MIN_BUDGET, storage=begun)


def test_all_that_differs_is_named(begun):
    task = clouds()
    other_weights(task)
    other_training_data(task)
    with pytest.raises(ValueError, match="with another model, another training data, so"):
        find_recipe(task, MIN_BUDGET, storage=begun)


def test_the_random_numbers_of_the_worker_that_begins_are_those_of_all(begun, undisturbed):
    task = clouds()
    torch.manual_seed(99)
    assert told(find_recipe(task, MIN_BUDGET, storage=begun)) == told(undisturbed)


def test_the_order_of_batches_is_part_of_the_data_also_without_a_generator(journal):
    """A loader without a generator draws its order from torch's, which the search seeds."""

    def task():
        found = clouds()
        loader = torch.utils.data.DataLoader(found.train_loader.dataset, 20, shuffle=True)
        return replace(found, train_loader=loader)

    first = task()
    torch.manual_seed(1)
    found = find_recipe(first, MIN_BUDGET, storage=journal)
    second = task()
    torch.manual_seed(2)
    assert told(find_recipe(second, MIN_BUDGET, storage=journal)) == told(found)
