"""``Study``: the trials of a search that have finished, read as measurements of the settings; and their JSON form."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np

from .. import _saving as saving
from .._checks import short_repr
from .._fields import Fields
from ..batch_size import BatchSizes, StepCost
from ..batch_size._find_batch_size import LimitedBy
from ..diagnosis import History
from ..finder import LRCurve, NoSuggestionError
from ..finder._scheduled_run import compute_rates
from ..schedules import Schedule, one_cycle
from ..schedules._policies import Momentum
from ._optimizers import OPTIMIZERS, OptimizerName
from ._pair_trials import PairTrials
from ._setting_trials import (
    SMALL_GRID_TRIALS,
    MomentumTrials,
    SettingRuns,
    WeightDecayTrials,
    count_steps,
    final_losses,
)

RANGE_TEST_STEPS = 112
"""Maximum number of steps of a range test: 52 coarse ones up to a rate of 10,000, and 60 fine ones. The budget is
charged with all of them, although most tests diverge earlier."""

_FORMAT = "clrfast.Recipe/2"

StageName = Literal["range test", "batch size", "weight decay", "momentum", "pair"]

Result = LRCurve | BatchSizes | History
"""What a trial measures: a range test, the batch sizes that fit, or the losses of a training."""


@dataclass(frozen=True)
class TrialSpec:
    """What a trial is to measure, and with which settings.

    Attributes:
        key: name of the measurement. A study has one finished trial for each key.
        stage: the setting that it measures.
        optimizer: name of the optimizer.
        steps: planned length; 0 for batch sizes, whose steps are not charged.
        max_lr: highest rate of a training; None for other stages.
        weight_decay: of a training or a range test.
        momentum: of a training: a number, or (upper, lower) to cycle it against the rate; None for other stages.
        repeat: index of the repeat of a training, from 0. Each repeat trains on the batches after those of the one
            before it.
        batch_size: samples of a batch; None for the loader's own batches.
    """

    key: str
    stage: StageName
    optimizer: OptimizerName
    steps: int
    max_lr: float | None = None
    weight_decay: float = 0.0
    momentum: Momentum | None = None
    repeat: int = 0
    batch_size: int | None = None

    @property
    def schedule(self) -> Schedule:
        """The 1cycle of a training."""
        assert self.max_lr is not None
        assert self.momentum is not None
        return one_cycle(self.max_lr, self.steps, momentum=self.momentum, weight_decay=self.weight_decay)

    @classmethod
    def from_plain(cls, data: Fields) -> TrialSpec:
        """Make a specification from its entries.

        Raises:
            ValueError: an entry is missing or wrong.
        """
        return cls(
            key=data.text("key"),
            stage=cast(StageName, _one_of(data, "stage", get_args(StageName))),
            optimizer=cast(OptimizerName, _one_of(data, "optimizer", tuple(OPTIMIZERS))),
            steps=data.integer("steps", 0),
            max_lr=data.positive("max_lr") if data.has("max_lr") else None,
            weight_decay=data.finite("weight_decay", 0.0),
            momentum=_momentum(data) if data.has("momentum") else None,
            repeat=data.integer("repeat", 0),
            batch_size=data.integer("batch_size", 1) if data.has("batch_size") else None,
        )

    def history(self, train_loss: Any, val_loss: Any, val_steps: Any) -> History:
        """Return the losses of a training with these settings."""
        lr = compute_rates(self.schedule, np.size(train_loss))
        return History(train_loss, val_loss, val_steps, lr=lr, weight_decay=self.weight_decay)


@dataclass(frozen=True, eq=False)
class Trial:
    """A finished trial.

    Attributes:
        spec: what it measured.
        result: an ``LRCurve`` of a range test, the ``BatchSizes``, or the ``History`` of a training.
        number: number of the trial in the Optuna study.
        worker: "host:process" that ran it.
        started, finished: times of the worker's clock, in seconds since 1970.
        seconds_per_step: time of a step of a training, validation included, of a search with a budget of time; None
            for other searches and for trials that are no training and no first range test.
        n_workers: number of workers that had joined when the trial ended.
    """

    spec: TrialSpec
    result: Result = field(repr=False)
    number: int
    worker: str
    started: float
    finished: float
    seconds_per_step: float | None = None
    n_workers: int = 1

    @property
    def steps(self) -> int:
        """Steps that the budget is charged with.

        A training that diverged has fewer than were planned, and a range test that was repeated with trials has more.
        """
        if isinstance(self.result, History):
            return count_steps([self.result])
        if isinstance(self.result, LRCurve) and self.result.trials:
            return self.spec.steps + (self.result.update_steps or 0)
        return self.spec.steps

    def __str__(self) -> str:
        result, spec = self.result, self.spec
        if isinstance(result, LRCurve):
            return f"{self.number}: {spec.key}: {result.stop_reason}"
        if isinstance(result, BatchSizes):
            return f"{self.number}: {spec.key}: fastest {result.fastest}, largest {result.largest} ({result.reason})"
        pair = f" with {spec.max_lr:.3g} and {spec.weight_decay:g}" if spec.stage == "pair" else ""
        return f"{self.number}: {spec.key}{pair}: loss {final_losses([result])[0]:.4g} after {self.steps} steps"

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold, from which ``from_plain`` makes the trial again."""
        result = saving.to_plain(self.result)
        if isinstance(self.result, History):
            result = {name: result[name] for name in ("train_loss", "val_loss", "val_steps")}
        spec = {f.name: saving.to_plain(getattr(self.spec, f.name)) for f in fields(TrialSpec)}
        outcome = {name: getattr(self, name) for name in ("started", "finished", "seconds_per_step", "n_workers")}
        return {**spec, "number": self.number, "worker": self.worker, "outcome": {**outcome, "result": result}}

    @classmethod
    def from_plain(cls, data: Fields) -> Trial:
        """Make the trial of ``to_plain``.

        Raises:
            ValueError: an entry is missing or wrong.
        """
        spec = TrialSpec.from_plain(data)
        read, outcome = _RESULT_READERS.get(spec.stage, _history), data.nested("outcome")
        return cls(
            spec,
            read(outcome.nested("result"), spec),
            data.integer("number", 0),
            data.text("worker"),
            outcome.finite("started", 0.0),
            outcome.finite("finished", 0.0),
            outcome.positive("seconds_per_step") if outcome.has("seconds_per_step") else None,
            outcome.integer("n_workers", 1),
        )


@dataclass(frozen=True)
class SearchSettings:
    """The arguments of a search and the start that all its workers share.

    Attributes:
        planned_steps: length of the training that the recipe is for.
        optimizers: names of the optimizers to choose from.
        find_batch_size: whether a batch size is searched, too.
        budget: limit on the steps; None for a budget of time.
        seconds: length of the search; None for a budget of steps.
        deadline: end of the search, in seconds since 1970; None for a budget of steps.
        sampler: name of the Optuna sampler that places the pairs; None for the one of this package.
        model: description of the model.
        batch_size: batch size of the task's loader; None if it has none.
        seed: seed of the random numbers of every trial.
        digests: hashes of what must be equal for all workers, by name.
    """

    planned_steps: int
    optimizers: tuple[OptimizerName, ...]
    find_batch_size: bool
    budget: int | None
    seconds: float | None
    deadline: float | None
    sampler: str | None
    model: str
    batch_size: int | None
    seed: int
    digests: Mapping[str, str]

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold, from which ``from_plain`` makes the settings again."""
        plain: dict[str, Any] = saving.to_plain(self)
        return plain | {"digests": dict(self.digests)}

    @classmethod
    def from_plain(cls, data: Fields) -> SearchSettings:
        """Make the settings of ``to_plain``."""
        data.require_known(*(f.name for f in fields(cls)))
        names = tuple(data.values("optimizers"))
        if not names or any(name not in tuple(OPTIMIZERS) for name in names):
            raise ValueError(f"{data.path('optimizers')}: got {short_repr(names)}; give some of {list(OPTIMIZERS)}")
        return cls(
            data.integer("planned_steps", 1),
            names,
            data.boolean("find_batch_size"),
            data.integer("budget", 0) if data.has("budget") else None,
            data.positive("seconds") if data.has("seconds") else None,
            data.positive("deadline") if data.has("deadline") else None,
            data.text("sampler") if data.has("sampler") else None,
            data.text("model"),
            data.integer("batch_size", 1) if data.has("batch_size") else None,
            data.integer("seed", 0),
            _texts(data.nested("digests")),
        )


@dataclass(frozen=True, eq=False)
class Study:
    """The settings of a search and its finished trials, in the order of their numbers.

    The measurements of a setting are None until there is one. Those of a single optimizer are meant for a study with
    one optimizer, as ``for_optimizer`` returns.
    """

    settings: SearchSettings
    trials: tuple[Trial, ...]

    def for_optimizer(self, name: OptimizerName) -> Study:
        """Return the part of the study with one optimizer, and its share of the budget."""
        if self.settings.optimizers == (name,):
            return self
        share = self.budget // len(self.settings.optimizers)
        settings = replace(self.settings, optimizers=(name,), budget=share, seconds=None)
        own = (each for each in self.trials if each.spec.optimizer == name or each.spec.stage == "batch size")
        return Study(settings, tuple(own))

    @property
    def optimizer(self) -> OptimizerName:
        """Name of the only optimizer, or of the first of several."""
        return self.settings.optimizers[0]

    @property
    def planned_steps(self) -> int:
        """Length of the training that the recipe is for."""
        return self.settings.planned_steps

    @cached_property
    def steps(self) -> int:
        """Steps of all finished trials."""
        return sum(trial.steps for trial in self.trials)

    @cached_property
    def budget(self) -> int:
        """Limit on the steps. A budget of time gets one when its first range test has measured the time of a step."""
        if self.settings.budget is not None:
            return self.settings.budget
        timed = next((trial for trial in self.trials if trial.seconds_per_step is not None), None)
        if timed is None or self.settings.seconds is None:
            return 0
        left = max(0.0, self.settings.seconds - (timed.finished - timed.started))
        return RANGE_TEST_STEPS + int(left / cast(float, timed.seconds_per_step) * speedup(timed.n_workers))

    def _curve(self, key: str) -> LRCurve | None:
        return next((cast(LRCurve, trial.result) for trial in self.trials if trial.spec.key == key), None)

    @cached_property
    def range_test(self) -> LRCurve | None:
        """The first range test."""
        return self._curve(range_test_key(self.optimizer))

    @cached_property
    def range_test_after_batch_size(self) -> LRCurve | None:
        """The range test with the chosen batch size."""
        return self._curve(range_test_key(self.optimizer, "batch size"))

    @cached_property
    def range_test_after_weight_decay(self) -> LRCurve | None:
        """The range test with the chosen weight decay."""
        return self._curve(range_test_key(self.optimizer, "weight decay"))

    @property
    def range_tests(self) -> tuple[LRCurve, ...]:
        """The range tests, in their order."""
        curves = self.range_test, self.range_test_after_batch_size, self.range_test_after_weight_decay
        return tuple(curve for curve in curves if curve is not None)

    @cached_property
    def batch_sizes(self) -> BatchSizes | None:
        """The batch sizes that fit."""
        return next((trial.result for trial in self.trials if isinstance(trial.result, BatchSizes)), None)

    @property
    def batch_size(self) -> int | None:
        """Batch size of the training: the fastest, or the loader's."""
        return self.settings.batch_size if self.batch_sizes is None else self.batch_sizes.fastest

    def runs(self, stage: Literal["weight decay", "momentum"]) -> SettingRuns:
        """Return the trainings of a stage that have finished, by their value of the setting and their repeat."""
        name = "momentum" if stage == "momentum" else "weight_decay"
        trials = self._of_stage(stage)
        return {(getattr(each.spec, name), each.spec.repeat): cast(History, each.result) for each in trials}

    def _of_stage(self, stage: StageName) -> list[Trial]:
        return [trial for trial in self.trials if trial.spec.stage == stage]

    def _max_lr(self, stage: StageName) -> float:
        return cast(float, self._of_stage(stage)[0].spec.max_lr)

    @cached_property
    def weight_decay_trials(self) -> WeightDecayTrials | None:
        """The short trials with weight decays, once two of them have all their repeats."""
        runs = self.runs("weight decay")
        return WeightDecayTrials.of(runs, self._max_lr("weight decay"), self.optimizer) if runs else None

    @cached_property
    def momentum_trials(self) -> MomentumTrials | None:
        """The short trials with momenta, once two of them have all their repeats."""
        runs = self.runs("momentum")
        return MomentumTrials.of(runs, self._max_lr("momentum")) if runs else None

    @cached_property
    def pair_trials(self) -> PairTrials | None:
        """The long trials with rates and weight decays."""
        trials = self._of_stage("pair")
        if not trials:
            return None
        rates = np.array([trial.spec.max_lr for trial in trials])
        decays = np.array([trial.spec.weight_decay for trial in trials])
        histories = tuple(cast(History, trial.result) for trial in trials)
        return PairTrials(rates, decays, trials[0].spec.steps, histories, self.optimizer)

    def write(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write the study as JSON, with ``more`` entries for human readers. An interruption leaves the old file."""
        trials = [trial.to_plain() for trial in self.trials]
        saving.write_json(path, _FORMAT, {**more, "settings": self.settings.to_plain(), "trials": trials})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Study:
        """Read a file that ``write`` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        remedy = "give the path of a file that Recipe.save wrote"
        return saving.read_json(path, _FORMAT, cls._from_fields, "recipe", remedy)

    @classmethod
    def _from_fields(cls, data: Fields) -> Study:
        trials = tuple(map(Trial.from_plain, data.dicts("trials")))
        return cls(SearchSettings.from_plain(data.nested("settings")), trials)


def speedup(n_workers: int) -> float:
    """Return the factor by which workers run the fewest trials of a stage, which are independent, faster than one.

    >>> [speedup(n) for n in (1, 2, 4, 16)]
    [1.0, 2.0, 3.0, 6.0]
    """
    return SMALL_GRID_TRIALS / math.ceil(SMALL_GRID_TRIALS / n_workers)


def range_test_key(optimizer: str, after: str = "") -> str:
    """Return the key of a range test: the first, or the one after another setting is chosen."""
    return f"range test/{optimizer}" + (f"/{after}" if after else "")


def _one_of(data: Fields, name: str, allowed: tuple[str, ...]) -> str:
    value = data.text(name)
    if value not in allowed:
        raise ValueError(f"{data.path(name)}: got {short_repr(value)}; give one of {list(allowed)}")
    return value


def _texts(data: Fields) -> dict[str, str]:
    return {name: data.text(name) for name in data.names}


def _momentum(data: Fields) -> Momentum:
    if not isinstance(data.get("momentum"), list | tuple):
        return data.finite("momentum", 0.0)
    bounds = data.finite_numbers("momentum", 0.0)
    if len(bounds) != 2:
        raise ValueError(f"{data.path('momentum')}: got {short_repr(data.get('momentum'))}; give (upper, lower)")
    return float(bounds[0]), float(bounds[1])


def _range_test(data: Fields, spec: TrialSpec) -> LRCurve:
    curve = LRCurve.from_plain(data)
    if spec.key == range_test_key(spec.optimizer):
        try:
            curve.suggest()
        except NoSuggestionError as error:  # a search does not continue without a rate
            raise ValueError(f"{data.path('lr')}: this curve has no answer: {error}") from None
    return curve


def _batch_sizes(data: Fields, spec: TrialSpec) -> BatchSizes:
    data.require_known(*(f.name for f in fields(BatchSizes)))
    limited_by = cast(LimitedBy, _one_of(data, "limited_by", get_args(LimitedBy)))
    costs = tuple(map(_step_cost, data.dicts("costs")))
    sizes = data.integer("largest", 1), data.integer("fastest", 1)
    return BatchSizes(*sizes, limited_by, data.text("reason"), costs)


def _step_cost(data: Fields) -> StepCost:
    data.require_known(*(f.name for f in fields(StepCost)))
    whole = (data.integer(name, 0) for name in ("peak_bytes", "kept_bytes"))
    return StepCost(data.integer("batch_size", 1), data.positive("seconds"), *whole)


def _history(data: Fields, spec: TrialSpec) -> History:
    """Read the losses of a training, whose first validation is before the first update."""
    data.require_known("train_loss", "val_loss", "val_steps")
    losses = [data.numbers(name) for name in ("train_loss", "val_loss", "val_steps")]
    if spec.max_lr is None or spec.momentum is None or not 0 < len(losses[0]) <= spec.steps:
        raise ValueError(f"{data.path('train_loss')}: got {len(losses[0])} losses for a training of {spec}")
    if not len(losses[2]) or losses[2][0] != 0:
        raise ValueError(f"{data.path('val_steps')}: got {short_repr(losses[2].tolist())}; give steps from 0 on")
    with data.prefix_errors():
        return spec.history(*losses)


_RESULT_READERS: dict[str, Callable[[Fields, TrialSpec], Result]] = {
    "range test": _range_test,
    "batch size": _batch_sizes,
}
"""Readers of the results that are no losses of a training, by the stage."""
