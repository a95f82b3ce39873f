"""How the steps of a budget are divided among the stages."""

import pytest

import clrfast
from clrfast.recipe._step_allocation import RANGE_TEST_STEPS, SMALL_GRID, pair_steps, plan_grid
from clrfast.recipe._study import Study
from clrfast.recipe._weight_decay import GRID
from tests.helpers.problems import clouds

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("left", "planned_steps", "wanted"),
    [(8000, 1000, 1000), (9000, 1000, 1000), (3999, 1000, 499), (2000, 1000, 250), (1999, 1000, 0), (319, 100, 0)],
)
def test_pairs_are_tried_if_their_trials_are_a_quarter_of_the_training(left, planned_steps, wanted):
    assert pair_steps(Study(left, planned_steps, 0, "model", None)) == wanted


@pytest.mark.parametrize(
    ("steps", "planned_steps", "wanted"),
    [
        (240, 1000, (SMALL_GRID, 40, False)),
        (479, 1000, (SMALL_GRID, 79, False)),
        (480, 1000, (GRID, 40, True)),
        (2199, 1000, (GRID, 183, True)),
        (2200, 1000, (GRID, 100, True)),  # the momenta get 10 parts of 22
        (22 * 300, 1000, (GRID, 200, True)),
        (22 * 300, 3000, (GRID, 300, True)),
        (22 * 300, 2500, (GRID, 250, True)),
    ],
)
def test_weight_decays_get_their_share_of_the_budget(steps, planned_steps, wanted):
    assert plan_grid(steps, planned_steps) == wanted


def test_trials_are_long_enough_with_the_advised_budget():
    assert plan_grid(1536 - 3 * RANGE_TEST_STEPS, 10_000) == (GRID, 100, True)


def test_a_range_test_takes_at_most_the_steps_that_it_is_charged():
    told = []
    task = clouds()
    clrfast.range_test(task, trials=False, progress=lambda done, total, shown: told.append(total))
    assert max(told) == RANGE_TEST_STEPS
