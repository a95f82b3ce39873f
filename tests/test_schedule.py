import numpy as np
import pytest

from clrfast import Schedule
from clrfast.schedules import Constant, Linear

GROUPS = [{"lr": 1.0, "momentum": 0.9, "weight_decay": 0.1}, {"lr": 2.0, "momentum": 0.5, "weight_decay": 0.0}]


def test_table_of_one_group():
    table = Schedule(Linear(0.0, 1.0, 2), momentum=0.5, total_steps=4).table()
    assert table.dtype == np.float32
    assert table.tolist() == [[[0.0, 0.5, 0.0]], [[0.5, 0.5, 0.0]], [[1.0, 0.5, 0.0]], [[1.0, 0.5, 0.0]]]


def test_table_of_several_groups():
    table = Schedule([1.0, Linear(0.0, 2.0, 1)], weight_decay=[0.25, 0.5]).table(2)
    assert table.tolist() == [[[1.0, 0.0, 0.25], [0.0, 0.0, 0.5]], [[1.0, 0.0, 0.25], [2.0, 0.0, 0.5]]]


def test_explicit_total_steps_overrides_the_own():
    assert len(Schedule(0.1, total_steps=5).table(2)) == 2


def test_plain_function_is_a_curve():
    assert Schedule(lambda step: 1 / (1 + step)).table(3)[:, 0, 0].tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_binding_fills_in_the_groups_own_values():
    bound = Schedule(Linear(0.0, 1.0, 1), weight_decay=lambda step: 0.5 + 0 * step, total_steps=2).bound_to(GROUPS)
    assert bound.n_groups == 2
    assert bound.momentum == (Constant(0.9), Constant(0.5))
    np.testing.assert_array_equal(
        bound.table(), np.float32([[[0, 0.9, 0.5], [0, 0.5, 0.5]], [[1, 0.9, 0.5], [1, 0.5, 0.5]]])
    )


def test_dict_round_trip():
    bound = Schedule(Linear(0.0, 1.0, 1), momentum=[0.9, 0.8], total_steps=3).bound_to(GROUPS)
    assert Schedule.from_dict(bound.to_dict()) == bound
    unbound = Schedule(0.1)
    assert Schedule.from_dict(unbound.to_dict()) == unbound


def test_numbers_and_constants_are_equal():
    assert Schedule(0.1, total_steps=2) == Schedule(Constant(0.1), total_steps=2)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Schedule(None), "lr: got None"),
        (lambda: Schedule("fast"), "lr: got 'fast'"),
        (lambda: Schedule([]), "lr: got an empty sequence"),
        (lambda: Schedule([0.1, 0.2], momentum=[0.9] * 3), "disagree about the number of groups"),
        (lambda: Schedule(0.1, total_steps=0), "total_steps: got 0"),
        (lambda: Schedule(0.1, total_steps=2.5), "total_steps: got 2.5"),
        (lambda: Schedule(0.1, total_steps=True), "total_steps: got True"),
        (lambda: Schedule(0.1).table(), "total_steps: got None"),
        (lambda: Schedule(0.1).table(0), "total_steps: got 0"),
        (lambda: Schedule(0.1).bound_to(GROUPS), "has no total_steps"),
        (lambda: Schedule([0.1] * 3, total_steps=1).bound_to(GROUPS), "has 3 groups, but the optimizer has 2"),
        (lambda: Schedule(-0.1).table(1), "lr: got -0.1 at step 0"),
        (lambda: Schedule(Linear(0.0, 1e39, 2)).table(3), "lr: got 5e[+]38 at step 1"),
        (lambda: Schedule(0.1, momentum=lambda s: s * np.nan).table(2), "momentum: got nan at step 0"),
        (lambda: Schedule(lambda s: s[:1]).table(2), r"returned shape \(1,\) for steps of shape \(2,\)"),
        (lambda: Schedule(lambda s: s).to_dict(), "has no dict form"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
