"""``clrfast find``."""

import re
import sys
import textwrap

import pytest
from torch import nn

import clrfast
from clrfast import LRCurve, cli


def test_find_writes_its_files_and_prints_the_suggestion(tmp_path, capsys):
    assert cli.main(["find", "digits", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    suggested = float(re.search(r"^learning rate +([\d.]+),", printed, re.MULTILINE)[1])
    assert 0.01 < suggested < 1
    curve = LRCurve.load(tmp_path / "lr_range_test.json")
    assert curve.suggest().max_lr == pytest.approx(suggested, rel=0.01)
    assert curve.update_steps > 100
    assert curve.extra_forward_passes > 10
    assert f"{curve.update_steps} updates and {curve.extra_forward_passes} extra forward passes\n" in printed
    assert max(map(len, printed.replace(str(tmp_path), "").splitlines())) <= 100
    assert (tmp_path / "lr_range_test.png").read_bytes().startswith(b"\x89PNG")


def test_find_with_adamw_tests_its_rates(tmp_path, capsys):
    arguments = ["find", "digits", "--out", str(tmp_path), "--steps", "30"]
    assert cli.main([*arguments, "--optimizers", "adamw"]) == 0
    adamw = LRCurve.load(tmp_path / "lr_range_test.json")
    assert adamw.momentum is None
    assert "(replaced)" not in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.count("(replaced)") == 2
    sgd = LRCurve.load(tmp_path / "lr_range_test.json")
    assert sgd.momentum == 0.9
    assert adamw.loss[0] != sgd.loss[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_printed_lines_of_python_make_an_optimizer(optimizer, tmp_path, capsys):
    arguments = ["find", "digits", "--out", str(tmp_path), "--steps", "30", "--optimizer", optimizer]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.partition("next, in your program:\n")[2]
    names = {"clrfast": clrfast, "model": nn.Linear(2, 2), "epochs": 2, "train_loader": range(10)}
    exec(textwrap.dedent(lines), names)
    assert type(names["optimizer"]).__name__.lower() == optimizer
    assert names["optimizer"].schedule.total_steps == 20


def test_the_seed_reaches_the_task(tmp_path):
    losses = []
    for seed in (0, 0, 1):
        assert cli.main(["find", "digits", "--steps", "30", "--seed", str(seed), "--out", str(tmp_path)]) == 0
        losses.append(LRCurve.load(tmp_path / "lr_range_test.json").loss.tolist())
    assert losses[0] == losses[1] != losses[2]


def test_find_without_matplotlib_writes_the_curve(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["find", "digits", "--out", str(tmp_path), "--steps", "30"]) == 0
    assert "no picture: matplotlib.figure is not installed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["lr_range_test.json"]
