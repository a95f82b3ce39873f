"""Conclusions from a study: the value of each setting, the evidence for it, and warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from ..finder._suggestion import NoSuggestionError, Suggestion
from ._diagnosis import MIN_VAL_LOSSES, Diagnosis, diagnose
from ._lattice import RATE_RATIO
from ._loss_history import History
from ._momentum import DEFAULT_MOMENTUM_CYCLE
from ._optimizers import OPTIMIZERS
from ._step_allocation import GRID_TRIALS, MIN_MOMENTUM_STEPS, MOMENTUM_TRIALS, RANGE_TEST_STEPS
from ._study import Study
from ._trials import count_steps
from ._weight_decay import DEFAULT_WEIGHT_DECAY

T = TypeVar("T")

OVERFITTING_STEPS = 100
"""Minimum length, in steps, of trials that show overfitting, and so the benefit of a weight decay."""

MAX_INTERVAL_RATIO = 4.0
"""Maximum ratio of the ends of a rate's interval without a warning: 1cycle trains well with half and twice the best
rate."""


@dataclass(frozen=True)
class Conclusion(Generic[T]):
    """The value of a setting.

    Attributes:
        value: the value to train with.
        evidence: a sentence or two.
        warnings: what to check before trusting it.
    """

    value: T
    evidence: str
    warnings: tuple[str, ...] = ()


def conclude_rate(study: Study) -> Conclusion[Suggestion]:
    """Return the rate of the best pair, or else of the last range test that has a suggestion.

    The study must have a first range test with a suggestion.
    """
    tested = _tested_rate(study)
    if study.pair_trials is None:
        return tested
    try:
        pair = study.pair_trials.suggest()
    except NoSuggestionError as error:
        return replace(tested, warnings=(*tested.warnings, f"learning rate: {error}"))
    low, high = pair.max_lr / math.sqrt(RATE_RATIO), pair.max_lr * math.sqrt(RATE_RATIO)
    source = f"{pair.reason}; the range test suggested {tested.value.max_lr:.3g}: "
    base_lr, reason = min(tested.value.base_lr, low), source + tested.value.reason
    suggestion = Suggestion(pair.max_lr, base_lr, low, high, "pairs", reason)
    return Conclusion(suggestion, source + tested.evidence, tested.warnings)


def _tested_rate(study: Study) -> Conclusion[Suggestion]:
    first, *later = study.range_tests
    found, changes, warnings = first.suggest(), "", []
    for curve in later:
        cause = "the batch size" if curve is study.range_test_after_batch_size else "the weight decay"
        earlier = found.max_lr
        try:
            found = curve.suggest()
            changes += f"; it was {earlier:.3g} before {cause} was changed"
        except NoSuggestionError as error:
            warnings.append(f"learning rate: tested again after {cause} was changed, without an answer: {error}")
    sizes = study.batch_sizes
    if sizes is not None and sizes.fastest != study.batch_size and not later:
        warnings.append(f"learning rate: it was tested with batches of {study.batch_size}, and the budget ended there")
    if found.high > MAX_INTERVAL_RATIO * found.low:
        warnings.append(
            f"the noise leaves the rate open between {found.low:.2g} and {found.high:.2g}: take larger batches, or "
            "compare both ends in short trainings"
        )
    return Conclusion(found, found.reason + changes, tuple(warnings))


def conclude_batch_size(study: Study) -> Conclusion[int | None]:
    """Return the fastest batch size, or else the loader's."""
    sizes = study.batch_sizes
    if sizes is None:
        return Conclusion(study.batch_size, "the loader's own; none was tried")
    reason = f"it has the most samples per second of what was tried; the largest is {sizes.largest}: {sizes.reason}"
    return Conclusion(sizes.fastest, reason)


def conclude_weight_decay(study: Study) -> Conclusion[float]:
    """Return the weight decay of the best pair, or else of the short trials, or else the default."""
    default = OPTIMIZERS[study.optimizer].scaled(DEFAULT_WEIGHT_DECAY)
    if study.pair_trials is not None:
        try:
            pair = study.pair_trials.suggest()
        except NoSuggestionError as error:  # the conclusion on the rate warns about it
            return Conclusion(default, f"no answer, and {default:g} is usual: {error}")
        return Conclusion(pair.weight_decay, pair.reason)
    trials = study.weight_decay_trials
    if trials is None:
        return Conclusion(default, f"not tested; {default:g} is usual")
    try:
        suggestion = trials.suggest()
    except NoSuggestionError as error:
        reason = f"no answer, and {default:g} is usual: {error}"
        return Conclusion(default, reason, (f"weight decay: {error}",))
    steps = max(np.size(history.train_loss) for repeats in trials.histories for history in repeats)
    if steps >= OVERFITTING_STEPS:
        return Conclusion(suggestion.value, suggestion.reason)
    warning = (
        f"weight decay: runs of {steps} steps show its cost, but hardly what it gains in a longer training; begun anew "
        f"with a budget of {GRID_TRIALS * OVERFITTING_STEPS + 3 * RANGE_TEST_STEPS} they have {OVERFITTING_STEPS}"
    )
    return Conclusion(suggestion.value, suggestion.reason, (warning,))


def conclude_momentum(study: Study) -> Conclusion[tuple[float, float]]:
    """Return the cycle that the momentum trials suggest, or else the default."""
    upper, lower = DEFAULT_MOMENTUM_CYCLE
    usual = f"{upper:g} to {lower:g} is the usual cycle, and the result is seldom sensitive to it"
    trials = study.momentum_trials
    if study.pair_trials is not None:
        reason = f"not tested, for the budget went into long runs with rates and weight decays; {usual}"
        return Conclusion(DEFAULT_MOMENTUM_CYCLE, reason)
    if trials is None:
        needed, remaining = MOMENTUM_TRIALS * MIN_MOMENTUM_STEPS, study.remaining_steps
        missed = study.pending_trials is None and remaining < needed
        cause = f", for that takes {needed} steps, and {remaining} were left" if missed else ""
        return Conclusion(DEFAULT_MOMENTUM_CYCLE, f"not tested{cause}; {usual}")
    try:
        return Conclusion(trials.cycle, trials.suggest().reason)
    except NoSuggestionError as error:
        return Conclusion(DEFAULT_MOMENTUM_CYCLE, f"no answer, and {usual}: {error}", (f"momentum: {error}",))


def diagnose_best(study: Study, weight_decay: float) -> tuple[Diagnosis, ...]:
    """Return the diagnoses of the trial with the chosen settings, as the beginning of the planned training."""
    best = _best_history(study, weight_decay)
    if best is None or np.size(best.val_loss) < MIN_VAL_LOSSES:
        return ()
    return tuple(diagnose(replace(best, total_steps=max(count_steps([best]), study.planned_steps))))


def _best_history(study: Study, weight_decay: float) -> History | None:
    if study.pair_trials is not None:
        try:
            return study.pair_trials.histories[study.pair_trials.best]
        except NoSuggestionError:
            return None
    trials = study.weight_decay_trials
    if trials is None or weight_decay not in trials.values:
        return None
    return trials.histories[trials.values.tolist().index(weight_decay)][0]
