import math

import numpy as np
import pytest

from clrfast.finder import NoSuggestionError, edge, minimum_tenth, steepest

LR = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0])


@pytest.mark.parametrize(
    ("loss", "at_steepest", "lowest", "climbed"),
    [
        ([5.0, 4.9, 4.0, 1.0, 0.5, 9.0], 1e-2, 1.0, 10.0),  # slopes per decade: -0.1, -0.5, -1.95, -1.75, 4, ...
        ([5.0, 4.0, 1.0, 0.5, 9.0, 9.0], 1e-3, 1e-1, 1.0),
        ([-5.0, -5.1, -6.0, -9.0, -9.5, 2.0], 1e-2, 1.0, 10.0),  # negative losses
        ([5.0, 4.9, math.nan, 1.0, 0.5, 9.0], 1e-1, 1.0, 10.0),  # a gap
        ([5.0, 4.9, 4.0, 1.0, 0.5, math.inf], 1e-2, 1.0, 10.0),
        ([5.0, 4.0, 1.0, 0.5, math.nan, 9.0], 1e-3, 1e-1, 1.0),  # not finite is climbed
        ([2.0, 1.6, 1.9, 1.8, 0.2, 9.0], 1e-1, 1.0, 10.0),  # two valleys: the deeper one
        ([5.0, 4.0, 1.0, 0.5, 0.6, 0.7], 1e-3, 1e-1, 10.0),  # it never climbs back: the last rate
    ],
)
def test_answers(loss, at_steepest, lowest, climbed):
    assert steepest(LR, loss).max_lr == pytest.approx(at_steepest)
    assert minimum_tenth(LR, loss).max_lr == pytest.approx(lowest / 10)
    assert edge(LR, loss).max_lr == pytest.approx(climbed / 8)


def test_a_sweep_that_ends_too_early_says_so():
    assert "a higher max_lr tells more" in edge(LR, [5.0, 4.0, 1.0, 0.5, 0.6, 0.7]).reason
    assert "climbed back to its start" in edge(LR, [5.0, 4.0, 1.0, 0.5, 0.6, 5.7]).reason


@pytest.mark.parametrize("method", [edge, steepest, minimum_tenth])
@pytest.mark.parametrize(
    ("lr", "loss", "reason"),
    [
        (LR[:4], [4.0, 3.0, 2.0, 1.0], "only 4 finite points"),
        (LR, [4.0, math.nan, math.nan, 2.0, 1.0, 3.0], "only 4 finite points"),
        (LR, [1.0] * 6, "never falls"),
        (LR, [1.0, 1.0 - 1e-7, 1.0 - 2e-7, 1.0, 1.0, 1.0], "never falls"),
        (LR, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "never falls"),
    ],
)
def test_refusals(method, lr, loss, reason):
    with pytest.raises(NoSuggestionError, match=reason):
        method(lr, loss)


@pytest.mark.parametrize("method", [edge, steepest, minimum_tenth])
@pytest.mark.parametrize(
    ("lr", "loss"),
    [(LR, [1.0, 2.0]), (LR[::-1], LR), (-LR, LR), (LR[None], LR[None])],
    ids=["length", "order", "sign", "2d"],
)
def test_bad_input_is_named(method, lr, loss):
    with pytest.raises(ValueError, match=r"^lr(, loss)?: got"):
        method(lr, loss)


def test_the_unit_of_the_loss_does_not_matter():
    loss = np.array([5.0, 4.9, 4.0, 1.0, 0.5, 9.0])
    assert steepest(LR, loss).max_lr == steepest(LR, 1000 * loss + 7).max_lr
