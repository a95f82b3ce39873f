"""A killed search continues from its last finished trial, and the budget is charged with the lost steps.

A kill leaves the file as it was written last, so each version of the file stands for all kills before the next one.
"""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import clrfast
from clrfast import Recipe, cli, find_recipe
from clrfast import _saving as saving
from clrfast.recipe._step_allocation import MIN_BUDGET, RANGE_TEST_STEPS
from clrfast.recipe._study import Study
from tests.helpers.problems import clouds

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def versions(monkeypatch):
    """The contents of all written files, in order."""
    written, real = [], saving.write_bytes

    def recorded(path, content):
        written.append(content)
        real(path, content)

    monkeypatch.setattr(saving, "write_bytes", recorded)
    return written


def read(version, path):
    path.write_bytes(version)
    return Study.read(path)


@pytest.mark.slow
def test_a_kill_costs_only_the_trial_that_it_ended(versions, sgd_updates, tmp_path):
    path, budget = tmp_path / "recipe.json", 2600
    whole = find_recipe(clouds(), budget, planned_steps=2000, saved=path)
    n_decays, n_momenta = (
        sum(map(len, runs.histories)) for runs in (whole.study.weight_decay_trials, whole.study.momentum_trials)
    )
    kills = list(versions)
    under_way = [bool(read(version, path).started_steps) for version in kills]
    # Before each trial, after the range test, and at the end of both stages.
    assert under_way == [False, *[True] * n_decays, False, *[True] * (n_momenta + 2), False]
    for version in kills[1 :: len(kills) // 7]:
        before = read(version, path)
        sgd_updates.clear()
        resumed = find_recipe(clouds(), budget, planned_steps=2000, saved=path)
        assert resumed.complete
        assert len(sgd_updates) == resumed.steps - before.steps - before.started_steps
        assert resumed.steps <= budget
        np.testing.assert_array_equal(resumed.study.weight_decay_trials.loss, whole.study.weight_decay_trials.loss)


@pytest.mark.slow
def test_a_killed_stage_continues_with_its_finished_trials(versions, sgd_updates, tmp_path):
    path = tmp_path / "recipe.json"
    whole = find_recipe(clouds(), 2600, planned_steps=2000, saved=path)
    for ended, name in ((3, "weight_decay_trials"), (5, "momentum_trials")):
        kill = next(
            version
            for version in versions
            if (study := read(version, path)).pending_trials is not None
            and len(study.pending_trials.histories) == ended
            and (study.weight_decay_trials is None) == (name == "weight_decay_trials")
        )
        before = read(kill, path)
        assert not Recipe.load(path).complete
        assert before.started_steps == before.pending_trials.steps
        made = {job: run.train_loss.tolist() for job, run in before.pending_trials.finished.items()}
        sgd_updates.clear()
        resumed = find_recipe(clouds(), 2600, planned_steps=2000, saved=path).study
        runs = [run.train_loss.tolist() for repeats in getattr(resumed, name).histories for run in repeats]
        assert all(losses in runs for losses in made.values())
        np.testing.assert_array_equal(getattr(resumed, name).loss, getattr(whole.study, name).loss)


def test_a_pair_trial_that_a_kill_ended_is_charged(versions, sgd_updates, tmp_path):
    path = tmp_path / "recipe.json"
    whole = find_recipe(clouds(), 800, planned_steps=100, saved=path)
    steps = whole.study.pair_trials.steps
    before = read(versions[4], path)
    assert (before.steps, before.started_steps) == (RANGE_TEST_STEPS + 3 * steps, steps)
    sgd_updates.clear()
    resumed = find_recipe(clouds(), 800, planned_steps=100, saved=path)
    assert len(sgd_updates) == 4 * steps  # one fewer than were left
    assert resumed.steps == RANGE_TEST_STEPS + 8 * steps
    assert resumed.study.pair_trials.table() == whole.study.pair_trials.table()[:7]


def test_a_trial_that_an_exception_ended_is_not_charged(tmp_path):
    path = tmp_path / "recipe.json"

    def interrupted(done, total, shown):
        if done > RANGE_TEST_STEPS + 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_recipe(clouds(), MIN_BUDGET, saved=path, progress=interrupted)
    study = Study.read(path)
    assert (study.steps, study.started_steps, len(study.pending_trials.histories)) == (RANGE_TEST_STEPS + 80, 0, 2)


def test_a_second_interruption_during_the_first_changes_nothing(tmp_path, monkeypatch):
    path, real, broken = tmp_path / "recipe.json", os.replace, []

    def interrupted(done, total, shown):
        if done > RANGE_TEST_STEPS + 100:
            monkeypatch.setattr(saving.os, "replace", breaks)
            raise RuntimeError("the first")

    def breaks(*paths):
        if not broken:
            broken.append(paths)
            raise KeyboardInterrupt
        real(*paths)

    with pytest.raises(RuntimeError, match="the first"):
        find_recipe(clouds(), MIN_BUDGET, saved=path, progress=interrupted)
    assert broken
    assert Study.read(path).started_steps == 0


def test_a_search_that_is_killed_repeatedly_still_ends_with_a_recipe(versions, sgd_updates, tmp_path):
    """Each kill comes one trial later. The grid is complete, and later stages get fewer steps."""
    path = tmp_path / "recipe.json"
    find_recipe(clouds(), MIN_BUDGET, saved=path)
    path.write_bytes(versions[0])
    for made in range(1, 6):
        del versions[:]
        find_recipe(clouds(), MIN_BUDGET, saved=path)
        begun = read(versions[1], path).pending_trials  # one more trial has finished, and the next has started
        assert len(begun.histories) == made
    assert Study.read(path).steps == RANGE_TEST_STEPS + (5 + 4) * 40
    resumed = find_recipe(clouds(), MIN_BUDGET, saved=path)
    assert resumed.complete
    assert resumed.study.weight_decay_trials.loss.shape == (3, 2)
    assert resumed.study.range_test_after_weight_decay is None
    assert resumed.steps == RANGE_TEST_STEPS + (6 + 5) * 40


@pytest.mark.slow
def test_a_command_continues_after_sigkill(own_task, capsys):
    """With the real signal, during a trial with a weight decay."""
    (own_task / "killed.py").write_text(
        textwrap.dedent("""
        import os, signal, sys
        from clrfast import SGD, cli
        made, real = [], SGD.step

        def step(*args, **options):
            made.append(0)
            if len(made) > int(sys.argv[1]):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        SGD.step = step
        cli.main(["recipe", "own:make_task", "--budget", "464"])
        """)
    )
    command = [sys.executable, "killed.py", str(RANGE_TEST_STEPS + 2 * 40)]
    found = os.pathsep.join([os.path.dirname(os.path.dirname(clrfast.__file__)), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": found}, check=False)
    assert killed.returncode == -signal.SIGKILL
    before = Study.read("recipe.json")
    assert before.started_steps == 40
    assert cli.main(["recipe", "own:make_task", "--budget", "464"]) == 0
    assert "40 steps that a kill has lost count in the budget" in capsys.readouterr().out
    after = Recipe.load("recipe.json")
    assert after.complete
    ended = [run.train_loss.tolist() for run in before.pending_trials.histories]
    assert len(ended) >= 2
    assert [run.train_loss.tolist() for runs in after.study.weight_decay_trials.histories for run in runs][
        : len(ended)
    ] == ended
