"""Schedules from dicts of users: each bad entry is named."""

import pytest

from clrfast import Schedule
from clrfast.schedules import one_cycle
from clrfast.schedules._table import MAX_TOTAL_STEPS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"schedule: got \[\]; give a dict"),
        ({"lr": 0.1, "weight_dacay": 0.1}, "schedule.weight_dacay: this entry is unknown; known are lr, momentum"),
        ({"lr": "fast"}, "lr: got 'fast'"),
        ({"lr": b"\1\2"}, "lr: got b'"),
        ({"lr": [[0.1]]}, "lr: got .*give a curve"),
        ({"lr": [None]}, "lr: got None; give a curve"),
        ({"lr": 10**400}, "lr: got "),
        ({"lr": 10**5000}, "lr: got a value of type int"),
        ({"lr": 0.1, "total_steps": "many"}, "total_steps: got 'many'"),
        ({"lr": 0.1, "total_steps": 10**18}, r"total_steps: got 1e\+18; .* at most 100,000,000"),
        ({"lr": {"kind": "Linear", "start": "x", "end": 1, "transition_steps": 2}}, "lr.start: got 'x'"),
        (
            {"lr": {"kind": "Joined", "curves": [{"kind": "Zigzag"}], "boundaries": []}},
            "lr.curves.*'Zigzag' is unknown",
        ),
        ({"lr": {"kind": "Function", "function": 3}}, "function: got 3; give a function"),
        ({"lr": {"kind": "Clipped", "curve": 1, "low": [1], "high": [2]}}, "low, high: got .* give numbers"),
    ],
)
def test_an_entry_of_a_schedule_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        Schedule.from_dict(data)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    read = {"lr": "1e-3", "momentum": {"kind": "Constant", "value": "9e-1"}, "total_steps": "1e2"}
    assert Schedule.from_dict(read) == Schedule(1e-3, momentum=0.9, total_steps=100)


@pytest.mark.parametrize("nest", [lambda inner: [inner], lambda inner: {"kind": "Scaled", "curve": inner, "factor": 1}])
def test_deep_nesting_is_refused(nest):
    deep = 0.1
    for _ in range(10_000):
        deep = nest(deep)
    with pytest.raises(ValueError, match=r"lr.*: it is nested more than 50 deep"):
        Schedule.from_dict({"lr": deep})


def test_a_table_of_terabytes_is_refused_before_allocation():
    schedule = Schedule(0.1)
    with pytest.raises(ValueError, match=r"total_steps: got 1000000000000000000; .* at most"):
        schedule.table(10**18)
    with pytest.raises(ValueError, match="total_steps: got"):
        one_cycle(0.1, 10**400)
    assert Schedule(0.1, total_steps=MAX_TOTAL_STEPS).total_steps == MAX_TOTAL_STEPS
