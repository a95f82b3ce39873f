"""Divides the steps of a budget among the stages of a search."""

from __future__ import annotations

from typing import NamedTuple

from ..finder._suggestion import NoSuggestionError
from ._momentum import MOMENTUM_VALUES
from ._optimizers import OPTIMIZERS
from ._setting_trials import SettingTrials
from ._study import Study
from ._trial_runner import DEFAULT_REPEATS, DEFAULT_STEPS, TRIAL_VALIDATIONS
from ._weight_decay import GRID, default_grid

RANGE_TEST_STEPS = 112
"""Maximum number of steps of a range test: 52 coarse ones up to a rate of 10,000, and 60 fine ones. The budget is
charged with all of them, although most tests diverge earlier."""

SMALL_GRID = (1e-3, 1e-4, 0.0)
"""Weight decays for a budget that is too small for ``GRID``."""

GRID_TRIALS = (len(GRID) + 2) * DEFAULT_REPEATS
"""Number of trials with weight decays: those of ``GRID``, and two values that bisect the exponent."""

MIN_TRIAL_STEPS = 40
"""Minimum length of a trial with a weight decay: enough for the validations that a trend needs."""

SMALL_GRID_TRIALS = len(SMALL_GRID) * DEFAULT_REPEATS
"""Number of trials with the weight decays of ``SMALL_GRID``."""

MIN_BUDGET = 2 * RANGE_TEST_STEPS + SMALL_GRID_TRIALS * MIN_TRIAL_STEPS
"""Minimum budget, 464 steps: two range tests and the small grid."""

RETEST_DECAY = 1e-3
"""Minimum weight decay of SGD for another test of the rate, because such a decay can change the rate."""

MIN_MOMENTUM_STEPS = 100
"""Minimum length of a trial with a momentum, for the momentum to show its effect."""

MOMENTUM_TRIALS = (len(MOMENTUM_VALUES) + 1) * DEFAULT_REPEATS
"""Number of trials with momenta: those of ``MOMENTUM_VALUES``, and the cycle."""

PLANNED_PAIR_TRIALS = 8
"""Number of trials with pairs of rate and weight decay for which a budget is planned: usually enough to come near the
best pair."""

MIN_PAIR_FRAC = 0.25
"""The shortest trial with a pair, as a fraction of the training, whose final loss predicts that of the training."""


class GridPlan(NamedTuple):
    """Trials with weight decays: the grid, the length of each trial, and whether the exponent is bisected."""

    grid: tuple[float, ...]
    steps: int
    refine: bool


class MomentumPlan(NamedTuple):
    """Trials with momenta: the values, and the length of each trial."""

    values: tuple[float, ...]
    steps: int


def plan_grid(steps: int, planned_steps: int, optimizer: str = "sgd") -> GridPlan:
    """Return the trials with weight decays for a budget of ``steps`` and a training of ``planned_steps``.

    If the budget allows trials with momenta too, these get their share.
    """
    if steps < GRID_TRIALS * MIN_TRIAL_STEPS:
        return GridPlan(default_grid(optimizer, SMALL_GRID), steps // SMALL_GRID_TRIALS, False)
    with_momentum = steps // (GRID_TRIALS + MOMENTUM_TRIALS)
    each = with_momentum if with_momentum >= MIN_MOMENTUM_STEPS else steps // GRID_TRIALS
    return GridPlan(default_grid(optimizer), min(each, _max_trial_steps(planned_steps)), True)


def plan_momenta(study: Study) -> MomentumPlan:
    """Return the trials with momenta for the rest of the budget."""
    steps = min(study.remaining_steps // MOMENTUM_TRIALS, _max_trial_steps(study.planned_steps))
    # A momentum shows its effect in several times 1 / (1 - momentum) steps.
    most = max(steps, MIN_MOMENTUM_STEPS) + 1e-6
    return MomentumPlan(tuple(value for value in MOMENTUM_VALUES if 3 / (1 - value) <= most), steps)


def pair_steps(study: Study) -> int:
    """Return the length of a trial with a pair; 0 if the rest of the budget is too small for long trials."""
    steps = min(study.planned_steps, study.remaining_steps // PLANNED_PAIR_TRIALS)
    return steps if steps >= max(MIN_PAIR_FRAC * study.planned_steps, 2 * TRIAL_VALIDATIONS) else 0


def momentum_is_affordable(study: Study) -> bool:
    """Return whether trials that can compare momenta fit into the rest of the budget.

    They would show nothing if the validation loss fell in no trial with a weight decay.
    """
    if study.weight_decay_trials is None or _suggested_value(study.weight_decay_trials) is None:
        return False
    return study.remaining_steps >= MOMENTUM_TRIALS * MIN_MOMENTUM_STEPS


def retest_is_due(study: Study) -> bool:
    """Return whether the rate is to be tested again because of the weight decay."""
    if study.weight_decay_trials is None or study.range_test_after_weight_decay is not None:
        return False
    decay = _suggested_value(study.weight_decay_trials)
    least = OPTIMIZERS[study.optimizer].scaled(RETEST_DECAY)
    return study.remaining_steps >= RANGE_TEST_STEPS and decay is not None and decay >= least


def is_complete(study: Study) -> bool:
    """Return whether no stage is left to run."""
    if study.pair_trials_complete:
        return True
    momentum_is_due = study.momentum_trials is None and momentum_is_affordable(study)
    started = study.weight_decay_trials is not None and study.pending_trials is None
    return started and not (retest_is_due(study) or momentum_is_due)


def _max_trial_steps(planned_steps: int) -> int:
    return max(DEFAULT_STEPS, planned_steps // 10)


def _suggested_value(trials: SettingTrials) -> float | None:
    try:
        return trials.suggest().value
    except NoSuggestionError:
        return None
