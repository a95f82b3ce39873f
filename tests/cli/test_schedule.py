"""``clrfast schedule``."""

import inspect

import pytest

from clrfast import cli
from clrfast.cli import _arguments
from clrfast.schedules import POLICIES
from tests.helpers.schedules import POLICY_ARGUMENTS


def test_schedule_writes_the_picture(tmp_path, capsys):
    path = tmp_path / "cycle.png"
    arguments = ["schedule", "one_cycle", "--max-lr", "0.8", "--total-steps", "9310", "--momentum", "0.95", "0.8"]
    assert cli.main([*arguments, "--out", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"written: {path}\n"
    assert cli.main([*arguments, "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"written: {path} (replaced)\n"


def test_a_name_that_is_too_long_gives_one_line(tmp_path, capsys):
    path = tmp_path / f"{'a' * 300}.png"
    assert cli.main(["schedule", "constant", "--lr", "0.1", "--total-steps", "3", "--out", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"clrfast: {path}: not written")


def test_the_help_of_a_policy_explains_its_options_and_fits_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["schedule", "one_cycle", "--help"])
    printed = capsys.readouterr().out
    assert "ratio of max_lr to the lower bound, >= 1" in printed
    assert not [word for word in ("Args:", "Raises:", "Source:", "``") if word in printed]
    assert max(len(line) for line in printed.splitlines() if "up_steps" not in line) <= 80


@pytest.mark.parametrize("name", POLICIES)
def test_every_argument_of_a_policy_has_a_text(name):
    texts = _arguments._argument_texts(POLICIES[name], POLICIES)
    assert set(texts) == set(inspect.signature(POLICIES[name]).parameters)
    assert not {f"as in {other}" for other in POLICIES} & set(texts.values())


@pytest.mark.parametrize(
    ("name", "of_last"),
    [
        ("one_cycle_linear", "the lower bound to the last rate"),
        ("one_cycle_fastai", "max_lr to the rate past the last"),
    ],
)
def test_the_help_of_a_policy_takes_texts_from_the_policy_that_it_names(name, of_last, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        cli.main(["schedule", name, "--help"])
    printed = capsys.readouterr().out
    assert "the upper bound of the rate, > 0, as a range test suggests it (required)" in printed
    assert f"ratio of {of_last}" in printed


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
        (["constant", "--lr", "1", "--total-steps", "9", "--out", "missing/x.png"], "--out: missing is not a folder"),
    ],
)
def test_wrong_schedules_give_one_line(arguments, message, capsys):
    assert cli.main(["schedule", *arguments]) == 2
    assert message in capsys.readouterr().err
