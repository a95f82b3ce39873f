"""Recipe: the settings to train with, and the evidence for each."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from torch import nn

from ..finder._suggestion import NoSuggestionError, Suggestion
from ..optim import SGD
from ..schedules import Schedule, one_cycle
from ._diagnosis import MIN_VALIDATIONS, Diagnosis, diagnose
from ._history import History
from ._measurements import Parts
from ._momentum import USUAL_MOMENTUM
from ._pair_search import RATE_STEP
from ._runner import LOOKS, REPEATS
from ._short_runs import ShortRuns
from ._weight_decay import GRID, USUAL_WEIGHT_DECAY

FEW_STEPS = 100
"""Shorter runs do not show overfitting, and so not what a weight decay gains."""

WIDE_INTERVAL = 4.0
"""A rate that is known to within a factor of this is known well enough: 1cycle bears half and twice the best one."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """The settings to train with, and why; ``print`` shows them.

    Attributes:
        batch_size: samples of a batch; None where the loader tells none.
        max_lr: the highest rate of the 1cycle.
        low, high: the interval of ``max_lr``, see ``Suggestion``.
        momentum: (upper, lower), cycling against the rate.
        weight_decay: >= 0.
        evidence: a sentence or two for each of "learning rate", "batch size", "weight decay" and "momentum".
        diagnoses: what ``diagnose`` returned for the run with the chosen settings.
        warnings: what to look at before trusting this; empty is best.
        steps: updates that the search made.
        complete: whether it came to its end.
        parts: all that was measured.
    """

    batch_size: int | None
    max_lr: float
    low: float
    high: float
    momentum: tuple[float, float]
    weight_decay: float
    evidence: dict[str, str]
    diagnoses: tuple[Diagnosis, ...]
    warnings: tuple[str, ...]
    steps: int
    complete: bool
    parts: Parts = field(repr=False)

    @property
    def settings(self) -> dict[str, str]:
        """What was chosen, in words, by the names in ``evidence``."""
        upper, lower = self.momentum
        return {
            "learning rate": f"up to {self.max_lr:.3g} ({self.low:.2g} to {self.high:.2g})",
            "batch size": "the loader's" if self.batch_size is None else str(self.batch_size),
            "weight decay": f"{self.weight_decay:g}",
            "momentum": f"{upper:g} to {lower:g}" if upper > lower else f"{upper:g}",
        }

    def schedule(self, total_steps: int) -> Schedule:
        """The 1cycle of a training of ``total_steps``, >= 1, with the momentum against the rate."""
        return one_cycle(self.max_lr, total_steps, momentum=self.momentum, weight_decay=self.weight_decay)

    def optimizer(self, model: nn.Module, total_steps: int | None = None) -> SGD:
        """``clrfast.SGD`` over the trainable parameters of ``model``.

        Args:
            model: what to train; on the device where it will be.
            total_steps: of the training, which then follows ``schedule(total_steps)`` by itself. None: ``max_lr``, the
                upper momentum and the weight decay as constants, until ``optimizer.set_schedule`` or another
                scheduler changes them.
        """
        params = [param for param in model.parameters() if param.requires_grad]
        schedule = None if total_steps is None else self.schedule(total_steps)
        return SGD(params, self.max_lr, self.momentum[0], weight_decay=self.weight_decay, schedule=schedule)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that was measured as JSON, with the settings above it for whoever reads it."""
        self.parts.write(path, complete=self.complete, chosen=_chosen(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read what ``save`` or ``find_recipe(saved=...)`` wrote, and conclude anew from what was measured.

        Raises:
            ValueError: the file holds something else, or a search that was interrupted before its first answer.
        """
        return concluded(Parts.read(path))

    def to_html(self, title: str = "", *, saved: str = "recipe.json") -> str:
        """A report as one page with everything inside; see ``clrfast.recipe._report``."""
        from ._report import html

        return html(self, title, saved)

    def __str__(self) -> str:
        rows = [f"{name:<15}{value}" for name, value in self.settings.items()]
        rows.append(f"found in {self.steps} steps" + ("" if self.complete else ", interrupted"))
        return "\n".join([*rows, *(f"warning: {warning}" for warning in self.warnings)])


def concluded(parts: Parts) -> Recipe:
    """The recipe that follows from what was measured so far; the usual values stand for what was not.

    Raises:
        ValueError: not even a rate was found.
    """
    if not parts.curves:
        raise ValueError("path: the search was interrupted before its first answer; call find_recipe again")
    warnings: list[str] = []
    rate, told_rate = _rate(parts, warnings)
    batch_size, told_batch = _batch_size(parts)
    decay, told_decay = _weight_decay(parts, warnings)
    momentum, told_momentum = _momentum(parts, warnings)
    due = rate_is_due(parts) or (parts.momenta is None and momentum_is_affordable(parts))
    complete = parts.pairs_ended or (parts.weight_decays is not None and parts.begun is None and not due)
    if not complete:
        warnings.append("the search was interrupted: the usual values stand for what it had not come to")
    diagnoses = _diagnoses(parts, decay)
    warnings += [f"{each.name}: {each.evidence}; {each.advice}" for each in diagnoses if each.name != "plateau"]
    evidence = {
        "learning rate": told_rate,
        "batch size": told_batch,
        "weight decay": told_decay,
        "momentum": told_momentum,
    }
    return Recipe(
        batch_size=batch_size,
        max_lr=rate.max_lr,
        low=rate.low,
        high=rate.high,
        momentum=momentum,
        weight_decay=decay,
        evidence=evidence,
        diagnoses=diagnoses,
        warnings=tuple(warnings),
        steps=parts.steps,
        complete=complete,
        parts=parts,
    )


PAIR_RUNS = 8
"""With pairs of rate and weight decay, at least: as a rule, enough to come near the best."""

PAIR_SHARE = 0.25
"""Of the planned training, that a run takes at least for its end to tell of the end of the training."""

RANGE_STEPS = 112
"""The most that a range test makes: 52 coarse ones up to a rate of 10,000, and 60 fine ones. The budget is charged
with all of them, though most tests diverge earlier."""

MOVES_RATE = 1e-3
"""A weight decay from here on can move the rate."""

GRID_RUNS = (len(GRID) + 2) * REPEATS
"""For each weight decay of the grid, and the two values that bisect the exponent."""

MOMENTUM_STEPS = 100
"""Of each run, at least, for a momentum to show what it does."""

MOMENTUM_RUNS = 10
"""Two for each of four values, and for the cycle."""


def momentum_is_affordable(parts: Parts) -> bool:
    """Whether short runs that can tell momenta apart fit into the rest of the budget; of no use where the validation
    loss falls in no run."""
    found = parts.weight_decays
    return found is not None and _answer(found) is not None and left(parts) >= MOMENTUM_RUNS * MOMENTUM_STEPS


def rate_is_due(parts: Parts) -> bool:
    """Whether the rate is to be tested again, after a weight decay that can move it."""
    if parts.weight_decays is None or parts.rate_after_weight_decay is not None or left(parts) < RANGE_STEPS:
        return False
    decay = _answer(parts.weight_decays)
    return decay is not None and decay >= MOVES_RATE


def pair_steps(parts: Parts) -> int:
    """Of each run with a pair of rate and weight decay; 0 where the rest of the budget does not allow long ones."""
    steps = min(parts.planned_steps, left(parts) // PAIR_RUNS)
    return steps if steps >= max(PAIR_SHARE * parts.planned_steps, 2 * LOOKS) else 0


def left(parts: Parts) -> int:
    """Updates left of the budget."""
    return parts.budget - parts.steps


def _rate(parts: Parts, warnings: list[str]) -> tuple[Suggestion, str]:
    """The last answer of a range test; the first has one in any case."""
    first, *again = parts.curves
    found, before = first.suggest(), ""
    for curve in again:
        why = "the batch size" if curve is parts.rate_after_batch_size else "the weight decay"
        earlier = found.max_lr
        try:
            found = curve.suggest()
            before += f"; it was {earlier:.3g} before {why} was changed"
        except NoSuggestionError as error:
            warnings.append(f"learning rate: tested again after {why} was changed, without an answer: {error}")
    sizes = parts.batch_sizes
    if sizes is not None and sizes.fastest != parts.batch_size and not again:
        warnings.append(f"learning rate: it was tested with batches of {parts.batch_size}, and the budget ended there")
    if found.high > WIDE_INTERVAL * found.low:
        warnings.append(
            f"the noise leaves the rate open between {found.low:.2g} and {found.high:.2g}: take larger batches, or "
            "compare both ends in short trainings"
        )
    if parts.pairs is not None:
        try:
            pair = parts.pairs.suggest()
        except NoSuggestionError as error:
            warnings.append(f"learning rate: {error}")
            return found, found.reason + before
        half = math.sqrt(RATE_STEP)
        told = f"{pair.reason}; the range test suggested {found.max_lr:.3g}: {found.reason}"
        low, high = pair.max_lr / half, pair.max_lr * half
        return Suggestion(pair.max_lr, min(found.base_lr, low), low, high, "pairs", told), told + before
    return found, found.reason + before


def _batch_size(parts: Parts) -> tuple[int | None, str]:
    sizes = parts.batch_sizes
    if sizes is None:
        return parts.batch_size, "the loader's own; none was tried"
    told = "it has the most samples per second of what was tried"
    return sizes.fastest, f"{told}; the largest is {sizes.largest}: {sizes.reason}"


def _answer(found: ShortRuns) -> float | None:
    try:
        return found.suggest().value
    except NoSuggestionError:
        return None


def _weight_decay(parts: Parts, warnings: list[str]) -> tuple[float, str]:
    if parts.pairs is not None:
        try:
            pair = parts.pairs.suggest()
            return pair.weight_decay, pair.reason
        except NoSuggestionError as error:
            return USUAL_WEIGHT_DECAY, f"no answer, and {USUAL_WEIGHT_DECAY:g} is usual: {error}"
    found = parts.weight_decays
    if found is None:
        return USUAL_WEIGHT_DECAY, f"not tested; {USUAL_WEIGHT_DECAY:g} is usual"
    try:
        choice = found.suggest()
    except NoSuggestionError as error:
        warnings.append(f"weight decay: {error}")
        return USUAL_WEIGHT_DECAY, f"no answer, and {USUAL_WEIGHT_DECAY:g} is usual: {error}"
    steps = max(np.size(history.train_loss) for runs in found.runs for history in runs)
    if steps < FEW_STEPS:
        warnings.append(
            f"weight decay: runs of {steps} steps show its cost, but hardly what it gains in a longer training; begun "
            f"anew with a budget of {GRID_RUNS * FEW_STEPS + 3 * RANGE_STEPS} they have {FEW_STEPS}"
        )
    return choice.value, choice.reason


def _momentum(parts: Parts, warnings: list[str]) -> tuple[tuple[float, float], str]:
    upper, lower = USUAL_MOMENTUM
    usual = f"{upper:g} to {lower:g} is the usual cycle, and the result is seldom sensitive to it"
    found = parts.momenta
    if parts.pairs is not None:
        return USUAL_MOMENTUM, f"not tested, for the budget went into long runs with rates and weight decays; {usual}"
    if found is None:
        wanted = MOMENTUM_RUNS * MOMENTUM_STEPS
        missed = parts.begun is None and left(parts) < wanted
        why = f", for that takes {wanted} steps, and {left(parts)} were left" if missed else ""
        return USUAL_MOMENTUM, f"not tested{why}; {usual}"
    try:
        return found.cycle, found.suggest().reason
    except NoSuggestionError as error:
        warnings.append(f"momentum: {error}")
        return USUAL_MOMENTUM, f"no answer, and {usual}: {error}"


def _diagnoses(parts: Parts, decay: float) -> tuple[Diagnosis, ...]:
    """What the run with the chosen weight decay tells, with the planned training in view."""
    best = _best_run(parts, decay)
    if best is None or np.size(best.val_loss) < MIN_VALIDATIONS:
        return ()
    return tuple(diagnose(replace(best, total_steps=max(np.size(best.train_loss), parts.planned_steps))))


def _best_run(parts: Parts, decay: float) -> History | None:
    """The run with the chosen settings."""
    if parts.pairs is not None:
        try:
            return parts.pairs.runs[parts.pairs.best]
        except NoSuggestionError:
            return None
    found = parts.weight_decays
    if found is None or decay not in found.values:
        return None
    return found.runs[found.values.tolist().index(decay)][0]


def _chosen(recipe: Recipe) -> dict[str, object]:
    told = {name: getattr(recipe, name) for name in ("batch_size", "max_lr", "low", "high", "momentum", "weight_decay")}
    diagnoses = [asdict(diagnosis) | {"size": str(diagnosis.size)} for diagnosis in recipe.diagnoses]
    return told | {"evidence": recipe.evidence, "warnings": recipe.warnings, "diagnoses": diagnoses}
