"""The plan of a search: which trials are due, given those that have finished. Pure functions.

    small budget: range test -> batch size, range test -> weight decays, range test if it is large -> momenta
    large budget: range test -> batch size, range test -> pairs of rate and weight decay

Every worker derives the same plan from the same finished trials, so workers share nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np

from ..diagnosis import History
from ..finder._suggestion import NoSuggestionError
from ..schedules._policies import Momentum
from ._conclusions import conclude_weight_decay, tested_rate
from ._optimizers import OPTIMIZERS
from ._pair_sampler import MIN_PAIR_TRIALS, PairPoint, PairResult, next_pair
from ._setting_trials import (
    DEFAULT_MOMENTUM_CYCLE,
    DEFAULT_REPEATS,
    DEFAULT_STEPS,
    GRID,
    GRID_TRIALS,
    MIN_MOMENTUM_STEPS,
    MOMENTUM_TRIALS,
    MOMENTUM_VALUES,
    SMALL_GRID,
    SMALL_GRID_TRIALS,
    MomentumTrials,
    SettingRuns,
    SettingTrials,
    WeightDecayTrials,
)
from ._study import RANGE_TEST_STEPS, Study, TrialSpec, range_test_key, speedup

MAX_NEIGHBOR_RATIO = 4.0
"""Ratio of neighbouring weight decays above which they are bisected: 1e-3 and 1e-4 are, 1e-3 and 3e-4 are not."""

MAX_ROUNDS = 4
"""Maximum number of refinement rounds: enough to get from 1e-3 to 0.1 if the largest value stays as good as any."""

MIN_TRIAL_STEPS = 40
"""Minimum length of a trial: enough for the validations that a trend needs."""

MIN_BUDGET = 2 * RANGE_TEST_STEPS + SMALL_GRID_TRIALS * MIN_TRIAL_STEPS
"""Minimum budget for each optimizer, 464 steps: two range tests and the small grid."""

RETEST_DECAY = 1e-3
"""Minimum weight decay of SGD for another test of the rate, because such a decay can change the rate."""

PLANNED_PAIR_TRIALS = 8
"""Number of trials with pairs of rate and weight decay for which a budget is planned, for each optimizer. It is usually
enough to come near the best pair."""

MIN_PAIR_FRAC = 0.25
"""The shortest trial with a pair, as a fraction of the training, whose final loss predicts that of the training."""


class GridPlan(NamedTuple):
    """Trials with weight decays: the grid, the length of each trial, and the maximum number of values."""

    grid: tuple[float, ...]
    steps: int
    max_values: int


def due_trials(study: Study, running: Sequence[TrialSpec] = ()) -> list[TrialSpec]:
    """Return the trials that can run now, those that are running included; nothing once the search is complete.

    Args:
        study: the finished trials.
        running: the running trials, in the order of their numbers. Only those with pairs matter.
    """
    parts = [study.for_optimizer(name) for name in study.settings.optimizers]
    due = [_range_test(part) for part in parts if part.range_test is None]
    if due:
        return due
    if study.settings.find_batch_size and study.batch_sizes is None:
        optimizer = max(study.settings.optimizers, key=list(OPTIMIZERS).index)  # the last one holds the most memory
        return [TrialSpec("batch size", "batch size", optimizer, 0)]
    due = [
        _range_test(part, "batch size")
        for part in parts
        if part.batch_size != part.settings.batch_size
        and part.range_test_after_batch_size is None
        and part.budget >= MIN_BUDGET + RANGE_TEST_STEPS
    ]
    if due:
        return due
    if steps := pair_steps(study):
        return _due_pairs(study, steps, running)
    # All optimizers get trials of one length. The rest of a search must not change what its beginning has planned.
    before = max(_range_test_steps(part) - _retest_steps(part) for part in parts)
    return [spec for part in parts for spec in _due_short_trials(part, before)]


def is_complete(study: Study) -> bool:
    """Return whether no trial is left that the budget allows."""
    ended = max((trial.finished for trial in study.trials), default=0.0)
    return not within_deadline(study, due_trials(study), ended)


def within_deadline(study: Study, due: Sequence[TrialSpec], now: float) -> list[TrialSpec]:
    """Return the trials that are expected to end before the deadline if they start ``now``, in seconds since 1970.

    A step takes as long as in the slowest trial so far. Range tests, batch sizes and the first pairs always run.
    """
    timed = [trial.seconds_per_step for trial in study.trials if trial.seconds_per_step is not None]
    if study.settings.deadline is None or not timed:
        return list(due)
    left = study.settings.deadline - now
    n_pairs = sum(trial.spec.stage == "pair" for trial in study.trials)
    always = ("range test", "batch size", *(["pair"] if n_pairs < MIN_PAIR_TRIALS else []))
    return [spec for spec in due if spec.stage in always or spec.steps * max(timed) <= left]


def require_enough_time(study: Study) -> None:
    """Raise ValueError if a budget of time turns out too small before the first training."""
    first = next((trial for trial in study.trials if trial.seconds_per_step is not None), None)
    has_trained = any(isinstance(trial.result, History) for trial in study.trials)
    if first is None or first.seconds_per_step is None or study.settings.seconds is None or has_trained:
        return
    per_step = first.seconds_per_step
    least = len(study.settings.optimizers) * MIN_BUDGET
    if study.budget < least:
        needed = first.finished - first.started + (least - RANGE_TEST_STEPS) * per_step / speedup(first.n_workers)
        raise ValueError(
            f"budget: got {study.settings.seconds:.3g} s; a step takes about {1000 * per_step:.2g} ms here, including "
            f"validation, so range tests and {SMALL_GRID_TRIALS} trials of {MIN_TRIAL_STEPS} steps take about "
            f"{needed:.2g} s; shorter trials show nothing, so give a larger budget, with another study_name"
        )


def _range_test(study: Study, after: str = "") -> TrialSpec:
    decay = conclude_weight_decay(study).value if after == "weight decay" else 0.0
    key, batch_size = range_test_key(study.optimizer, after), study.batch_size if after else study.settings.batch_size
    steps = RANGE_TEST_STEPS
    return TrialSpec(key, "range test", study.optimizer, steps, weight_decay=decay, batch_size=batch_size)


def _training(
    study: Study, stage: str, name: object, steps: int, momentum: Momentum, weight_decay: float, repeat: int
) -> TrialSpec:
    rate, batch_size = tested_rate(study).value.max_lr, study.batch_size
    key = f"{stage}/{study.optimizer}/{name}/{repeat}"
    return TrialSpec(key, stage, study.optimizer, steps, rate, weight_decay, momentum, repeat, batch_size)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- pairs


def pair_steps(study: Study) -> int:
    """Return the length of a trial with a pair; 0 if the budget is too small for long trials."""
    remaining = study.budget - _range_test_steps(study)
    steps = min(study.planned_steps, remaining // (PLANNED_PAIR_TRIALS * len(study.settings.optimizers)))
    return steps if steps >= max(MIN_PAIR_FRAC * study.planned_steps, MIN_TRIAL_STEPS) else 0


def _range_test_steps(study: Study) -> int:
    return sum(trial.steps for trial in study.trials if trial.spec.stage == "range test")


def first_rates(study: Study) -> dict[str, float]:
    """Return the rate of the first pair for each optimizer: that of its last range test."""
    return {name: tested_rate(study.for_optimizer(name)).value.max_lr for name in study.settings.optimizers}


def next_point(study: Study, running: Sequence[TrialSpec] = ()) -> PairPoint | None:
    """Return the pair of the next trial; None if no improvement is expected. See ``next_pair``."""
    results = [
        PairResult(_point(trial.spec), *np.asarray(cast(History, trial.result).val_loss)[[-1, 0]].tolist())
        for trial in study.trials
        if trial.spec.stage == "pair"
    ]
    placed = [_point(spec) for spec in running if spec.stage == "pair" and spec.max_lr is not None]
    return next_pair(results, placed, first_rates(study), pair_steps(study))


def _point(spec: TrialSpec) -> PairPoint:
    return PairPoint(spec.optimizer, cast(float, spec.max_lr), spec.weight_decay, spec.repeat)


def _due_pairs(study: Study, steps: int, running: Sequence[TrialSpec]) -> list[TrialSpec]:
    """Return the running trials and those that may start; a trial gets its pair when it starts.

    The key of a trial is its place among those that the budget allows.
    """
    running = [spec for spec in running if spec.stage == "pair"]
    finished = [trial for trial in study.trials if trial.spec.stage == "pair"]
    remaining = study.budget - _range_test_steps(study) - sum(trial.steps for trial in finished)
    n_free = max(remaining // steps, MIN_PAIR_TRIALS - len(finished)) - len(running)
    if n_free <= 0 or (study.settings.sampler is None and next_point(study, running) is None):
        return running
    taken = {trial.spec.key for trial in finished} | {spec.key for spec in running}
    keys = (key for i in range(len(taken) + n_free) if (key := f"pair/{i}") not in taken)
    free = [
        TrialSpec(key, "pair", study.optimizer, steps, momentum=DEFAULT_MOMENTUM_CYCLE, batch_size=study.batch_size)
        for key in islice(keys, n_free)
    ]
    return [*running, *free]


# --------------------------------------------------------------------------------------------------------- short trials


def _retest_steps(study: Study) -> int:
    return 0 if study.range_test_after_weight_decay is None else RANGE_TEST_STEPS


def _due_short_trials(study: Study, before: int) -> list[TrialSpec]:
    """Return the trials of one optimizer that are due; ``before`` are the steps of the range tests before all."""
    plan = plan_grid(study.budget - before - RANGE_TEST_STEPS, study.planned_steps, study.optimizer)
    decays = due_weight_decays(study.runs("weight decay"), plan.grid, plan.max_values, study.optimizer)
    if decays:
        return [_training(study, "weight decay", f"{x:g}", plan.steps, DEFAULT_MOMENTUM_CYCLE, x, i) for x, i in decays]
    if retest_is_due(study):
        return [_range_test(study, "weight decay")]
    spent = sum(trial.steps for trial in study.trials if trial.spec.stage != "momentum")
    steps = (study.budget - spent) // MOMENTUM_TRIALS
    if steps < MIN_MOMENTUM_STEPS or _suggested_value(study.weight_decay_trials) is None:
        return []
    steps = min(steps, _max_trial_steps(study.planned_steps))
    decay = conclude_weight_decay(study).value
    return [
        _training(study, "momentum", _name(value), steps, value, decay, i)
        for value, i in due_momenta(study.runs("momentum"), momenta_for(steps))
    ]


def _name(momentum: Momentum) -> str:
    return "cycle" if isinstance(momentum, tuple) else f"{momentum:g}"


def plan_grid(steps: int, planned_steps: int, optimizer: str = "sgd") -> GridPlan:
    """Return the trials with weight decays for a budget of ``steps`` and a training of ``planned_steps``.

    If the budget allows trials with momenta too, these get their share.
    """
    if steps < GRID_TRIALS * MIN_TRIAL_STEPS:
        each = max(steps // SMALL_GRID_TRIALS, MIN_TRIAL_STEPS)  # a repeated range test may leave less
        return GridPlan(default_grid(optimizer, SMALL_GRID), each, 0)
    with_momentum = steps // (GRID_TRIALS + MOMENTUM_TRIALS)
    each = with_momentum if with_momentum >= MIN_MOMENTUM_STEPS else steps // GRID_TRIALS
    return GridPlan(default_grid(optimizer), min(each, _max_trial_steps(planned_steps)), GRID_TRIALS // DEFAULT_REPEATS)


def default_grid(optimizer: str, grid: Sequence[float] = GRID) -> tuple[float, ...]:
    """Return the weight decays of ``grid`` for an optimizer."""
    return tuple(map(OPTIMIZERS[optimizer].scaled, grid))


def due_weight_decays(
    runs: SettingRuns, grid: Iterable[float], max_values: float, optimizer: str, repeats: int = DEFAULT_REPEATS
) -> list[tuple[float, int]]:
    """Return the trials that are due, as weight decays and repeats: the grid, then refinement around the best.

    Args:
        runs: the finished trials.
        grid: the values to start with.
        max_values: limit on the number of values, at which refinement ends; 0 for no refinement.
        optimizer: name of the optimizer.
        repeats: number of trials for each value.
    """
    values = list(grid)
    for _ in range(MAX_ROUNDS + 1):
        due = _missing(runs, values, repeats)
        if due:
            return due
        known = WeightDecayTrials.of({key: run for key, run in runs.items() if key[0] in values}, math.nan, optimizer)
        try:
            new = [] if known is None else refined_values(values, known.refinement_center)
        except NoSuggestionError:
            return []
        if not new or len(values) + len(new) > max_values:
            return []
        values += new
    return []


def refined_values(tried: Collection[float], center: float) -> list[float]:
    """Return the weight decays to try next, of the form 1e-n or 3e-n.

    They lie half way, in the exponent, between ``center`` and each neighbour that differs by more than a factor of 4.
    Past the ends of ``tried`` the neighbour is a factor of 10 away. There is no value between 0 and its neighbour.

    >>> refined_values([1e-3, 1e-4, 1e-5, 0], 1e-4)
    [3e-05, 0.0003]
    >>> refined_values([1e-3, 1e-4, 1e-5, 0], 1e-3)
    [0.0003, 0.003]
    >>> refined_values([1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 0], 1e-4)
    []
    """
    if center == 0:
        return []
    below = max((value for value in tried if value < center), default=center / 10)
    above = min((value for value in tried if value > center), default=center * 10)
    intervals = ((below, center), (center, above))
    return [_half_way(low, high) for low, high in intervals if 0 < low < high / MAX_NEIGHBOR_RATIO]


def _half_way(low: float, high: float) -> float:
    half_decades = round(math.log10(low) + math.log10(high))
    return float(f"{10 ** (half_decades / 2):.0e}")


def due_momenta(
    runs: SettingRuns, values: Sequence[float], repeats: int = DEFAULT_REPEATS
) -> list[tuple[Momentum, int]]:
    """Return the trials that are due, as momenta and repeats: constant ones, then the cycle below the best of them."""
    due = _missing(runs, values, repeats)
    known = None if due else MomentumTrials.of(runs, math.nan)
    if known is None:
        return due
    try:
        return _missing(runs, [known.cycle], repeats)
    except NoSuggestionError:
        return []


def momenta_for(steps: int) -> tuple[float, ...]:
    """Return the momenta that show their effect in trials of ``steps``: in several times 1 / (1 - momentum)."""
    most = max(steps, MIN_MOMENTUM_STEPS) + 1e-6
    return tuple(value for value in MOMENTUM_VALUES if 3 / (1 - value) <= most)


def _missing(runs: SettingRuns, values: Iterable[Momentum], repeats: int) -> list[tuple[Any, int]]:
    """Return the trials that have not finished, value by value, because only values with all repeats count."""
    return [(value, repeat) for value in values for repeat in range(repeats) if (value, repeat) not in runs]


def retest_is_due(study: Study) -> bool:
    """Return whether the rate is to be tested again because of the weight decay, and the budget allows it."""
    if study.range_test_after_weight_decay is not None or study.steps + RANGE_TEST_STEPS > study.budget:
        return False
    decay = _suggested_value(study.weight_decay_trials)
    return decay is not None and decay >= OPTIMIZERS[study.optimizer].scaled(RETEST_DECAY)


def _max_trial_steps(planned_steps: int) -> int:
    return max(DEFAULT_STEPS, planned_steps // 10)


def _suggested_value(trials: SettingTrials | None) -> float | None:
    try:
        return None if trials is None else trials.suggest().value
    except NoSuggestionError:
        return None
