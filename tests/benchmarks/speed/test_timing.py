"""Interleaved timing, with a timer that needs no time."""

import numpy as np
import pytest

from benchmarks.speed import timing


def test_every_round_times_every_contender_once():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = timing.interleaved(contenders, 20, warm_up=2, timer=lambda call: call() or 1.0)
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 20)
    rounds = np.reshape(calls, (22, 3))
    assert all(set(each) == set("abc") for each in rounds)
    assert len(set(map(tuple, rounds))) > 1  # the order changes


def test_no_round_begins_after_the_limit_but_one_is_made():
    seconds = timing.interleaved({"a": lambda: None}, 1000, warm_up=3, limit_s=0.0)
    assert len(seconds["a"]) == 1


def test_statistics_are_in_microseconds_and_ratios_go_round_by_round():
    found = timing.statistics(np.array([1.0, 2.0, 3.0]))
    assert found == {"median_us": 2e6, "q25_us": 1.5e6, "q75_us": 2.5e6, "n": 3}
    found = timing.ratios(np.array([2.0, 30.0]), np.array([1.0, 10.0]), "over")
    assert found == {"over": pytest.approx(2.5), "over_q25": pytest.approx(2.25), "over_q75": pytest.approx(2.75)}
