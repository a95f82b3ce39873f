"""The stages of a search, in the order of Smith's report: when each is due, and how it measures its setting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

from ._batch_size import find_batch_size
from ._deadline import OutOfTimeError
from ._lr_and_weight_decay import find_pair
from ._momentum import DEFAULT_MOMENTUM_CYCLE, find_momentum
from ._optimizers import trial_optimizer
from ._pair_sampler import MIN_PAIR_TRIALS
from ._pair_trials import PairTrials
from ._recipe import conclude
from ._search import Search
from ._step_allocation import (
    GRID_TRIALS,
    MIN_BUDGET,
    RANGE_TEST_STEPS,
    momentum_is_affordable,
    pair_steps,
    plan_grid,
    plan_momenta,
    retest_is_due,
)
from ._study import Study
from ._trials import PendingTrials, count_steps
from ._weight_decay import find_weight_decay

MIN_EPOCH_STEPS = 20
"""Minimum number of batches in an epoch with the largest batch size to try. With fewer, a training would have too few
updates, and too little of their noise."""


class Measured(NamedTuple):
    """The result of a stage: the steps that it took, and the fields of the study that it measured."""

    steps: int
    fields: dict[str, Any]


class Stage(ABC):
    """A stage of a search.

    Attributes:
        setting: the setting that the stage measures, as in ``Recipe.evidence``.
    """

    setting: ClassVar[str]

    @abstractmethod
    def is_due(self, search: Search) -> bool:
        """Return whether the stage has measurements to make, and the budget allows them."""

    @abstractmethod
    def measure(self, search: Search) -> Measured | None:
        """Make the measurements; None if the budget turns out too small for them."""


class FirstRangeTest(Stage):
    """The rate for the task as it is. It also measures the time of a step if the budget is a time."""

    setting = "learning rate"

    def is_due(self, search: Search) -> bool:
        return search.study.range_test is None or search.budget.needs_timing(search.study)

    def measure(self, search: Search) -> Measured:
        curve = search.range_test()
        curve.suggest()  # raises if there is no rate to continue with
        return Measured(RANGE_TEST_STEPS, {"range_test": curve})


class BatchSize(Stage):
    """The fastest batch size, if it is requested."""

    setting = "batch size"

    def __init__(self, requested: bool):
        self._requested = requested

    def is_due(self, search: Search) -> bool:
        return self._requested and search.study.batch_sizes is None

    def measure(self, search: Search) -> Measured:
        loader: Any = search.task.train_loader
        most = max(len(loader.dataset) // MIN_EPOCH_STEPS, search.study.batch_size or 1)
        find = partial(
            find_batch_size,
            search.task,
            optimizer=trial_optimizer(search.study.optimizer, search.task),
            max_batch_size=most,
            options=search.options,
        )
        sizes = search.on_first_rank("the batch sizes", find)
        search.set_batch_size(sizes.fastest)
        return Measured(0, {"batch_sizes": sizes})  # these steps are not part of the budget


class RangeTestAfterBatchSize(Stage):
    """The rate for the new batch size, if enough remains for the small grid and another range test after it."""

    setting = "learning rate"

    def is_due(self, search: Search) -> bool:
        study = search.study
        changed = study.batch_sizes is not None and study.batch_sizes.fastest != study.batch_size
        return changed and study.range_test_after_batch_size is None and study.remaining_steps >= MIN_BUDGET

    def measure(self, search: Search) -> Measured:
        return Measured(RANGE_TEST_STEPS, {"range_test_after_batch_size": search.range_test()})


class RateAndWeightDecay(Stage):
    """Long trials with pairs of rate and weight decay, if the budget is large; they replace all later stages.

    They run on the first rank only, because each depends on those before it.
    """

    setting = "weight decay"

    def is_due(self, search: Search) -> bool:
        study = search.study
        other_trials = study.weight_decay_trials is not None or study.pending_trials is not None
        return not (study.pair_trials_complete or other_trials)

    def measure(self, search: Search) -> Measured | None:
        study, finished = search.study, search.study.pair_trials
        remaining = search.remaining_steps(n_ranks=1)
        if finished is None:
            steps, max_lr, done = pair_steps(replace(study, budget=study.steps + remaining)), search.max_lr, 0
        else:
            steps, max_lr, done = finished.steps, float(finished.max_lr[0]), count_steps(finished.histories)
        if not steps:
            return None
        if finished is not None and done + remaining < MIN_PAIR_TRIALS * steps:  # the budget is smaller than it was
            return Measured(0, {"pair_trials_complete": True})

        def save(trials: PairTrials) -> None:
            total = study.steps - done + count_steps(trials.histories)
            search.file.save(replace(study, steps=total, pair_trials=trials, started_steps=steps))

        search.note_start(steps)
        find = partial(
            find_pair,
            **search.arguments(done),
            optimizer=study.optimizer,
            max_lr=max_lr,
            momentum=DEFAULT_MOMENTUM_CYCLE,
            steps=steps,
            max_steps=done + remaining,
            max_seconds=search.budget.remaining_seconds,
            finished=finished,
            save=save,
        )
        trials = search.on_first_rank("rate and weight decay", find)
        return Measured(count_steps(trials.histories) - done, {"pair_trials": trials, "pair_trials_complete": True})


class WeightDecay(Stage):
    """Short trials with weight decays."""

    setting = "weight decay"

    def is_due(self, search: Search) -> bool:
        return not search.study.pair_trials_complete and search.study.weight_decay_trials is None

    def measure(self, search: Search) -> Measured:
        study, max_steps = search.study, search.study.remaining_steps - RANGE_TEST_STEPS
        pending = study.pending_trials
        if pending is None:
            plan = plan_grid(max_steps, study.planned_steps, study.optimizer)
            pending = PendingTrials(plan.grid, plan.steps, search.max_lr, plan.refine)
        try:
            trials = find_weight_decay(
                **search.trial_arguments(pending),
                grid=pending.values,
                momentum=DEFAULT_MOMENTUM_CYCLE,
                refine=pending.refine,
                max_steps=min(GRID_TRIALS * pending.steps, pending.finished_steps + max_steps),
            )
        except OutOfTimeError as error:
            raise ValueError(
                f"budget: the time is up, earlier than the first range test told ({error}){search.file.hint}"
            ) from None
        steps = sum(map(count_steps, trials.histories)) - pending.finished_steps
        return Measured(steps, {"weight_decay_trials": trials, "pending_trials": None})


class RangeTestAfterWeightDecay(Stage):
    """The rate with a weight decay that is large enough to change it."""

    setting = "learning rate"

    def is_due(self, search: Search) -> bool:
        return not search.study.pair_trials_complete and retest_is_due(search.study)

    def measure(self, search: Search) -> Measured:
        curve = search.range_test(conclude(search.study).weight_decay)
        return Measured(RANGE_TEST_STEPS, {"range_test_after_weight_decay": curve})


class Momentum(Stage):
    """Short trials with momenta, if the rest of the budget allows trials that can compare them."""

    setting = "momentum"

    def is_due(self, search: Search) -> bool:
        study = search.study
        if study.pair_trials_complete or study.momentum_trials is not None:
            return False
        return study.pending_trials is not None or momentum_is_affordable(study)

    def measure(self, search: Search) -> Measured:
        pending = search.study.pending_trials
        if pending is None:
            plan = plan_momenta(search.study)
            pending = PendingTrials(plan.values, plan.steps, search.max_lr)
        try:
            trials = find_momentum(
                **search.trial_arguments(pending),
                values=pending.values,
                weight_decay=conclude(search.study).weight_decay,
            )
        except OutOfTimeError:
            return Measured(0, {"pending_trials": None})
        steps = sum(map(count_steps, (*trials.histories, trials.cyclical))) - pending.finished_steps
        return Measured(steps, {"momentum_trials": trials, "pending_trials": None})


def run_stages(search: Search, *, batch_sizes: bool) -> Study:
    """Run all stages that are due, and return the complete study.

    Args:
        search: with an open study.
        batch_sizes: whether to look for a faster batch size.
    """
    _run(FirstRangeTest(), search)
    search.require_enough()
    for stage in (
        BatchSize(batch_sizes),
        RangeTestAfterBatchSize(),
        RateAndWeightDecay(),
        WeightDecay(),
        RangeTestAfterWeightDecay(),
        Momentum(),
    ):
        _run(stage, search)
    return search.study


def _run(stage: Stage, search: Search) -> None:
    measured = stage.measure(search) if stage.is_due(search) else None
    if measured is not None:
        search.keep(stage.setting, *measured)
