"""Processes that make one call together, and processes of torchrun that share a search for a recipe."""

import sys
import textwrap
from types import SimpleNamespace

import pytest

from clrfast import Recipe, cli
from clrfast._distributed import SINGLE_PROCESS, resolve_group
from tests.helpers.ranks import needs_gloo, run_job, torchrun
from tests.helpers.recipe_workers import completed_keys, losses, told
from tests.helpers.task_modules import OWN_TASK

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

ARGUMENTS = ["recipe", "own:make_task", "--budget", "464", "--storage", "study.log"]

KILLED_ONCE = """
    import os
    import signal
    import pathlib

    def killed_once(seed):
        # In one of the short runs, once in the folder.
        task, real, updates = make_task(seed), torch.nn.CrossEntropyLoss(), []

        def loss_fn(outputs, targets):
            updates.append(0)
            if len(updates) == 150 and not pathlib.Path("killed").exists():
                pathlib.Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return real(outputs, targets)

        task.loss_fn = loss_fn
        return task
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the module ``own``."""
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN_TASK) + textwrap.dedent(KILLED_ONCE))
    # Pictures for the reports take seconds, and no test here looks at them.
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib.figure')")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own", None)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The results of ``jobs/distributed_on_ranks.py`` on both ranks: one job, because a start takes seconds."""
    first, second = run_job("distributed_on_ranks", tmp_path_factory.mktemp("job"))
    return SimpleNamespace(first=first, second=second, both=(first, second))


# --------------------------------------------------------------------------------------------------------------- ranks


@needs_gloo
def test_values_are_exchanged_in_the_order_of_the_ranks(job):
    for results in job.both:
        assert results["exchange"] == [0, 1]
    assert (job.first["progress"], job.second["progress"]) == (True, False)  # only the first rank reports progress


@needs_gloo
def test_an_error_on_one_rank_is_a_rank_error_on_the_other(job):
    rank_error = ["RankError", "rank 1 failed: OSError: no such disk"]
    for name in ("a_rank_that_raises", "a_rank_that_raises_at_the_end"):
        assert job.first[name] == job.second[name] == rank_error
    assert job.second["the_first_rank_raises"] == ["RankError", "rank 0 failed: ValueError: no such file"]
    assert job.second["what_cannot_be_pickled"][0] == "RankError"
    assert job.second["what_cannot_be_pickled"][1].startswith("rank 0 failed: ")
    assert job.first["not_in_the_group"] == 1
    assert job.second["not_in_the_group"][1].startswith("group: this process is not in it")


@needs_gloo
@pytest.mark.parametrize(
    ("case", "kind", "text"),
    [
        ("other_values", "ValueError", "two: not the same on all ranks; give all ranks the same a start"),
        ("other_calls", "RankError", "the ranks came to different places: call 0, call 1; make the same call on all"),
        ("wrapped", "ValueError", "model: got a DistributedDataParallel"),
    ],
)
def test_an_error_of_all_ranks_is_raised_on_all(job, case, kind, text):
    for results in job.both:
        assert results[case][0] == kind
        assert results[case][1].startswith(text)


@needs_gloo
def test_an_error_of_one_kind_on_all_ranks_is_each_rank_s_own(job):
    assert [results["all_raise"] for results in job.both] == [["ValueError", f"on rank {rank}"] for rank in (0, 1)]


@needs_gloo
def test_a_search_for_a_recipe_waits_for_no_other_rank(job):
    assert (job.first["a_recipe_of_each_rank"], job.second["a_recipe_of_each_rank"]) == ("not called", True)


@needs_gloo
def test_the_ranks_of_a_job_end_while_threads_of_gloo_wait_for_the_gil(tmp_path):
    assert run_job("late_work_on_ranks", tmp_path) == [0, 1]


def test_a_single_process_makes_the_same_calls_trivially():
    with SINGLE_PROCESS.end_together() as ranks:
        assert (ranks.rank, ranks.world_size) == (0, 1)
        assert ranks.all_gather("a place", 3) == [3]
        ranks.require_same("start", one=1)
        assert ranks.progress_on_first(True) is True
    assert resolve_group(None).world_size == resolve_group("auto").world_size == 1
    with pytest.raises(OSError, match="as it is"), SINGLE_PROCESS.end_together():
        raise OSError("as it is")


# ------------------------------------------------------------------------------------------------- workers of torchrun


def test_two_processes_of_torchrun_share_a_search_and_print_and_write_once(folder):
    finished = torchrun(folder, "-m", "clrfast", *ARGUMENTS)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("written: recipe.json, recipe.html") == 1
    assert finished.stdout.count("weight decay   ") == 1
    assert cli.main([*ARGUMENTS[:-2], "--out", "alone.json"]) == 0
    two, alone = Recipe.load("recipe.json"), Recipe.load("alone.json")
    assert losses(two) == losses(alone)
    assert told(two) == told(alone)
    assert sorted(completed_keys(folder / "study.log", "own:make_task")) == sorted(
        trial.spec.key for trial in alone.study.trials
    )
    assert (folder / "recipe.html").exists()


def test_processes_of_torchrun_without_a_storage_are_refused(folder):
    finished = torchrun(folder, "-m", "clrfast", *ARGUMENTS[:-2])
    assert finished.returncode != 0
    assert "clrfast: --storage: it is missing; the processes of torchrun share a search through it" in finished.stderr
    assert not (folder / "recipe.json").exists()


def test_a_killed_process_of_torchrun_loses_one_trial_and_the_same_command_continues(folder, capsys, monkeypatch):
    """torchrun ends the other process by SIGTERM, which gives its trial back."""
    arguments = ["recipe", "own:killed_once", *ARGUMENTS[2:]]
    finished = torchrun(folder, "-m", "clrfast", *arguments)
    assert finished.returncode != 0
    assert (folder / "killed").exists()
    before = completed_keys(folder / "study.log", "own:killed_once")
    assert "range test/sgd" in before
    monkeypatch.setattr("clrfast.recipe._storage.LEASE_SECONDS", 1.0)
    assert cli.main(arguments) == 0
    assert "range test/sgd: " not in capsys.readouterr().out  # it was not run again
    assert cli.main(["recipe", "own:make_task", "--budget", "464", "--out", "alone.json"]) == 0
    found, alone = Recipe.load("recipe.json"), Recipe.load("alone.json")
    assert losses(found) == losses(alone)
    assert told(found) == told(alone)
    assert sorted(completed_keys(folder / "study.log", "own:killed_once")) == sorted(losses(alone))
