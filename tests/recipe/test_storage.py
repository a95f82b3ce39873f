"""The trials of a search in an Optuna study: claims, leases, the journal's lock and storages."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pytest

from clrfast import Recipe, find_recipe
from clrfast.recipe import TrialSpec
from clrfast.recipe import _storage as storage
from clrfast.recipe._plan import due_trials
from clrfast.recipe._storage import JournalLock, TrialStore, open_storage
from tests.helpers.problems import clouds
from tests.helpers.ranks import ROOT
from tests.helpers.studies import make_curve, make_settings, make_study, make_trial

needs_lock = pytest.mark.skipif(storage.fcntl is None, reason="Windows has Optuna's own locks")

TEST = TrialSpec("range test/sgd", "range test", "sgd", 112)
TRAINING = TrialSpec("weight decay/sgd/0/0", "weight decay", "sgd", 40, 0.1, 0.0, (0.95, 0.85), batch_size=20)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.log"


def joined(path, settings=None, name="recipe"):
    store = TrialStore(path, name)
    store.join(make_settings() if settings is None else settings)
    return store


@pytest.fixture
def two(path):
    """Two stores on one journal, as two workers hold them."""
    first, second = joined(path), joined(path)
    first.worker, second.worker = "here:1", "there:2"
    return first, second


def states(store):
    return [trial.state.name for trial in store.study.get_trials()]


def keys(store):
    study, running = store.read()
    return [trial.spec.key for trial in study.trials], [spec.key for spec in running]


# ------------------------------------------------------------------------------------------------------------- claims


def test_of_two_claims_of_a_key_the_lower_number_wins(two):
    first, second = two
    with first.claim(TEST) as claim:
        assert claim.number == 0
        assert second.claim(TEST) is None
        assert states(second) == ["RUNNING", "FAIL"]
        with second.claim(TRAINING) as other:  # another key
            assert other.number == 2
            assert keys(first) == ([], [TEST.key, TRAINING.key])


def test_claims_at_the_same_moment_have_one_owner(two, monkeypatch):
    """Both trials exist before either worker looks."""
    first, second = two
    found, real = [], TrialStore._owners

    def looks_late(store):
        if store is first and not found:
            found.append(second.claim(TEST))
        return real(store)

    monkeypatch.setattr(TrialStore, "_owners", looks_late)
    claim = first.claim(TEST)
    assert (claim.number, found) == (0, [None])


def test_a_key_that_has_finished_is_not_claimed_again(two):
    first, second = two
    with first.claim(TEST) as claim:
        claim.finish(make_curve())
    assert second.claim(TEST) is None
    assert keys(second) == ([TEST.key], [])


def test_a_finished_trial_reads_as_it_was_written(two):
    first, second = two
    given = make_trial(TRAINING, 1.5).result
    with first.claim(TEST) as claim:
        claim.finish(make_curve())
    with first.claim(TRAINING) as claim:
        own = claim.finish(given, 0.25)
    test, trial = second.read()[0].trials
    assert (test.result.lr == make_curve().lr).all()
    assert trial.spec == own.spec == TRAINING
    for name in ("train_loss", "val_loss", "val_steps", "lr"):
        assert getattr(trial.result, name).tolist() == list(getattr(given, name))
    assert (trial.number, trial.worker, trial.seconds_per_step, trial.n_workers) == (1, "here:1", 0.25, 1)
    assert trial.started <= trial.finished
    frozen = second.study.trials[1]
    assert frozen.value == 1.5
    assert frozen.params == {"weight decay": 0.0}
    assert frozen.intermediate_values == {0: 9.0, 40: 1.5}


@pytest.mark.parametrize("loss", [float("inf"), float("nan")])
def test_a_training_that_fails_is_a_finished_trial(loss, two):
    first, second = two
    with first.claim(TRAINING) as claim:
        claim.finish(make_trial(TRAINING, loss).result)
    (trial,) = second.read()[0].trials
    assert trial.steps == 4
    assert repr(float(trial.result.val_loss[-1])) == repr(loss)
    assert second.study.trials[0].value == float("inf")


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_gives_the_key_back_at_once(kind, two):
    first, second = two
    with pytest.raises(kind), first.claim(TEST):
        raise kind
    assert keys(second) == ([], [])
    with second.claim(TEST) as claim:
        assert claim.number == 1
        claim.finish(make_curve())
    assert states(first) == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_an_exception_during_a_claim_gives_the_key_back_too(kind, two, monkeypatch):
    first, second = two

    def breaks(store):
        raise kind

    with monkeypatch.context() as patched:
        patched.setattr(TrialStore, "_owners", breaks)
        with pytest.raises(kind):
            first.claim(TEST)
    assert keys(second) == ([], [])
    with second.claim(TEST) as claim:
        assert claim.number == 1


def test_trials_of_another_program_are_ignored(two):
    first, second = two
    first.study.add_trial(optuna.trial.create_trial(value=1.0))
    first.study.ask()
    assert keys(second) == ([], [])
    with second.claim(TEST) as claim:
        assert claim.number == 2


# ------------------------------------------------------------------------------------------------------------- leases


def expire(store, claim):
    """Let a running claim look as if its worker had been killed long ago."""
    store._storage.set_trial_user_attr(claim.trial_id, "lease", time.time() - 2 * storage.LEASE_SECONDS)


def test_a_trial_whose_lease_has_expired_is_failed_and_its_key_is_free_again(two):
    first, second = two
    lost = first.claim(TEST)
    assert second.claim(TEST) is None
    expire(first, lost)
    assert keys(second) == ([], [])
    assert states(second) == ["FAIL", "FAIL"]
    with second.claim(TEST) as claim:
        assert claim.number == 2


@pytest.mark.parametrize("finished", [False, True])
def test_a_result_that_comes_too_late_is_refused_with_a_warning(finished, two, caplog):
    first, second = two
    lost = first.claim(TEST)
    expire(first, lost)
    with second.claim(TEST) as claim:
        if finished:
            claim.finish(make_curve())
        with caplog.at_level(logging.WARNING, "clrfast.recipe"):
            assert lost.finish(make_curve(factor=2.0)) is None
        assert "trial 0: its result comes too late, for another worker took it over" in caplog.text
        if not finished:
            claim.finish(make_curve())
    (trial,) = first.read()[0].trials
    assert (trial.number, trial.worker) == (1, "there:2")
    assert trial.result.lr[0] == make_curve().lr[0]


def test_a_late_result_counts_if_nobody_has_taken_the_trial_over(two):
    first, second = two
    claim = first.claim(TEST)
    expire(first, claim)
    assert claim.finish(make_curve()) is not None
    assert keys(second) == ([TEST.key], [])


def test_a_lease_is_renewed_while_its_trial_runs(two, monkeypatch):
    first, second = two
    monkeypatch.setattr(storage, "LEASE_SECONDS", 0.06)
    with first.claim(TEST) as claim:
        begun = second.study.trials[0].user_attrs["lease"]
        while second.study.trials[0].user_attrs["lease"] == begun:
            time.sleep(0.01)
        claim.finish(make_curve())
    assert not claim._renewal.is_alive()


def test_a_claim_that_another_worker_has_taken_over_stops_its_renewals(two, monkeypatch):
    first, second = two
    monkeypatch.setattr(storage, "LEASE_SECONDS", 0.06)
    with first.claim(TEST) as claim:
        second._end(claim.trial_id, optuna.trial.TrialState.FAIL)
        claim._renewal.join(30)
        assert not claim._renewal.is_alive()


def test_a_storage_that_is_gone_for_a_while_ends_no_trial(two, monkeypatch, caplog):
    first, _ = two
    monkeypatch.setattr(storage, "LEASE_SECONDS", 0.06)
    real, failures = first._storage.set_trial_user_attr, []

    def breaks(trial_id, name, value):
        if len(failures) < 3:
            failures.append(OSError("no such disk"))
            raise failures[-1]
        real(trial_id, name, value)

    with caplog.at_level(logging.WARNING, "clrfast.recipe"), first.claim(TEST) as claim:
        monkeypatch.setattr(first._storage, "set_trial_user_attr", breaks)
        while len(failures) < 3:
            time.sleep(0.01)
        monkeypatch.undo()
        assert claim.finish(make_curve()) is not None
    assert "trial 0: its lease could not be renewed: no such disk" in caplog.text


@pytest.mark.parametrize("n_failures", [1, 3, 4])
@pytest.mark.parametrize("name", ["set_trial_state_values", "set_trial_user_attr", "set_trial_intermediate_value"])
def test_a_result_is_written_again_while_the_storage_fails(name, n_failures, two, monkeypatch, caplog):
    first, second = two
    monkeypatch.setattr(storage, "FINISH_PAUSES", (0.0, 0.0, 0.0))
    real, failures = getattr(first._storage, name), []

    def breaks(*arguments):
        if len(failures) < n_failures:
            failures.append(OSError("no such disk"))
            raise failures[-1]
        return real(*arguments)

    caplog.set_level(logging.WARNING, "clrfast.recipe")
    with contextlib.suppress(OSError), first.claim(TRAINING) as claim:
        monkeypatch.setattr(first._storage, name, breaks)
        claim.finish(make_trial(TRAINING, 1.5).result)
    assert caplog.text.count("trial 0: its result is written again in 0 s: no such disk") == min(n_failures, 3)
    assert keys(second) == (([TRAINING.key], []) if n_failures < 4 else ([], []))


def test_a_result_whose_confirmation_is_lost_counts(two, monkeypatch, caplog):
    first, _ = two
    monkeypatch.setattr(storage, "FINISH_PAUSES", (0.0,))
    real = first._storage.set_trial_state_values

    def breaks(*arguments):
        real(*arguments)
        raise OSError("no answer")

    caplog.set_level(logging.WARNING, "clrfast.recipe")
    with first.claim(TRAINING) as claim, monkeypatch.context() as broken:
        broken.setattr(first._storage, "set_trial_state_values", breaks)
        assert claim.finish(make_trial(TRAINING, 1.5).result) is not None
    assert "comes too late" not in caplog.text


def test_a_trial_in_memory_has_no_lease():
    store = joined(None)
    claim = store.claim(TEST)
    expire(store, claim)
    assert keys(store) == ([], [TEST.key])
    with claim:
        assert not claim._renewal.is_alive()


# --------------------------------------------------------------------------------------------------------------- pairs


def test_a_pair_is_placed_after_its_claim(two):
    first, second = two
    specs = due_trials(make_study(make_settings(800, planned_steps=100), [TEST], None))
    with first.claim(specs[0]) as claim, second.claim(specs[1]) as later:
        assert claim.earlier_pairs_are_placed()
        assert not later.earlier_pairs_are_placed()
        claim.place(replace(specs[0], max_lr=0.5, weight_decay=0.01, optimizer="adamw", repeat=1))
        assert later.earlier_pairs_are_placed()
        _, running = second.read()
        assert running == [claim.spec, specs[1]]
        assert (running[0].max_lr, running[0].weight_decay) == (0.5, 0.01)
        claim.finish(make_trial(claim.spec).result)
    (trial,) = second.read()[0].trials
    assert trial.spec == claim.spec


# --------------------------------------------------------------------------------------------------- joining a study


def test_a_worker_gets_the_settings_of_the_one_that_created_the_study(path):
    first = joined(path, make_settings(1000, seed=3, digests={"model": "a"}))
    second = TrialStore(path, "recipe")
    assert (
        second.join(make_settings(2000, seed=4))
        == first.settings
        == make_settings(1000, seed=3, digests={"model": "a"})
    )
    assert (first.ordinal, second.ordinal) == (0, 1)


def test_studies_of_other_names_are_other_searches(path):
    first, other = joined(path), joined(path, make_settings(2000), "other")
    assert (first.settings.budget, other.settings.budget) == (464, 2000)
    with first.claim(TEST), other.claim(TEST):
        assert keys(first) == keys(other) == ([], [TEST.key])


def test_a_deadline_can_be_replaced(two):
    first, second = two
    first.set_deadline(5.0)
    assert second.settings == make_settings(deadline=5.0)


def test_a_study_without_our_settings_is_refused(path, monkeypatch):
    monkeypatch.setattr(storage, "SETTINGS_SECONDS", 0.1)
    optuna.create_study(storage=open_storage(path), study_name="recipe")
    message = "study_name: the study 'recipe' holds no search of clrfast; give another name"
    with pytest.raises(ValueError, match=message):
        find_recipe(clouds(), 464, storage=path)
    with pytest.raises(ValueError, match=message):
        Recipe.from_storage(path)
    assert optuna.load_study(storage=open_storage(path), study_name="recipe").user_attrs == {}


def test_settings_may_come_a_moment_after_the_study(path, monkeypatch):
    """As those of a worker that has just created it."""
    study = optuna.create_study(storage=open_storage(path), study_name="recipe")
    store = TrialStore(path, "recipe")
    made = joined(path, name="other").study.user_attrs["clrfast"]
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: study.set_user_attr("clrfast", made))
    assert store.join(make_settings(9999)) == make_settings()


def test_a_storage_without_the_study_is_refused(path):
    joined(path)
    with pytest.raises(ValueError, match="study_name: the storage has no study 'other'"):
        Recipe.from_storage(path, "other")


def test_joining_prints_nothing(path, capfd):
    level = optuna.logging.get_verbosity()
    joined(path)
    joined(path)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == level


# ------------------------------------------------------------------------------------------------------------ storages


@pytest.mark.parametrize("kind", ["memory", "sqlite", "object", "journal of Optuna"])
def test_a_search_runs_in_any_storage_of_optuna(kind, tmp_path):
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    given = {
        "memory": lambda: None,
        "sqlite": lambda: f"sqlite:///{tmp_path}/study.db",
        "object": lambda: optuna.storages.InMemoryStorage(),
        "journal of Optuna": lambda: JournalStorage(JournalFileBackend(str(tmp_path / "own.log"))),
    }[kind]()
    store = joined(given)
    with store.claim(TEST) as claim:
        assert store.claim(TEST) is None
        claim.finish(make_curve())
    assert keys(store) == ([TEST.key], [])
    if given is not None:
        again = joined(given)
        assert keys(again) == ([TEST.key], [])


@pytest.mark.parametrize("given", ["", "missing/x.log", "."])
def test_a_path_that_no_file_can_have_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"storage: got '{given}'; give the path of a file in an existing folder"):
        open_storage(given)
    assert list(tmp_path.iterdir()) == []


def test_another_object_is_no_storage():
    with pytest.raises(
        ValueError, match="storage: got int; give the path of a journal file, the URL of a database, or"
    ):
        open_storage(3)


def test_without_optuna_the_search_says_what_to_install(monkeypatch, path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for call in (lambda: find_recipe(clouds(), 464), lambda: Recipe.from_storage(path)):
        with pytest.raises(
            ModuleNotFoundError, match=r"^find_recipe needs Optuna; install it with: pip install optuna$"
        ):
            call()


# --------------------------------------------------------------------------------------------------- the journal's lock

HOLDER = """
import sys, time
from clrfast.recipe._storage import JournalLock
lock = JournalLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(path):
    """A process that holds the lock of the journal until it is killed."""
    path.write_bytes(b"")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], env=environment, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@needs_lock
def test_the_lock_excludes_other_processes_and_is_freed_when_its_holder_is_killed(holder, path):
    with open(path, "rb") as file, pytest.raises(BlockingIOError):
        storage.fcntl.flock(file, storage.fcntl.LOCK_EX | storage.fcntl.LOCK_NB)
    os.kill(holder.pid, signal.SIGKILL)
    lock = JournalLock(str(path))
    assert lock.acquire()
    lock.release()


@needs_lock
def test_a_lock_excludes_another_one_until_it_is_released(path):
    path.write_bytes(b"")
    lock = JournalLock(str(path))
    lock.acquire()
    with open(path, "rb") as file:
        with pytest.raises(BlockingIOError):
            storage.fcntl.flock(file, storage.fcntl.LOCK_EX | storage.fcntl.LOCK_NB)
        lock.release()
        storage.fcntl.flock(file, storage.fcntl.LOCK_EX | storage.fcntl.LOCK_NB)


@needs_lock
@pytest.mark.parametrize(
    ("content", "left"),
    [(b"", b""), (b"{}\n", b"{}\n"), (b'{}\n{"op', b"{}\n"), (b'{"op', b""), (b"{}\n{}\n{", b"{}\n{}\n")],
)
def test_a_record_that_a_killed_writer_has_left_unfinished_is_removed(content, left, path):
    path.write_bytes(content)
    lock = JournalLock(str(path))
    lock.acquire()
    lock.release()
    assert path.read_bytes() == left


@needs_lock
def test_a_search_continues_behind_an_unfinished_record(two, path):
    first, second = two
    with first.claim(TEST) as claim:
        claim.finish(make_curve())
    with open(path, "ab") as file:
        file.write(b'{"op_code": 4, "worker_id"')
    with second.claim(TRAINING) as claim:
        claim.finish(make_trial(TRAINING).result)
    assert keys(first) == keys(joined(path)) == ([TEST.key, TRAINING.key], [])
