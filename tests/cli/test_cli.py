import os
import subprocess
import sys

import pytest

from clrfast import LRCurve, Recipe, cli
from clrfast.cli import _arguments, _task
from clrfast.finder._rules import RULES
from clrfast.recipe import _find_recipe, _search, _stages, _step_allocation
from clrfast.schedules import POLICIES
from tests.helpers.schedules import POLICY_ARGUMENTS


def test_find_writes_its_files_and_prints_the_suggestion(tmp_path, capsys):
    assert cli.main(["find", "digits", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    suggested = float(printed.split("suggested learning rate: ")[1].split()[0])
    assert 0.01 < suggested < 1
    curve = LRCurve.load(tmp_path / "lr_range_test.json")
    assert curve.suggest().max_lr == pytest.approx(suggested, rel=0.01)
    assert (tmp_path / "lr_range_test.png").read_bytes().startswith(b"\x89PNG")


def test_the_seed_reaches_the_task(tmp_path):
    losses = []
    for seed in (0, 0, 1):
        assert cli.main(["find", "digits", "--steps", "30", "--seed", str(seed), "--out", str(tmp_path)]) == 0
        losses.append(LRCurve.load(tmp_path / "lr_range_test.json").loss.tolist())
    assert losses[0] == losses[1] != losses[2]


def test_train_digits_prints_both_runs(capsys):
    assert cli.main(["train", "digits", "--epochs", "2", "--lr", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "2 epochs, 44 steps" in printed
    accuracies = [float(line.split("accuracy ")[1].split()[0]) for line in printed.splitlines() if "accuracy" in line]
    assert len(accuracies) == 2
    assert accuracies[0] > 90


def test_a_task_without_validation_data_trains(task_modules, capsys):
    assert cli.main(["train", "good:make_task", "--epochs", "3"]) == 0
    assert capsys.readouterr().out.count("last training loss") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["find", "nope"], "task 'nope' is unknown"),
        (["find", "good:nothing"], "has no function 'nothing'"),
        (["train", "good:returns_other"], "returned int"),
        (["find", "digits", "--out", "missing"], "--out: missing is no folder"),
        (["find", "digits", "--min-lr", "2", "--max-lr", "1"], "min_lr, max_lr: got 2.0 and 1.0"),
        (["find", "good:flat"], "no suggestion: the loss never falls"),
        (["train", "good:flat"], "the loss never falls"),
        (["recipe", "good:make_task"], "val_loader: got None"),
        (["recipe", "digits", "--budget", "100"], "budget: got 100; give a whole number of steps, at least 464"),
        (["recipe", "digits", "--budget", "0s"], "budget: got datetime.timedelta(0); give a time above 0"),
        (["recipe", "digits", "--out", "missing/recipe.json"], "--out: missing is no folder"),
        (["recipe", "digits", "--out", "recipe.html"], "--out: got recipe.html; give a path that ends in .json"),
        (["find", "digits", "--steps", "5"], "--steps: got 5; give at least 15, or auto"),
        (["train", "digits", "--steps", "3", "--min-lr", "0.01", "--max-lr", "1"], "--steps: got 3; give at least 5"),
    ],
)
def test_wrong_use_gives_one_line_and_exit_code_2(task_modules, capsys, arguments, message):
    assert cli.main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clrfast: ")]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    "arguments", [[], ["find"], ["find", "digits", "--steps", "0"], ["fly"], ["recipe", "digits", "--budget", "5m"]]
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
        (["train", "--help"], ["--epochs", "clrfast train digits"]),
        (["recipe", "--help"], ["--budget", "--overwrite", "clrfast recipe digits"]),
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
        (["recipe", "--help"], 0, f"at least {_step_allocation.MIN_BUDGET}, or its time"),
        (["recipe", "--help"], 0, f"(default: {_find_recipe.DEFAULT_PLANNED_STEPS})"),
        (["doctor", "--help"], 0, "backends"),
        (["fly"], 2, "invalid choice: 'fly'"),
        (["find", "digits", "--out", "missing"], 2, "clrfast: --out: missing is no folder; make it first"),
        (["recipe", "digits", "--out", "missing/x.json"], 2, "clrfast: --out: missing is no folder; make it first"),
        (["find", "digits", "--steps", "5"], 2, "clrfast: --steps: got 5"),
    ],
)
def test_help_and_wrong_arguments_do_not_wait_for_torch(arguments, code, wanted):
    command = [sys.executable, "-c", TORCH_FREE, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert ended.returncode == code, ended.stderr
    assert wanted in (ended.stderr if code else ended.stdout)
    assert "Traceback" not in ended.stderr


def test_the_option_method_offers_all_rules_for_losses():
    assert tuple(sorted(set(RULES) - {"clr_bounds"})) == _arguments.METHODS


def test_ramps_with_too_few_steps_are_refused():
    for steps in (2, 7, 15, 40):
        widest = _arguments.MAX_RATE_RATIO ** (steps - 1)
        assert _arguments.min_ramp_steps(1.0, widest) == steps
        assert _arguments.min_ramp_steps(1.0, 1.01 * widest) == steps + 1


@pytest.mark.parametrize("arguments", [["doctor"], ["--help"]])
def test_a_reader_that_closes_the_pipe_is_no_error(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "clrfast", *arguments]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writing)
    assert ended.stderr == ""
    assert ended.returncode == cli.BROKEN_PIPE


def test_schedule_writes_the_picture(tmp_path, capsys):
    path = tmp_path / "cycle.png"
    arguments = ["schedule", "one_cycle", "--max-lr", "0.8", "--total-steps", "9310", "--momentum", "0.95", "0.8"]
    assert cli.main([*arguments, "--out", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"written: {path}\n"


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_drawn(name, tmp_path):
    options = [f"--{k.replace('_', '-')}={v}" for k, v in POLICY_ARGUMENTS[name].items()]
    path = tmp_path / "out.png"
    assert cli.main(["schedule", name, "--total-steps", "50", *options, "--out", str(path)]) == 0
    assert path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one_cycle", "--max-lr", "-1", "--total-steps", "9"], "max_lr: got -1.0"),
        (["one_cycle", "--max-lr", "1", "--total-steps", "9", "--momentum", "0.8", "0.9"], "momentum: got (0.8, 0.9)"),
        (["constant", "--lr", "1", "--total-steps", "9", "--out", "missing/x.png"], "--out: missing is no folder"),
    ],
)
def test_wrong_schedules_give_one_line(arguments, message, capsys):
    assert cli.main(["schedule", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_find_without_matplotlib_writes_the_curve(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["find", "digits", "--out", str(tmp_path), "--steps", "30"]) == 0
    assert "no picture: matplotlib.figure is not installed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["lr_range_test.json"]


def test_recipe_searches_then_reuses_then_overwrites(own_task, capsys):
    arguments = ["recipe", "own:make_task", "--budget", "464"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    recipe = Recipe.load("recipe.json")
    assert str(recipe) in printed
    assert "written: recipe.json, recipe.html" in printed
    assert f"weight decay: {recipe.weight_decay:g}; {recipe.evidence['weight decay']}" in printed  # as it comes
    report = (own_task / "recipe.html").read_text()
    assert "own:make_task" in report
    assert "data:image/png" in report
    written = (own_task / "recipe.json").stat().st_mtime_ns, (own_task / "recipe.json").read_text()
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "recipe.json: what is there is not measured again" in printed
    assert "learning rate: " not in printed
    assert (own_task / "recipe.json").read_text() == written[1]
    assert cli.main([*arguments, "--overwrite", "--seed", "1"]) == 0
    assert "learning rate: " in capsys.readouterr().out
    assert Recipe.load("recipe.json").max_lr != recipe.max_lr


def test_an_interrupted_recipe_names_its_files_and_continues(own_task, monkeypatch, capsys):
    arguments = ["recipe", "own:make_task", "--budget", "464", "--out", "a.json"]
    with monkeypatch.context() as patched:

        def interrupted(**options):
            raise KeyboardInterrupt

        patched.setattr(_stages, "find_weight_decay", interrupted)
        assert cli.main(arguments) == 130
        message = "what was found is in a.json and a.html; the same command goes on from there"
        assert capsys.readouterr().err.endswith(f"clrfast: interrupted: {message}\n")
        assert not Recipe.load("a.json").complete
        assert "It was interrupted" in (own_task / "a.html").read_text()
        patched.setattr(_search, "range_test", interrupted)
        assert cli.main(["recipe", "own:make_task", "--out", "b.json"]) == 130
        assert capsys.readouterr().err.endswith("clrfast: interrupted\n")
        assert not (own_task / "b.json").exists()
    assert cli.main(arguments) == 0
    assert Recipe.load("a.json").complete


def test_overwrite_deletes_only_recipes(own_task, capsys):
    (own_task / "other.json").write_text("{}")
    assert cli.main(["recipe", "own:make_task", "--overwrite", "--out", "other.json"]) == 2
    assert "does not hold a saved recipe" in capsys.readouterr().err
    assert (own_task / "other.json").read_text() == "{}"


def test_an_interrupt_prints_no_traceback(monkeypatch, capsys):
    def interrupted(name, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(_task, "make_task", interrupted)
    assert cli.main(["find", "digits"]) == 130
    assert capsys.readouterr().err == "clrfast: interrupted\n"


def test_the_package_can_be_run_as_a_module():
    result = subprocess.run([sys.executable, "-m", "clrfast", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("clrfast ")
