"""Readers of a study's JSON file, one for each field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast, get_args

import numpy as np

from .._checks import parse_float, short_repr
from .._fields import Fields
from ..finder import LRCurve, NoSuggestionError
from ._batch_size import BatchSizes, LimitedBy, StepCost
from ._loss_history import History
from ._momentum import MomentumTrials
from ._optimizers import OPTIMIZERS, OptimizerName
from ._pair_trials import PairTrials
from ._trial_runner import TRIAL_VALIDATIONS
from ._trials import PendingTrials, Repeats, Trial
from ._weight_decay import WeightDecayTrials


def _first_range_test(data: Fields, name: str) -> LRCurve:
    """Read the first range test, which is kept only if it has a suggestion."""
    curve = _curve(data, name)
    try:
        curve.suggest()
    except NoSuggestionError as error:
        raise ValueError(f"{data.path(name)}: this curve has no answer: {error}") from None
    return curve


def _curve(data: Fields, name: str) -> LRCurve:
    return LRCurve.from_plain(data.nested(name))


def _history(data: Fields) -> History:
    """Read the history of a trial, whose first validation is before the first update."""
    data.require_known(*(f.name for f in fields(History)))
    train_loss, val_loss, val_steps = map(data.numbers, ("train_loss", "val_loss", "val_steps"))
    lr = data.numbers("lr") if data.has("lr") else None
    weight_decay = data.finite("weight_decay", 0.0) if data.has("weight_decay") else None
    with data.prefix_errors():
        history = History(train_loss, val_loss, val_steps, lr, weight_decay)
    if val_steps[0] != 0:
        raise ValueError(
            f"{data.path('val_steps')}: got {short_repr(val_steps.tolist())}; give steps that begin with 0"
        )
    return history


def _repeats(data: Fields, n_values: int) -> tuple[Repeats, ...]:
    """Read the repeats of each of ``n_values`` values; all values must have the same number of repeats."""
    repeats = tuple(tuple(map(_history, row)) for row in data.rows_of_dicts("histories"))
    if len(repeats) != n_values or len({len(row) for row in repeats}) != 1 or len(repeats[0]) < 2:
        raise ValueError(
            f"{data.path('histories')}: got {[len(row) for row in repeats]} runs for {n_values} values; give each as "
            "many, at least 2"
        )
    return repeats


def _optimizer(data: Fields, name: str = "optimizer") -> OptimizerName:
    """Read the name of an optimizer; files of earlier versions have none, and their recipes are for SGD."""
    if not data.has(name):
        return "sgd"
    optimizer = data.text(name)
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"{data.path(name)}: got {short_repr(optimizer)}; give one of {list(OPTIMIZERS)}")
    return cast(OptimizerName, optimizer)


def _weight_decay_trials(data: Fields, name: str) -> WeightDecayTrials:
    trials = data.nested(name)
    trials.require_known("values", "histories", "max_lr", "optimizer")
    values = trials.ascending("values", 0.0)
    repeats = _repeats(trials, len(values))
    return WeightDecayTrials(values, repeats, trials.positive("max_lr"), optimizer=_optimizer(trials))


def _momentum_trials(data: Fields, name: str) -> MomentumTrials:
    trials = data.nested(name)
    trials.require_known("values", "histories", "max_lr", "cyclical")
    values, cyclical = trials.ascending("values", 0.0), tuple(map(_history, trials.dicts("cyclical")))
    return MomentumTrials(values, _repeats(trials, len(values)), trials.positive("max_lr"), cyclical)


def _pair_trials(data: Fields, name: str) -> PairTrials:
    trials = data.nested(name)
    trials.require_known("max_lr", "weight_decay", "steps", "histories", "optimizer")
    rates, decays = (trials.finite_numbers(entry, np.finfo(float).tiny) for entry in ("max_lr", "weight_decay"))
    histories = tuple(map(_history, trials.dicts("histories")))
    if not len(rates) == len(decays) == len(histories) > 0:
        raise ValueError(
            f"{trials.path('histories')}: got {len(rates)} rates, {len(decays)} decays and {len(histories)} runs"
        )
    return PairTrials(rates, decays, trials.integer("steps", 1), histories, _optimizer(trials))


def _pending_trials(data: Fields, name: str) -> PendingTrials:
    pending = data.nested(name)
    pending.require_known(*(f.name for f in fields(PendingTrials)))
    trials, histories = pending.values("trials"), tuple(map(_history, pending.dicts("histories")))
    if len(trials) != len(histories):
        raise ValueError(f"{pending.path('trials')}: got {len(trials)} for {len(histories)} runs; give one for each")
    return PendingTrials(
        tuple(pending.finite_numbers("values", 0.0).tolist()),
        pending.integer("steps", TRIAL_VALIDATIONS),
        pending.positive("max_lr"),
        pending.boolean("refine"),
        tuple(_trial(f"{pending.path('trials')}[{i}]", trial) for i, trial in enumerate(trials)),
        histories,
    )


def _trial(path: str, value: Any) -> Trial:
    try:
        momentum, weight_decay, repeat = value
        if isinstance(momentum, list):
            upper, lower = (parse_float(path, bound) for bound in momentum)
            return Trial((upper, lower), parse_float(path, weight_decay), int(parse_float(path, repeat)))
        return Trial(parse_float(path, momentum), parse_float(path, weight_decay), int(parse_float(path, repeat)))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{path}: got {short_repr(value)}; give momentum, weight decay and number of the repeat"
        ) from None


def _batch_sizes(data: Fields, name: str) -> BatchSizes:
    of = data.nested(name)
    of.require_known(*(f.name for f in fields(BatchSizes)))
    limited_by = of.text("limited_by")
    if limited_by not in get_args(LimitedBy):
        raise ValueError(f"{of.path('limited_by')}: got {short_repr(limited_by)}; give one of {get_args(LimitedBy)}")
    return BatchSizes(
        of.integer("largest", 1),
        of.integer("fastest", 1),
        cast(LimitedBy, limited_by),
        of.text("reason"),
        tuple(map(_step_cost, of.dicts("costs"))),
    )


def _step_cost(data: Fields) -> StepCost:
    data.require_known(*(f.name for f in fields(StepCost)))
    whole = (data.integer(name, 0) for name in ("peak_bytes", "kept_bytes"))
    return StepCost(data.integer("batch_size", 1), data.positive("seconds"), *whole)


def _count(least: int) -> Callable[[Fields, str], int]:
    return lambda data, name: data.integer(name, least)


READERS: dict[str, Callable[[Fields, str], Any]] = {
    "budget": _count(0),
    "planned_steps": _count(1),
    "steps": _count(0),
    "model": Fields.text,
    "batch_size": _count(1),
    "optimizer": _optimizer,
    "range_test": _first_range_test,
    "batch_sizes": _batch_sizes,
    "range_test_after_batch_size": _curve,
    "weight_decay_trials": _weight_decay_trials,
    "range_test_after_weight_decay": _curve,
    "momentum_trials": _momentum_trials,
    "pair_trials": _pair_trials,
    "pair_trials_complete": Fields.boolean,
    "seconds_per_step": Fields.positive,
    "pending_trials": _pending_trials,
    "started_steps": _count(0),
}
"""The reader of each field of ``Study``, called with the entries of the file and the field's name."""
