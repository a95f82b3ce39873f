"""The headline's benchmark on a network of one layer: its rows, and its time limit."""

import json
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.speed import headline
from benchmarks.speed.cifar10_jpeg import NAME
from benchmarks.speed.headline import Job
from benchmarks.tables.policies import headline_table
from clrfast import NoSuggestionError, Suggestion, Task
from tests.cuda_on_cpu import emulated_graphs

N, BATCH_SIZE, STEPS = 32, 8, 20


@pytest.fixture
def job(monkeypatch):
    def small_task(seed, data, batch_size):
        (images, labels), test = data
        torch.manual_seed(seed)
        model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, 10))
        batches = list(zip((images / 255).split(batch_size), labels.split(batch_size), strict=True))
        return Task(model, nn.CrossEntropyLoss(), batches, [(test[0] / 255, test[1])])

    monkeypatch.setattr(headline, "resnet56_task", small_task)
    return Job(headline.random_data(N), BATCH_SIZE, STEPS, time.monotonic() + 600)


class Suggesting:
    """Stands in for the curve of a range test."""

    def __init__(self, answer):
        self.answer = answer

    def suggest(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


SUGGESTION = Suggestion(0.2, base_lr=0.05, low=0.1, high=0.3, method="test", reason="because")


def suggesting(monkeypatch, answer):
    monkeypatch.setattr(headline.clrfast, "range_test", lambda *_, **options: Suggesting(answer))


def table(found):
    return headline_table({"environment": {"cpu": "a", "cores": 1, "torch": "2", "commit": "c"}, "rows": found})


def test_the_suggested_rate_and_copies_follow_the_published_run(job, monkeypatch):
    suggesting(monkeypatch, SUGGESTION)
    published, suggested, copies = found = list(headline.rows(job, job.end))
    assert [row["recipe"] for row in found] == ["published", "suggested", "copies"]
    assert all(row["task"] == NAME for row in found)
    assert published["steps"] == list(range(2, STEPS + 1, 2))
    assert (published["max_lr"], published["weight_decay"], published["published"]) == (0.8, 1e-4, "91.5 %")
    assert suggested["max_lr"] == 0.2
    assert suggested["total_steps"] == STEPS  # never longer than the published run
    assert len(copies["accuracy"]) == len(headline.DECAYS)
    assert copies["total_steps"] == headline.MAX_SWEEP_EPOCHS * N // BATCH_SIZE
    assert json.loads(json.dumps(found)) == found
    assert table(found).count("\n| ") == 3


def test_steps_are_replays_where_there_are_graphs_and_the_numbers_stay(job, monkeypatch):
    monkeypatch.setattr(headline.clrfast, "SGD", partial(headline.clrfast.SGD, backend="torch"))
    job = replace(job, data=headline.random_data(N - 3))  # the last batch of an epoch is of another kind
    schedule = headline.published_cycle(STEPS)
    eager = headline.one_run(job, "published", schedule)
    emulated_graphs.install(monkeypatch)
    captured = headline.one_run(job, "published", schedule)
    assert captured["eager_reason"] is None
    assert "only CUDA devices have graphs" in eager["eager_reason"]
    assert captured["accuracy"] == eager["accuracy"]


def test_without_a_suggestion_the_reason_is_the_row(job, monkeypatch):
    suggesting(monkeypatch, NoSuggestionError("too noisy"))
    found = list(headline.rows(job, job.end))
    assert found[1] == {"benchmark": "headline", "recipe": "suggested", "missing": "too noisy"}
    assert "too noisy" in table(found)


def test_at_the_limit_a_run_stops_with_what_it_reached(job, monkeypatch):
    left = iter([1.0] * 5 + [0.0] * 100)
    monkeypatch.setattr(Job, "left_s", lambda self: next(left))
    (row,) = headline.rows(job, job.end)
    assert row["steps"] == [2, 4, 5]
    assert len(row["accuracy"]) == 3
    assert row["total_steps"] == STEPS
    assert f"5 of {STEPS}" in table([row])


def test_without_any_time_there_is_a_row_without_steps(job):
    (row,) = headline.rows(replace(job, end=0.0), 0.0)
    assert (row["steps"], row["accuracy"], row["us_per_step"]) == ([], [], None)
    table([row])


def test_the_suggested_rate_gets_what_it_leaves_to_the_copies(job, monkeypatch):
    suggesting(monkeypatch, SUGGESTION)
    monkeypatch.setattr(headline, "one_run", lambda job, recipe, schedule: {"total_steps": schedule.total_steps})
    job = replace(job, total_steps=10**6)
    us_per_step = 1e6  # a second
    for left_s, epochs in ((100, (100 - headline.SWEEP_S) // 4), (40, headline.MIN_EPOCHS)):
        monkeypatch.setattr(Job, "left_s", lambda self, left_s=left_s: left_s)
        row = headline.suggested_run(job, us_per_step)
        assert row["total_steps"] == epochs * job.steps_per_epoch
    monkeypatch.setattr(Job, "left_s", lambda self: 4 * 7.9)
    assert headline.suggested_run(job, us_per_step) is None


def test_the_command_writes_its_rows(monkeypatch, tmp_path, job):
    monkeypatch.setattr(sys, "argv", ["headline", "--tiny", "--device", "cpu", "--results", str(tmp_path)])
    headline.main()
    rows = json.loads((tmp_path / "headline_cpu.json").read_text())["rows"]
    assert [row["recipe"] for row in rows] == ["published", "suggested", "copies"]
