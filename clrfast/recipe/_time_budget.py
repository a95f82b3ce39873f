"""``TimeBudget``: a budget of time, converted to steps by the measured time of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from itertools import islice

from .._progress import Progress, show_progress
from ..finder import LRCurve
from ..finder._experiment import Experiment
from ..tasks import Task
from ..training import StepOptions
from . import _deadline as clock
from ._momentum import MOMENTUM_VALUES
from ._step_allocation import MIN_TRIAL_STEPS, RANGE_TEST_STEPS, SMALL_GRID_TRIALS
from ._step_budget import RunRangeTest
from ._study import Study
from ._trial_runner import DEFAULT_REPEATS, trial_validation
from ._weight_decay import GRID

TIMED_BATCHES = 10
"""Number of batches timed to estimate the cost of loading one."""

TRIALS_AT_ONCE = (
    (SMALL_GRID_TRIALS,),
    (len(GRID) * DEFAULT_REPEATS, 2 * DEFAULT_REPEATS),
    (len(MOMENTUM_VALUES) * DEFAULT_REPEATS, DEFAULT_REPEATS),
)
"""Numbers of trials in each stage that ranks share. The trials of one number are independent and run at once; the
numbers of a stage follow one another."""


class TimeBudget:
    """A limit on the time of the search, which starts now.

    Args:
        budget: the time, above 0.
    Raises:
        ValueError: ``budget`` is not above 0.
    """

    def __init__(self, budget: timedelta):
        if budget <= timedelta(0):
            raise ValueError(f"budget: got {budget!r}; give a time above 0, as datetime.timedelta(minutes=5)")
        self._deadline = clock.Deadline(budget.total_seconds())

    @property
    def remaining_seconds(self) -> float:
        """Seconds that are left, above 0."""
        return max(self._deadline.remaining, 1e-9)

    def needs_timing(self, study: Study) -> bool:
        """Return whether the time of a step is unknown."""
        return study.seconds_per_step is None

    def remaining_steps(self, study: Study, n_ranks: int) -> int:
        """Return how many steps are left. The ranks share all but the steps of one range test."""
        assert study.seconds_per_step is not None
        alone = self.remaining_seconds / study.seconds_per_step
        shared = max(0.0, alone - RANGE_TEST_STEPS)
        return int(min(alone, RANGE_TEST_STEPS) + shared * speedup(n_ranks, TRIALS_AT_ONCE))

    def require_enough(self, study: Study, n_ranks: int, hint: str) -> None:
        """Raise ValueError if too little is left for a range test and the small grid; ``hint`` ends the message."""
        if self.remaining_steps(study, n_ranks) >= RANGE_TEST_STEPS + SMALL_GRID_TRIALS * MIN_TRIAL_STEPS:
            return
        assert study.seconds_per_step is not None
        needed_steps = RANGE_TEST_STEPS + SMALL_GRID_TRIALS * MIN_TRIAL_STEPS / speedup(n_ranks, TRIALS_AT_ONCE)
        needed = self._deadline.elapsed + needed_steps * study.seconds_per_step
        raise ValueError(
            f"budget: got {self._deadline.seconds:.3g} s; an update takes about {1000 * study.seconds_per_step:.2g} ms "
            f"here, with the looks at the validation data, and so two range tests and {SMALL_GRID_TRIALS} runs of "
            f"{MIN_TRIAL_STEPS} updates about {needed:.2g} s; less says nothing, so give more{hint}"
        )

    def run_range_test(
        self, run: RunRangeTest, task: Task, options: StepOptions, progress: Progress | bool | None
    ) -> tuple[LRCurve, float]:
        """Run a range test; return its curve, and the seconds that a step of a trial takes with its overhead."""
        overhead = _overhead_per_step(task, MIN_TRIAL_STEPS, options)  # first, as the first steps are slow
        start = clock.now()
        with show_progress(progress, "range test") as show:
            counter = _StepCounter(show)
            curve = run(counter)
        return curve, (clock.now() - start) / counter.steps + overhead


class _StepCounter:
    """A ``Progress`` that counts the steps of a range test.

    The range test reports the planned steps of a ramp as done even if the ramp diverged before its end.
    """

    def __init__(self, progress: Progress | None):
        self.steps, self._progress, self._done, self._lr = 0, progress, 0, math.inf

    def __call__(self, done: int, total: int, shown: dict[str, float]) -> None:
        same_ramp = shown["lr"] > self._lr  # a new ramp starts with a low rate
        self.steps += done - self._done if same_ramp else 1
        self._done, self._lr = done, shown["lr"]
        if self._progress is not None:
            self._progress(done, total, shown)


def _overhead_per_step(task: Task, steps: int, options: StepOptions) -> float:
    """Measure the seconds by which a step of a trial of ``steps`` or more exceeds a step of a range test.

        validation / steps between two + accumulate * loading * (repeats - 1) / 2

    A repeat skips the batches of the repeats before it, which takes their loading time. Loading that overlaps with
    training is counted although it costs nothing, so the search ends early rather than late.
    """
    experiment, accumulate = Experiment(task, options), options.accumulate
    with experiment.batches(task.val_loader) as batches:
        validation = trial_validation(task, steps)
        with experiment.training() as step:
            step(*islice(batches, accumulate))  # the first step is slow, and so is the first validation
            seconds = min(_seconds(lambda: float(validation.mean(step))) for _ in range(2))
        loading = _seconds(lambda: list(islice(batches, TIMED_BATCHES))) / TIMED_BATCHES
    return seconds / validation.every + accumulate * loading * (DEFAULT_REPEATS - 1) / 2


def speedup(n_ranks: int, trials_at_once: Iterable[Sequence[int]]) -> float:
    """Return the smallest factor by which ``n_ranks`` run the trials of a stage faster than one rank.

    Args:
        trials_at_once: for each stage the numbers of independent trials, one after the other.

    >>> speedup(1, [(8, 4), (6,)]), speedup(4, [(8, 4), (6,)])
    (1.0, 3.0)
    """
    return min(sum(trials) / sum(math.ceil(n / n_ranks) for n in trials) for trials in trials_at_once)


def _seconds(call: Callable[[], object]) -> float:
    start = clock.now()
    call()
    return clock.now() - start
