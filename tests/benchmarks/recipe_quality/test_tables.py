"""The tables of the race, from rows that are written by hand."""

from benchmarks.tables.race import race_tables


def row(contender, task, reached, **changes):
    return {
        **{"contender": contender, "task": task, "reached": reached, "optimizer": "sgd", "split": "test"},
        **{"budget": 0.15, "default": 2.0, "best_default": 1.5, "best": 1.0, "best_lr": 0.1, "best_weight_decay": 0.0},
        **{"cost": 0.14, "n": 2},
        **changes,
    }


def lines(rows):
    return race_tables(rows).splitlines()


def test_a_contender_has_its_mean_and_its_distance_to_ours():
    rows = [row("clrfast", "one", 1.0), row("clrfast", "two", 0.9), row("GP", "one", 0.8), row("GP", "two", 0.7)]
    table = lines(rows)
    assert table[2] == "| clrfast | 95 % (90 to 100) | 95 % | 1 of 2 |  | 14.0 % |"
    assert table[3] == "| Optuna, Gaussian process | 75 % (70 to 80) | 75 % | 0 of 2 | 20 (20 to 20) | 14.0 % |"


def test_unseen_and_known_tasks_and_optimizers_are_apart():
    rows = [row("clrfast", "one", 1.0), row("clrfast", "two", 0.5, split="validation")]
    text = race_tables([*rows, row("clrfast", "three", 0.25, optimizer="adamw", split="development")])
    assert "| clrfast | 100 % (100 to 100) | 100 % | 1 of 1 |  | 50 % (50 to 50) | 50 % | 0 of 1 |  | 14.0 % |" in text
    assert "| AdamW | known tasks: mean of the gain |" in text
    assert "| one (unseen) | 2, 1.5 | 1 (0.1, 0) | 100 % |" in text


def test_a_task_counts_once_for_each_optimizer_that_it_is_trained_with():
    rows = [row("clrfast", "one", 1.0), row("clrfast", "one", 0.5, optimizer="adamw")]
    text = race_tables(rows)
    assert text.startswith("| SGD and AdamW | unseen tasks: mean of the gain |")
    assert "| clrfast | 75 % (50 to 100) | 75 % | 1 of 2 |" in text
    assert "SGD and AdamW: 2 unseen tasks." in text


def test_the_difference_is_over_the_tasks_that_both_have():
    rows = [row("clrfast", "one", 1.0), row("GP", "one", 0.5), row("GP", "two", 0.1)]
    assert lines(rows)[3].split(" | ")[4] == "50 (50 to 50)"


def test_a_larger_budget_is_named_and_a_task_without_gain_is_left_out():
    rows = [row("clrfast", "one", 1.0), row("clrfast", "two", None), row("clrfast", "one", 0.5, budget=0.3)]
    table = lines(rows)
    assert table[2].startswith("| clrfast | 100 % (100 to 100) | 100 % | 1 of 1 |")
    assert table[3].startswith("| clrfast, 30 % | 50 %")
    assert "| two (unseen) | 2, 1.5 | 1 (0.1, 0) | nothing to gain |  |" in table
