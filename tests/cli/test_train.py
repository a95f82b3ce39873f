"""``clrfast train``."""

import re

from clrfast import cli


def test_train_digits_prints_both_runs(capsys):
    assert cli.main(["train", "digits", "--epochs", "2", "--lr", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "2 epochs, 44 steps" in printed
    accuracies = [float(line.split("accuracy ")[1].split()[0]) for line in printed.splitlines() if "accuracy" in line]
    assert len(accuracies) == 2
    assert accuracies[0] > 90
    assert printed.endswith(
        "one of the 360 samples is 0.28 %; a difference that changes its sign with --seed 1 or 2 is chance\n"
    )


def test_train_with_adamw_finds_its_rate_and_trains_with_it(capsys):
    assert cli.main(["train", "digits", "--epochs", "1", "--optimizer", "adamw", "--steps", "60"]) == 0
    printed = capsys.readouterr().out
    assert "1 epoch, 22 steps with adamw:" in printed
    assert float(re.search(r"^learning rate +([\d.]+),", printed, re.MULTILINE)[1]) < 0.2
    assert re.search(r"^interval .*^confidence +high$.*^why +edge: ", printed, re.MULTILINE | re.DOTALL)
    assert max(map(len, printed.splitlines())) <= 100
    assert printed.count("validation accuracy") == 2


def test_a_task_without_validation_data_trains(task_modules, capsys):
    assert cli.main(["train", "good:make_task", "--epochs", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("last training loss") == 2
    assert "--seed" not in printed
