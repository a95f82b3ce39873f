"""A budget that is a time: what an update takes, and for how many it is enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from .._progress import Progress, show_progress
from ..finder import LRCurve, range_test
from ..finder._experiment import Experiment
from ..tasks import Task
from ..training import StepOptions
from . import _deadline as clock
from ._momentum import VALUES
from ._recipe import RANGE_STEPS
from ._runner import REPEATS, held_out
from ._weight_decay import GRID

TIMED_BATCHES = 10
"""That are loaded to tell how long one takes."""


class TimeBudget:
    """The time that a search has, from now on.

    Args:
        budget: above 0.
        runs, steps: the least that tells anything, besides two range tests: so many runs of so many updates.
    """

    def __init__(self, budget: timedelta, runs: int, steps: int):
        if budget <= timedelta(0):
            raise ValueError(f"budget: got {budget!r}; give a time above 0, as datetime.timedelta(minutes=5)")
        self._deadline, self._runs, self._steps = clock.Deadline(budget.total_seconds()), runs, steps
        at_once = ((len(GRID) * REPEATS, 2 * REPEATS), (len(VALUES) * REPEATS, REPEATS))
        self._parts = ((runs,), *at_once)

    @property
    def left(self) -> float:
        """Seconds, above 0."""
        return max(self._deadline.remaining, 1e-9)

    def updates(self, pace: float, n_ranks: int) -> int:
        """For which the rest is enough, at ``pace`` seconds each; range tests, of which one is to come, are not shared
        out."""
        alone = self.left / pace
        return int(min(alone, RANGE_STEPS) + max(0.0, alone - RANGE_STEPS) * speedup(n_ranks, self._parts))

    def require(self, pace: float, n_ranks: int, kept: str) -> None:
        """Raises ValueError, with ``kept`` at the end of its message, if the rest is not enough for the least."""
        if self.updates(pace, n_ranks) >= RANGE_STEPS + self._runs * self._steps:
            return
        to_come = RANGE_STEPS + self._runs * self._steps / speedup(n_ranks, self._parts)
        raise ValueError(
            f"budget: got {self._deadline.seconds:.3g} s; an update takes about {1000 * pace:.2g} ms here, with the "
            f"looks at the validation data, and so two range tests and {self._runs} runs of {self._steps} updates "
            f"about {self._deadline.elapsed + to_come * pace:.2g} s; less says nothing, so give more{kept}"
        )

    def range_test(self, model: Task, options: StepOptions, progress: Any, **given: Any) -> tuple[LRCurve, float]:
        """The curve, and the seconds that an update of short runs takes by it, with all that they need besides."""
        besides = _besides(model, self._steps, options)  # first, for it takes what is slow only once, too
        begin = clock.now()
        with show_progress(progress, "range test") as show:
            counted = _Counted(show)
            curve = range_test(model, options=options, progress=counted, **given)
        return curve, (clock.now() - begin) / counted.updates + besides


class _Counted:
    """A ``Progress`` of a range test that counts its updates: sweeps end where the loss diverges, and the steps that
    they had planned are told as done all the same."""

    def __init__(self, progress: Progress | None):
        self.updates, self._progress, self._done, self._lr = 0, progress, 0, math.inf

    def __call__(self, done: int, total: int, shown: dict[str, float]) -> None:
        rises = shown["lr"] > self._lr  # a sweep that begins falls back
        self.updates += done - self._done if rises else 1
        self._done, self._lr = done, shown["lr"]
        if self._progress is not None:
            self._progress(done, total, shown)


def _besides(task: Task, steps: int, options: StepOptions) -> float:
    """What an update of a run of ``steps``, or of longer ones, takes beyond one of a range test.

        look / steps between two + accumulate * load * (REPEATS - 1) / 2

    A repeat passes over the batches of those before it, which takes their loading. What a loader loads while the
    model trains is counted twice so; better too little is done in the time than too much.
    """
    experiment, accumulate = Experiment(task, options), options.accumulate
    with experiment.batches(task.val_loader) as batches:
        looked_at = held_out(task.val_loader, steps, own=task.loss_fn is None)
        with experiment.training() as step:
            step(*islice(batches, accumulate))  # the first of all takes longer, and the first look
            look = min(_seconds(lambda: float(looked_at.mean(step))) for _ in range(2))
        load = _seconds(lambda: list(islice(batches, TIMED_BATCHES))) / TIMED_BATCHES
    return look / looked_at.every + accumulate * load * (REPEATS - 1) / 2


def speedup(n_ranks: int, parts: Iterable[Sequence[int]]) -> float:
    """How many times faster so many ranks make short runs, at least.

    Args:
        parts: for each part of the search how many runs it makes at once, one after the other.

    >>> speedup(1, [(8, 4), (6,)]), speedup(4, [(8, 4), (6,)])
    (1.0, 3.0)
    """
    return min(sum(runs) / sum(math.ceil(n / n_ranks) for n in runs) for runs in parts)


def _seconds(call: Callable[[], object]) -> float:
    begin = clock.now()
    call()
    return clock.now() - begin
