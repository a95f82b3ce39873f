"""``clrfast train``."""

from clrfast import cli


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
