"""The losses of one training run."""

import math

import numpy as np
import pytest

from clrfast import History


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_loss": []}, r"train_loss: got shape \(0,\)"),
        ({"val_loss": 1.0}, r"val_loss: got shape \(\)"),
        ({"val_loss": np.ones(14)}, "val_steps: got None for 14 values of val_loss and 12 of train_loss"),
        ({"val_steps": [1, 2]}, r"val_steps: got \[1, 2\] for 12 values"),
        ({"val_steps": np.arange(12)[::-1]}, "val_steps: .* ascending"),
        ({"val_steps": np.arange(12) + 1.5}, "val_steps: .* from 0 to 12"),
        ({"val_steps": np.arange(12) - 1}, "val_steps: .* from 0 to 12"),
        ({"val_steps": np.arange(12) + 2}, "val_steps: .* from 0 to 12"),
        ({"lr": -0.1}, "lr: got -0.1; give one rate"),
        ({"lr": math.nan}, "lr: got nan"),
        ({"lr": np.ones(5)}, "lr: got .* for each of the 12 steps"),
        ({"weight_decay": -1e-4}, "weight_decay: got -0.0001"),
        ({"weight_decay": math.inf}, "weight_decay: got inf"),
        ({"total_steps": 11}, "total_steps: got 11; give a whole number, at least the 12 steps"),
        ({"total_steps": 20.5}, "total_steps: got 20.5"),
    ],
)
def test_a_bad_history_is_refused_with_the_name_of_the_argument(change, message):
    with pytest.raises(ValueError, match="^" + message):
        History(**{"train_loss": np.ones(12), "val_loss": np.ones(12), **change})


def test_validations_without_steps_are_spaced_evenly_up_to_the_end():
    assert History(np.ones(10), np.ones(4)).val_steps.tolist() == [2, 5, 7, 10]
    assert History(np.ones(4), np.ones(4)).val_steps.tolist() == [1, 2, 3, 4]


def test_a_history_has_one_line():
    history = History([3.0, 2.0, 1.5], [2.5, 1.75])
    assert repr(history) == "History(3 steps, validations: 2, train_loss 3 to 1.5, val_loss 2.5 to 1.75)"
