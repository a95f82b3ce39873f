"""Studies of made-up trials, and searches whose trials end at once with a made-up loss."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from clrfast import BatchSizes, LRCurve
from clrfast.recipe import SearchSettings, Study, Trial, TrialSpec
from clrfast.recipe._plan import due_trials, next_point
from clrfast.recipe._study import Result
from tests.helpers.histories import ending_history

RATES = {"sgd": 0.1, "adamw": 0.01}
"""About the rate that a made-up range test suggests for each optimizer."""


def make_settings(budget: int | None = 464, **changes: Any) -> SearchSettings:
    """Return the settings of a search over SGD for a training of 10,000 steps."""
    settings = SearchSettings(
        planned_steps=10_000,
        optimizers=("sgd",),
        find_batch_size=False,
        budget=budget,
        seconds=None,
        deadline=None,
        sampler=None,
        model="a model",
        batch_size=20,
        seed=0,
        digests={"model": "0"},
    )
    return replace(settings, **changes)


def make_curve(optimizer: str = "sgd", factor: float = 1.0) -> LRCurve:
    """Return a range test that suggests about ``factor * RATES[optimizer]``."""
    lr = np.geomspace(1e-3, 1e2, 60) * factor * RATES[optimizer]
    loss = 2.0 - np.clip(np.log10(lr / lr[0]) - 1, 0, 3) / 3 + 5 * (lr > 10 * factor * RATES[optimizer])
    return LRCurve(lr, loss, 2.0, "diverged", "made up")


def make_trial(
    spec: TrialSpec,
    result: Result | float = 1.0,
    number: int = 0,
    *,
    started: float = 0.0,
    finished: float = 0.0,
    seconds_per_step: float | None = None,
    worker: str = "here:1",
    n_workers: int = 1,
) -> Trial:
    """Return the trial of ``spec``; a number is the loss at the end of a training, from 9 on."""
    if isinstance(result, int | float):
        result = ending_history(result, spec.steps)
        result = spec.history(result.train_loss, result.val_loss, result.val_steps)
    return Trial(spec, result, number, worker, started, finished, seconds_per_step, n_workers)


def result_of(spec: TrialSpec, loss: Callable[[TrialSpec], float] = lambda spec: 1.0) -> Result | float:
    """Return a made-up result: a range test, batch sizes of which 40 is the fastest, or the loss of a training."""
    if spec.stage == "range test":
        return make_curve(spec.optimizer)
    if spec.stage == "batch size":
        return BatchSizes(80, 40, "max_batch_size", "it is the largest to try", ())
    return loss(spec)


def make_study(settings: SearchSettings, specs: Iterable[TrialSpec], loss: Callable[[TrialSpec], float]) -> Study:
    """Return a study in which the trials of ``specs`` have finished in this order."""
    return Study(settings, tuple(make_trial(spec, result_of(spec, loss), i) for i, spec in enumerate(specs)))


class Search:
    """A search by several workers whose trials end in a random order.

    Attributes:
        study: the finished trials.
        seen: for each key all specifications with which it was due.
        batches: the trials that were due at each moment.
    """

    def __init__(self, settings: SearchSettings, loss: Callable[[TrialSpec], float], workers: int = 1, seed: int = 0):
        self.study, self.seen, self.batches = Study(settings, ()), {}, []
        draw, running, finished, number = random.Random(seed), [], {}, 0
        while True:
            due = due_trials(self.study, [spec for _, spec in running])
            self.batches.append(due)
            for spec in due:
                self.seen.setdefault(spec.key, set()).add(spec if spec.stage != "pair" else replace(spec, max_lr=None))
            free = [spec for spec in due if spec.key not in {each.key for _, each in running}]
            if free and len(running) < workers:
                spec = draw.choice(free)
                if spec.stage == "pair":
                    point = next_point(self.study, [each for _, each in running])
                    assert point is not None
                    spec = replace(spec, **vars(point))
                running.append((number, spec))
                number += 1
            elif running:
                ended, spec = running.pop(draw.randrange(len(running)))
                finished[ended] = make_trial(spec, result_of(spec, loss), ended)
                self.study = Study(settings, tuple(trial for _, trial in sorted(finished.items())))
            else:
                return

    @property
    def keys(self) -> list[str]:
        """The keys in the order in which their trials began."""
        return [trial.spec.key for trial in self.study.trials]


def decay_loss(best: float, loss: Callable[[float], float] = abs) -> Callable[[TrialSpec], float]:
    """Return a loss with hardly any noise that is lowest at one weight decay; 0 counts as 1e-9."""
    where = math.log10(best or 1e-9)

    def of(spec: TrialSpec) -> float:
        return 1.0 + loss(math.log10(spec.weight_decay or 1e-9) - where) / 10 + 1e-6 * spec.repeat

    return of
