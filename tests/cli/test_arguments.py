"""The arguments of all commands."""

import argparse
import os
import subprocess
import sys
from datetime import timedelta

import pytest

from clrfast import cli
from clrfast.cli import _arguments, _task
from clrfast.finder._suggestion_rules import RULES
from clrfast.recipe import _find_recipe, _plan
from clrfast.recipe._optimizers import OPTIMIZERS


@pytest.mark.parametrize(
    "arguments",
    [
        ["find"],
        ["find", "digits", "--steps", "0"],
        ["find", "digits", "--optimizer", "lion"],
        ["fly"],
        ["recipe", "digits", "--budget", "5m"],
        ["recipe", "digits", "--optimizers", "lion"],
        ["recipe", "digits", "--optimizers"],
        ["recipe", "digits", "--overwrite"],
    ],
)
def test_unparsable_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--help"], ["find", "train", "doctor"]),
        (["find", "--help"], ["--max-lr", "package.module:function", "clrfast find digits"]),
        (["train", "--help"], ["--epochs", "--optimizer {sgd,adamw}", "clrfast train digits"]),
        (
            ["recipe", "--help"],
            ["--budget", "--storage", "--report", "--optimizers {sgd,adamw}", "clrfast recipe digits"],
        ),
        (["doctor", "--help"], ["backends"]),
    ],
)
def test_help_names_the_options_and_an_example(arguments, wanted, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in wanted)


TORCH_FREE = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in ("torch", "numpy"), name
sys.meta_path.insert(0, NoTorch())
from clrfast.cli import main

sys.exit(main())
"""


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["--help"], 0, "find a learning rate"),
        (["--version"], 0, "clrfast "),
        (["find", "--help"], 0, "--max-lr"),
        (["train", "--help"], 0, "--epochs"),
        (["recipe", "--help"], 0, f"at least {_plan.MIN_BUDGET}, or its time"),
        (["recipe", "--help"], 0, f"(default: {_find_recipe.DEFAULT_PLANNED_STEPS})"),
        (["doctor", "--help"], 0, "backends"),
        (["fly"], 2, "invalid choice: 'fly'"),
        (["train", "digits", "--out"], 2, "clrfast train: error: --out: clrfast train has no such argument; see"),
        (["find", "digits", "--out", "missing"], 2, "clrfast: --out: missing is not a folder; create it first"),
        (
            ["recipe", "digits", "--out", "missing/x.json"],
            2,
            "clrfast: --out: missing is not a folder; create it first",
        ),
        (["recipe", "digits", "--report"], 2, "clrfast: --report: it reads a storage; give --storage, as in the"),
        (["find", "digits", "--steps", "5"], 2, "clrfast: --steps: got 5"),
        (["find", "digits", "--steps", "20", "--max-lr", "inf"], 2, "clrfast: --max-lr: got inf; give a finite number"),
        (["train", "digits", "--max-lr", "nan"], 2, "clrfast: --max-lr: got nan; give a finite number above 0"),
    ],
)
def test_help_and_wrong_arguments_do_not_wait_for_torch(arguments, code, wanted):
    command = [sys.executable, "-c", TORCH_FREE, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert ended.returncode == code, ended.stderr
    assert wanted in (ended.stderr if code else ended.stdout)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("option", ["--optimizer", "--optimizers", "--opt"])
@pytest.mark.parametrize(
    ("command", "name", "value"),
    [("find", "optimizer", "adamw"), ("train", "optimizer", "adamw"), ("recipe", "optimizers", ["adamw"])],
)
def test_the_optimizer_may_be_given_in_either_spelling_or_abbreviated(command, name, value, option):
    for words in ([option, "adamw"], [f"{option}=adamw"]):
        assert getattr(_arguments.parse([command, "digits", *words]), name) == value


def test_the_option_method_offers_all_rules_for_losses():
    assert ("trials", *sorted(set(RULES) - {"clr_bounds"})) == _arguments.METHODS


def test_optimizers_are_those_that_the_commands_can_make():
    assert tuple(_task.MAKE_OPTIMIZER) == _arguments.OPTIMIZERS == tuple(OPTIMIZERS)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("600", 600),
        ("90s", timedelta(seconds=90)),
        ("5min", timedelta(minutes=5)),
        ("1.5h", timedelta(minutes=90)),
        ("2 min", timedelta(minutes=2)),
        ("-3", -3),  # which `find_recipe` refuses
    ],
)
def test_a_budget_is_a_number_of_steps_or_a_time(text, budget):
    assert _arguments._budget(text) == budget


@pytest.mark.parametrize("text", ["", "s", "5m", "1e3s", "x", "-5s", "1,5h"])
def test_other_budgets_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give updates, as 600, or a time"):
        _arguments._budget(text)
