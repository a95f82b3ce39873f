"""The results of trials with pairs, and the suggestion."""

import math

import numpy as np
import pytest

from clrfast import NoSuggestionError
from clrfast.recipe import PairTrials
from clrfast.recipe._pair_sampler import failing_lrs
from tests.helpers.histories import ending_history


def made(losses, rates=(0.1, 0.1, 0.3)):
    histories = tuple(ending_history(loss, initial=2.0) for loss in losses)
    return PairTrials(np.array(rates), np.array([1e-4, 1e-3, 1e-2]), 100, histories)


def test_the_pair_with_the_lowest_loss_is_suggested():
    found = made([0.5, math.inf, 0.4])
    pair = found.suggest()
    assert (pair.max_lr, pair.weight_decay, found.best) == (0.3, 1e-2, 2)
    assert pair.reason == (
        "of 3 runs of 100 steps, with rates from 0.1 to 0.3 and weight decays from 0.0001 to 0.01, the one with 0.3 "
        "and 0.01 ends with the lowest validation loss (0.4)"
    )
    assert str(found).count("\n") == 3


def test_the_expected_loss_rises_towards_a_failing_rate():
    found = made([0.5, 0.9, 1.3], rates=(0.2, 0.1, 0.4))  # 2 at the start: above 1.25 it has failed
    assert failing_lrs(found.results).tolist() == pytest.approx([0.4, 0.4, 0.4 * math.sqrt(10)])
    assert found.expected_loss.tolist() == pytest.approx([0.5 + 0.15 / 8, 0.9 + 0.11 / 64, 1.3 + 0.07 / 10**1.5])
    assert found.best == 0


def test_the_rate_above_all_tried_ones_counts_as_failing():
    found = made([0.5, 0.9, 1.2], rates=(0.2, 0.1, 0.4))
    assert failing_lrs(found.results).tolist() == pytest.approx([0.4 * math.sqrt(10)] * 3)
    assert found.expected_loss.tolist() == pytest.approx(
        [0.5 + 0.15 / 8 / 10**1.5, 0.9 + 0.11 / 64 / 10**1.5, 1.2 + 0.08 / 10**1.5]
    )


@pytest.mark.parametrize(
    ("losses", "why"),
    [([0.8, 0.77, math.inf], "a run failed at 0.4"), ([0.8, 0.9, 0.7997], "no higher rate was tried")],
)
def test_the_reason_names_a_better_pair_that_is_too_near_to_failure(losses, why):
    found = made(losses, rates=(0.1, 0.3, 0.4))
    lowest = int(found.loss.argmin())
    assert found.best == 0
    assert found.suggest().reason.endswith(
        "the one with 0.1 and 0.0001 is taken, with a validation loss of 0.8 at the end: with "
        f"{found.max_lr[lowest]:g} and {found.weight_decay[lowest]:g} it is {losses[lowest]}, but {why}, and so "
        "another training may fail there"
    )


@pytest.mark.parametrize("losses", [[2.0, 2.1, 2.0], [2.5, math.inf, math.nan]])
def test_there_is_no_suggestion_if_no_loss_falls(losses):
    with pytest.raises(NoSuggestionError, match="in no run of 100 steps"):
        made(losses).suggest()
