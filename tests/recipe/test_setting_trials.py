"""The results of trials with several values of one setting."""

import math

import numpy as np
import pytest

from clrfast import History, NoSuggestionError, WeightDecayTrials
from tests.helpers.histories import decay_trials

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_noise_tolerance_is_the_difference_that_other_batches_would_make():
    # Distances from the means: 0, then 0.1, then 0.2, each twice; for each value with those of all better ones.
    found = decay_trials([[1.1, 1.3], [1.0, 1.0], [1.4, 1.8]])
    medians = np.array([0.05, 0.0, 0.1])
    np.testing.assert_allclose(found.noise_tolerance, 2 * medians / 0.6745 * math.sqrt(2))
    np.testing.assert_allclose(
        decay_trials([[1.0, 1.2], [1.4, math.inf], [1.3, 1.4]]).noise_tolerance[[0, 1]],
        [0.2 / 0.6745 * 2**0.5, math.inf],
    )


@pytest.mark.parametrize("losses", [[[2.0, 2.1], [3.0, 3.0]], [[math.inf, math.inf], [math.inf, math.nan]]])
def test_there_is_no_suggestion_if_no_loss_falls(losses):
    found = decay_trials(losses, values=(0.0, 1e-3))
    with pytest.raises(NoSuggestionError, match="in no trial with a rate"):
        found.suggest()
    assert "no suggestion" in str(found)


def test_min_loss_its_step_and_max_stable_lr_are_read_off_the_history():
    lr = np.concatenate((np.linspace(0.1, 1.0, 10), np.linspace(0.9, 0.0, 10)))

    def found(*val):
        return WeightDecayTrials(np.zeros(1), ((History(np.ones(20), val, [0, 2, 4, 6, 8, 12, 20], lr=lr),),), 1.0)

    calm, wild = found(2.0, 1.5, 1.1, 1.15, 1.1, 1.4, 1.2), found(2.0, 1.5, 1.0, 1.5, 1.6, 1.1, 1.2)
    assert (calm.min_loss, calm.min_loss_step, calm.max_stable_lr) == (1.1, 4, 1.0)  # a climb by 0.05 is small
    assert (wild.min_loss, wild.min_loss_step) == (1.0, 4)
    assert wild.max_stable_lr == pytest.approx(0.4)  # of the 4 updates before the climb, the last
    assert found(2.0, 2.5, 1.1, 1.0, 0.9, 1.4, 1.2).max_stable_lr == 1.0  # the loss recovered at a higher rate
