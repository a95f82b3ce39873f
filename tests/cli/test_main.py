"""Exit codes, errors and pipes of all commands."""

import os
import subprocess
import sys

import pytest

from clrfast import cli
from clrfast.cli import _main, _task


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["find", "nope"], "task 'nope' is unknown"),
        (["find", "good:nothing"], "has no function 'nothing'"),
        (["train", "good:returns_other"], "returned int"),
        (["find", "digits", "--out", "missing"], "--out: missing is not a folder"),
        (["find", "digits", "--out", 300 * "x"], "xxx is not a folder"),
        (
            ["find", "digits", "--thorough", "--method", "edge"],
            "--thorough: --method edge is a rule for the ramp alone",
        ),
        (["find", "digits", "--min-lr", "2", "--max-lr", "1"], "min_lr, max_lr: got 2.0 and 1.0"),
        (["find", "good:flat"], "changes the loss: check that gradients reach the parameters"),
        (["train", "good:flat"], "changes the loss: check that gradients reach the parameters"),
        (["recipe", "good:make_task"], "val_loader: got None"),
        (["recipe", "digits", "--budget", "100"], "budget: got 100; give a whole number of steps, at least 464"),
        (["recipe", "digits", "--budget", "0s"], "budget: got datetime.timedelta(0); give a time above 0"),
        (["recipe", "digits", "--out", "missing/recipe.json"], "--out: missing is not a folder"),
        (["recipe", "digits", "--out", "recipe.html"], "--out: got recipe.html; give a path that ends in .json"),
        (["find", "digits", "--steps", "5"], "--steps: got 5; give at least 15, or 'auto'"),
        (["train", "digits", "--steps", "3", "--min-lr", "0.01", "--max-lr", "1"], "--steps: got 3; give at least 5"),
    ],
)
def test_wrong_use_gives_one_line_and_exit_code_2(task_modules, capsys, arguments, message):
    assert cli.main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clrfast: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_without_a_command_it_shows_the_first_ones(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    for command in ("clrfast find digits", "clrfast find my_module:make_task", "clrfast train digits"):
        assert command in printed


@pytest.mark.parametrize("arguments", [["find", "digits"], ["recipe", "digits"]])
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_training(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path or mode & os.W_OK == 0)
    out = tmp_path if arguments[0] == "find" else tmp_path / "recipe.json"
    assert cli.main([*arguments, "--out", str(out)]) == 2
    message = f"clrfast: --out: {tmp_path} cannot be written to; change its permissions, or give another folder\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        (["train", "digits", "--out"], "--out: clrfast train"),
        (["train", "digits", "--out", "/x"], "--out /x: clrfast train"),
        (["schedule", "constant", "--lr", "1", "--total-steps", "9", "--max-lr", "2"], "2: clrfast schedule constant"),
    ],
)
def test_an_unknown_argument_gives_the_usage_of_its_command(arguments, unknown, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    command = unknown.split(": ")[1]
    assert printed.startswith(f"usage: {command} ")
    assert f"{unknown} has no such argument; see {command} --help, or leave it out\n" in printed


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["doctor"], ["--help"]])
def test_a_reader_that_closes_the_pipe_is_no_error(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "clrfast", *arguments]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writing)
    assert ended.stderr == ""
    assert ended.returncode == _main.BROKEN_PIPE


def test_an_interrupt_prints_no_traceback(monkeypatch, capsys):
    def interrupted(name, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(_task, "make_task", interrupted)
    assert cli.main(["find", "digits"]) == 130
    assert capsys.readouterr().err == "clrfast: interrupted\n"


def test_the_package_can_be_run_as_a_module():
    result = subprocess.run([sys.executable, "-m", "clrfast", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("clrfast ")
