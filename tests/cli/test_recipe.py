"""``clrfast recipe``."""

import os
import signal
import sys
from pathlib import Path

import pytest

from clrfast import Recipe, cli
from clrfast.cli import _recipe as command
from clrfast.recipe._plan import MIN_BUDGET
from clrfast.recipe._trial_runner import TrialRunner
from tests.helpers.recipe_workers import completed_keys, losses, told

pytestmark = pytest.mark.usefixtures("one_thread")

ARGUMENTS = ["recipe", "own:make_task", "--budget", str(MIN_BUDGET)]


@pytest.fixture
def interrupted(monkeypatch):
    """A function that does something, such as an interruption, before the trial of an index and later ones."""

    def before(index, do):
        begun, real = [], TrialRunner.run

        def run(self, specs, progress):
            begun.extend(specs)
            if len(begun) > index:
                do()
            return real(self, specs, progress)

        monkeypatch.setattr(TrialRunner, "run", run)

    return before


def ctrl_c():
    raise KeyboardInterrupt


def test_recipe_prints_and_writes_what_it_finds(own_task, capsys):
    assert cli.main(ARGUMENTS) == 0
    printed = capsys.readouterr().out
    recipe = Recipe.load("recipe.json")
    assert recipe.complete
    assert str(recipe) in printed
    assert "written: recipe.json, recipe.html" in printed
    assert all(str(trial) in printed for trial in recipe.study.trials)  # as they end
    report = (own_task / "recipe.html").read_text()
    assert "own:make_task" in report
    assert "data:image/png" in report
    written = (own_task / "recipe.json").read_text()
    assert cli.main([*ARGUMENTS, "--seed", "1"]) == 0
    assert Recipe.load("recipe.json").max_lr != recipe.max_lr
    assert "written: recipe.json (replaced), recipe.html (replaced)" in capsys.readouterr().out
    assert cli.main(ARGUMENTS) == 0  # a search is reproducible, its times are not
    assert told(Recipe.load("recipe.json")) == told(recipe)
    assert (own_task / "recipe.json").read_text() != written


def test_an_interrupted_recipe_names_its_files(own_task, interrupted, monkeypatch, capsys):
    interrupted(2, ctrl_c)
    assert cli.main([*ARGUMENTS, "--out", "a.json"]) == 130
    message = "trials that were running are lost, and the results so far are in a.json; " + command.CONTINUES
    assert capsys.readouterr().err.endswith(f"clrfast: interrupted: {message}\n")
    recipe = Recipe.load("a.json")
    assert not recipe.complete
    assert len(recipe.study.trials) == 2
    assert "The search has not ended" in (own_task / "a.html").read_text()


def test_an_interruption_before_the_first_result_leaves_no_file(own_task, interrupted, capsys):
    interrupted(0, ctrl_c)
    assert cli.main([*ARGUMENTS, "--out", "b.json"]) == 130
    message = "no trial has finished; with --storage recipe.log the same command would continue"
    assert capsys.readouterr().err.endswith(f"clrfast: interrupted: {message}\n")
    assert cli.main([*ARGUMENTS, "--out", "b.json", "--storage", "study.log"]) == 130
    assert capsys.readouterr().err.endswith("clrfast: interrupted: no trial has finished; the same command continues\n")
    assert not (own_task / "b.json").exists()


def test_the_same_command_continues_from_its_storage(own_task, interrupted, monkeypatch, capsys):
    assert cli.main([*ARGUMENTS, "--out", "whole.json"]) == 0
    arguments = [*ARGUMENTS, "--storage", "study.log"]
    run = TrialRunner.run
    interrupted(3, ctrl_c)
    assert cli.main(arguments) == 130
    assert "the results so far are in recipe.json; the same command continues\n" in capsys.readouterr().err
    monkeypatch.setattr(TrialRunner, "run", run)
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    whole, found = Recipe.load("whole.json"), Recipe.load("recipe.json")
    assert "range test/sgd: " not in printed  # it was not run again
    assert losses(found) == losses(whole)
    assert told(found) == told(whole)
    assert cli.main(arguments) == 0
    assert len(completed_keys(own_task / "study.log", "own:make_task")) == len(whole.study.trials)
    assert not [line for line in capsys.readouterr().out.splitlines() if ": loss " in line]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_sigterm_gives_the_trial_back_as_ctrl_c_does(own_task, interrupted, capsys):
    before = signal.getsignal(signal.SIGTERM)
    interrupted(2, lambda: signal.raise_signal(signal.SIGTERM))
    assert cli.main([*ARGUMENTS, "--storage", "study.log"]) == 130
    error = capsys.readouterr().err
    assert "clrfast: interrupted: SIGTERM" in error
    assert "trials that were running are lost" in error
    assert "the same command continues" in error
    assert not Recipe.load("recipe.json").complete
    assert len(completed_keys(own_task / "study.log", "own:make_task")) == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_report_writes_what_a_storage_holds_and_searches_nothing(own_task, interrupted, monkeypatch, capsys):
    interrupted(2, ctrl_c)
    arguments = [*ARGUMENTS, "--storage", "study.log"]
    assert cli.main(arguments) == 130
    (own_task / "recipe.json").unlink()
    monkeypatch.setattr(command, "find_recipe", None)
    monkeypatch.setattr(command, "make_seeded_task", None)
    assert cli.main([*arguments, "--report", "--out", "now.json"]) == 0
    recipe = Recipe.load("now.json")
    assert len(recipe.study.trials) == 2
    assert str(recipe) in capsys.readouterr().out
    assert "The search has not ended" in (own_task / "now.html").read_text()
    assert not (own_task / "recipe.json").exists()


def test_report_of_a_storage_without_the_search_is_one_line(own_task, capsys):
    Path("other.log").touch()
    for path in ("other.log", "missing.log", "missing/study.log"):
        assert cli.main(["recipe", "own:make_task", "--storage", path, "--report"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(("clrfast: study_name: ", "clrfast: storage: "))
        assert not Path("missing.log").exists()
    assert not (own_task / "recipe.json").exists()


def test_the_study_has_the_name_of_the_task_unless_another_is_given(own_task):
    assert cli.main([*ARGUMENTS, "--storage", "study.log"]) == 0
    assert cli.main([*ARGUMENTS, "--storage", "study.log", "--seed", "1", "--study-name", "other"]) == 0
    first, other = (Recipe.from_storage("study.log", name) for name in ("own:make_task", "other"))
    assert first.max_lr != other.max_lr


def test_another_search_in_the_storage_is_one_line(own_task, capsys):
    assert cli.main([*ARGUMENTS, "--storage", "study.log"]) == 0
    capsys.readouterr()
    assert cli.main([*ARGUMENTS, "--storage", "study.log", "--seed", "1"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clrfast: ")]
    assert line.startswith("clrfast: --study-name: its search was begun with another model, another training data")


def test_other_options_in_the_storage_are_named_as_they_are_typed(own_task, interrupted, capsys):
    interrupted(0, ctrl_c)
    begun = ["recipe", "own:make_task", "--storage", "study.log"]
    assert cli.main([*begun, "--budget", "1min"]) == 130
    capsys.readouterr()
    assert cli.main([*begun, "--planned-steps", "9000"]) == 2
    assert capsys.readouterr().err == (
        "clrfast: --study-name: its search was begun with --budget 60 s, --planned-steps 10000, and this call has "
        "--budget 900 steps, --planned-steps 9000; give the same, or another --study-name\n"
    )


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], ["sgd"]),
        (["--optimizer", "adamw"], ["adamw"]),
        (["--optimizers", "adamw"], ["adamw"]),
        (["--optimizers", "sgd", "adamw"], ["sgd", "adamw"]),
    ],
)
def test_the_command_passes_the_optimizers(given, passed, monkeypatch, own_task):
    named = []

    def find(task, budget, **options):
        named.append(options["optimizers"])
        raise ValueError("enough")

    monkeypatch.setattr(command, "find_recipe", find)
    assert cli.main(["recipe", "own:make_task", *given]) == 2
    assert named == [passed]


def test_a_recipe_chooses_among_optimizers(own_task, capsys):
    assert cli.main(["recipe", "own:make_task", "--budget", "928", "--optimizers", "sgd", "adamw"]) == 0
    recipe = Recipe.load("recipe.json")
    assert f"optimizer      {recipe.optimizer_name}" in capsys.readouterr().out


@pytest.mark.parametrize("given", [[], ["--storage", "study.log", "--report"]])
def test_without_optuna_the_command_says_what_to_install(given, own_task, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(command, "make_seeded_task", None)
    assert cli.main([*ARGUMENTS, *given]) == 2
    message = "clrfast: find_recipe needs Optuna; install it with: pip install optuna"
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize("count", ["2", "8"])
def test_several_processes_of_torchrun_need_a_storage(count, own_task, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.setattr(command, "find_recipe", None)
    assert cli.main(ARGUMENTS) == 2
    message = "clrfast: --storage: it is missing; the processes of torchrun share a search through it: give a file"
    assert capsys.readouterr().err == f"{message}\n"


def test_one_process_of_torchrun_needs_no_storage(own_task, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(ARGUMENTS) == 0
    assert Recipe.load("recipe.json").complete


def test_a_process_that_is_not_the_first_prints_and_writes_nothing(own_task, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert cli.main([*ARGUMENTS, "--storage", "study.log"]) == 0
    assert capsys.readouterr().out == ""
    assert not (own_task / "recipe.json").exists()
    assert Recipe.from_storage("study.log", "own:make_task").complete


def test_each_process_takes_its_own_cuda_device_as_far_as_they_suffice(own_task, monkeypatch):
    import torch

    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(command, "make_seeded_task", lambda arguments: chosen.append("task") or 1 / 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(ZeroDivisionError):
        cli.main(ARGUMENTS)
    assert chosen == [1, "task"]  # before the task is made
