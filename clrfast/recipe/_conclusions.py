"""Conclusions from a study: the value of each setting, the evidence for it, and warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np

from ..diagnosis import Diagnosis, History, diagnose
from ..diagnosis._diagnosis import MIN_VAL_LOSSES
from ..finder import LRCurve
from ..finder._suggestion import NoSuggestionError, Suggestion
from ._optimizers import OPTIMIZERS, OptimizerName
from ._pair_sampler import RATE_RATIO
from ._setting_trials import (
    DEFAULT_MOMENTUM_CYCLE,
    DEFAULT_WEIGHT_DECAY,
    GRID_TRIALS,
    MIN_MOMENTUM_STEPS,
    MOMENTUM_TRIALS,
    count_steps,
)
from ._study import RANGE_TEST_STEPS, Study

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


def conclude_optimizer(study: Study) -> Conclusion[OptimizerName]:
    """Return the optimizer with the lowest validation loss after its best trial; the first one before any trial."""
    names = study.settings.optimizers
    if len(names) == 1:
        return Conclusion(names[0], "it was given")
    lowest = {name: _lowest_loss(study.for_optimizer(name)) for name in names}
    best = min(names, key=lowest.__getitem__)  # the first of equal ones
    if not math.isfinite(lowest[best]):
        return Conclusion(best, "the first that was given; no trial compares them")
    losses = ", ".join(f"{loss:.4g} with {name}" for name, loss in lowest.items())
    return Conclusion(best, f"the expected validation losses after trials of equal length are {losses}")


def _lowest_loss(study: Study) -> float:
    pairs, decays = study.pair_trials, study.weight_decay_trials
    try:
        if pairs is not None:
            return float(pairs.expected_loss[pairs.best])
        if decays is not None:
            return float(decays.loss.mean(axis=1)[decays.values == decays.suggest().value][0])
    except NoSuggestionError:
        pass
    return math.inf


def conclude_rate(study: Study) -> Conclusion[Suggestion]:
    """Return the rate of the best pair, or else of the last range test that has a suggestion.

    The study must have a first range test with a suggestion.
    """
    tested = tested_rate(study)
    if study.pair_trials is None:
        return tested
    try:
        pair = study.pair_trials.suggest()
    except NoSuggestionError as error:
        return replace(tested, warnings=(*tested.warnings, f"learning rate: {error}"))
    low, high = pair.max_lr / RATE_RATIO, pair.max_lr * RATE_RATIO  # the neighbouring rates
    source = f"{pair.reason}; the range test suggested {tested.value.max_lr:.3g}: "
    base_lr, reason = min(tested.value.base_lr, low), source + tested.value.reason
    suggestion = Suggestion(pair.max_lr, base_lr, low, high, "pairs", reason)
    return Conclusion(suggestion, source + tested.evidence, tested.warnings)


def tested_rate(study: Study) -> Conclusion[Suggestion]:
    """Return the rate of the last range test that has a suggestion."""
    first, *later = study.range_tests
    found, changes, warnings = _suggest(first), "", []
    for curve in later:
        cause = "the batch size" if curve is study.range_test_after_batch_size else "the weight decay"
        earlier = found.max_lr
        try:
            found = _suggest(curve)
            changes += f"; it was {earlier:.3g} before {cause} was changed"
        except NoSuggestionError as error:
            warnings.append(f"learning rate: the range test after {cause} was changed gave no answer: {error}")
    sizes = study.batch_sizes
    if sizes is not None and sizes.fastest != study.settings.batch_size and not later:
        warnings.append(
            f"learning rate: it was tested with batches of {study.settings.batch_size}; the budget does not allow a "
            "test with the new batch size"
        )
    if found.high > MAX_INTERVAL_RATIO * found.low:
        warnings.append(
            f"learning rate: because of the noise it may be anywhere from {found.low:.2g} to {found.high:.2g}; take "
            "larger batches, or compare both ends in short trainings"
        )
    return Conclusion(found, found.reason + changes, tuple(warnings))


@lru_cache(maxsize=16)
def _suggest(curve: LRCurve) -> Suggestion:
    """Return the suggestion of a range test, whose bootstrap takes long; a plan asks for it often."""
    return curve.suggest()


def conclude_batch_size(study: Study) -> Conclusion[int | None]:
    """Return the fastest batch size, or else the loader's."""
    sizes = study.batch_sizes
    if sizes is None:
        return Conclusion(study.batch_size, "the loader's own; none was tried")
    reason = f"it trains the most samples per second; the largest that fits is {sizes.largest}: {sizes.reason}"
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
        f"weight decay: trials of {steps} steps show its cost but not its benefit in a longer training; a search with "
        f"a budget of {GRID_TRIALS * OVERFITTING_STEPS + 3 * RANGE_TEST_STEPS} has trials of {OVERFITTING_STEPS}"
    )
    return Conclusion(suggestion.value, suggestion.reason, (warning,))


def conclude_momentum(study: Study) -> Conclusion[tuple[float, float]]:
    """Return the cycle that the momentum trials suggest, or else the default."""
    upper, lower = DEFAULT_MOMENTUM_CYCLE
    usual = f"{upper:g} to {lower:g} is the usual cycle, and results seldom depend on it"
    trials = study.momentum_trials
    if study.pair_trials is not None:
        reason = f"not tested: the budget went into long trials with rates and weight decays; {usual}"
        return Conclusion(DEFAULT_MOMENTUM_CYCLE, reason)
    if trials is None:
        needed, remaining = MOMENTUM_TRIALS * MIN_MOMENTUM_STEPS, study.budget - study.steps
        cause = f": that takes {needed} steps, and {remaining} were left" if remaining < needed else ""
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
