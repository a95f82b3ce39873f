"""Diagnoses: what the losses of a run say about its settings, with the evidence and what to try next. Pure NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..finder._divergence import find_divergence
from ._loss_history import History
from ._smoothed_history import MIN_SIGMAS, SmoothedHistory

DiagnosisName = Literal["divergence", "over-regularisation", "overfitting", "underfitting", "plateau"]

MIN_VAL_LOSSES = 9
"""Minimum number of validation losses: three for each third of a run. Fewer cannot separate a trend from noise."""

SLOW_FALL_FRAC = 0.1
"""Fall of the validation loss in the last third of the steps, as a fraction of the whole fall, above which a run
underfits. An even fall has 0.33 there, an exponential one 0.27 after half a decay time, and 0.09 after three."""

LEVEL_FRAC = 0.02
"""Maximum difference of losses on one level, as a fraction of the whole fall: a fifth of ``SLOW_FALL_FRAC``."""

PLATEAU_FRAC = 1 / 3
"""Minimum length of a plateau, as a fraction of the steps. Every run ends in a shorter one."""

UPTURN_FRAC = 0.02
"""Minimum rise of the validation loss above its lowest that is overfitting, as a fraction of the whole fall. On
CIFAR-10 overfitting begins with 0.45 to 0.5 after a fall by 1.85 (0.027)."""

JOINT_RISE_FRAC = 0.25
"""Minimum rise of both losses at once that is over-regularisation, as a fraction of the whole fall. At the top of a
1cycle a tenth is usual, and harmless."""

STUCK_FRAC = 0.5
"""Fraction of its start above which a constant loss is stuck. It is the only threshold that assumes that zero is the
best possible loss."""

MIN_DECAY_EXPONENT = 1.0
"""Minimum sum of lr * weight_decay at which weight decay can keep a loss high: it alone shrinks the weights to 1/e.
Usual settings stay below (0.1 * 5e-4 for 10,000 steps: 0.5)."""


@dataclass(frozen=True)
class Diagnosis:
    """One statement about a run, with its evidence.

    Attributes:
        name: "divergence", "over-regularisation" (more than the rate can balance), "overfitting", "underfitting" or
            "plateau" (the loss has settled, which is no fault).
        steps: the first and the last step of the evidence.
        size: strength of the evidence. Overfitting and over-regularisation: the rise, as a fraction of the whole fall.
            Underfitting: the fall in the last third, as a fraction of the whole fall. Both losses stuck: the fraction
            of the start that is left. Plateau: its fraction of the steps. Divergence: the rise above the start, in
            units of the allowed rise.
        evidence: what the losses show, with numbers.
        advice: what to try next.
    """

    name: DiagnosisName
    steps: tuple[int, int]
    size: float
    evidence: str
    advice: str


def diagnose(history: History) -> list[Diagnosis]:
    """Return what the losses of a run say about its settings, the most important first.

    The list is empty if there is nothing to say.

        divergence           a loss explodes or is not finite; nothing else is judged then
        over-regularisation  both losses rise together by 0.25, or stop together above half of their start
                             (underfitting if the weight decay is known to be too weak for that)
        overfitting          in the last third of the steps the validation loss is 0.02 or more above its lowest, and
                             the training loss has not risen since then
        underfitting         in the last third of the steps the validation loss falls by more than 0.1, or it never fell
        plateau              the validation loss stays within 0.02 for the last third or more; only without the others

    The numbers are fractions of the whole fall of the losses, and changes within the noise do not count. So the unit
    of the loss does not matter, nor does an offset, except for "half of their start". An annealing rate lowers and then
    flattens every loss: underfitting and plateaus are judged up to the last step at half of the highest rate, or to the
    middle of the run if that is later. With ``total_steps`` the fall is extrapolated as an exponential, and
    underfitting is judged in the last third of the whole training.

    Raises:
        ValueError: fewer than 9 validation losses, unless the run diverged.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters", sections 3, 4.1 and 4.4.

    Examples:
        >>> t = np.linspace(0, 1, 100)
        >>> [diagnosis.name for diagnosis in diagnose(History(2 - t, 2 - t))]
        ['underfitting']
        >>> [diagnosis.name for diagnosis in diagnose(History(2 * np.exp(-20 * t), 2 * np.exp(-20 * t)))]
        ['plateau']
    """
    diverged = _divergence(history)
    if diverged is not None:
        return [diverged]
    if np.size(history.val_loss) < MIN_VAL_LOSSES:
        raise ValueError(
            f"val_loss: got {np.size(history.val_loss)} values, and at least {MIN_VAL_LOSSES} are needed to tell a "
            "trend; look at the validation data more often, or diagnose later"
        )
    run = SmoothedHistory(history)
    # Each of these explains what the next ones would find; only overfitting and underfitting may occur together.
    for rules in ((_joint_rise,), (_stuck,), (_overfitting, _underfitting), (_plateau,)):
        found = [diagnosis for rule in rules if (diagnosis := rule(run))]
        if found:
            return found
    return []


def _divergence(history: History) -> Diagnosis | None:
    """Find the first training or validation loss that is not finite or has exploded."""
    train, val = np.asarray(history.train_loss), np.asarray(history.val_loss)
    at, limit = find_divergence(train)
    broken = np.asarray(history.val_steps)[~np.isfinite(val)]
    of, value = "training", math.nan if at is None else float(train[at])
    if len(broken) and (at is None or broken[0] <= at):
        at, of, value = int(broken[0]), "validation", float(val[~np.isfinite(val)][0])
    if at is None:
        return None
    seen, size = f"the {of} loss is {value:.4g} at step {at}", math.inf
    if math.isfinite(value):
        seen += f", past {limit:.4g}, where it had begun at {train[0]:.4g}"
        size = (value - float(train[0])) / (limit - float(train[0]))
    advice = "take a third of the rate, or a longer warm-up; if it goes on, look for broken data"
    if history.lr is not None:
        lr = float(np.asarray(history.lr)[min(at, len(train) - 1)])
        seen += f" (lr {lr:.3g})"
        advice = f"keep the rate below {lr / 3:.2g}, a third of where it broke; if it goes on, look for broken data"
    return Diagnosis("divergence", (at, at), size, seen, advice)


def _joint_rise(run: SmoothedHistory) -> Diagnosis | None:
    """Find over-regularisation: the validation loss rises, and the training loss with it."""
    val, train = run.val_loss, run.train_loss
    rises = np.minimum(*(loss - np.minimum.accumulate(loss) for loss in (val, train)))
    top = int(rises.argmax())
    low = int(val[: top + 1].argmin())
    if not (run.fall and run.is_significant(rises[top], JOINT_RISE_FRAC, max(run.val_error, run.train_error))):
        return None
    first, last = int(run.steps[low]), int(run.steps[top])
    seen = (
        f"{run.describe_span(first, last)} the validation loss rose from {val[low]:.4g} to {val[top]:.4g}, and the "
        f"training loss from {train[low]:.4g} to {train[top]:.4g}"
    )
    advice = f"{run.suggest_less_decay()}, or half of the highest rate: a large rate regularises, too"
    return Diagnosis("over-regularisation", (first, last), float(rises[top] / run.fall), seen, advice)


def _stuck(run: SmoothedHistory) -> Diagnosis | None:
    """Find losses that have stopped far above zero.

    Regularisation is the cause, unless the weight decay is known to be too weak for that.
    """
    val, train, start = run.val_loss, run.train_loss, run.initial_train_loss
    held = run.fall > 0 if run.decay_exponent is None else run.decay_exponent >= MIN_DECAY_EXPONENT
    left = min(val[-1] / val[0], train[-1] / start) if min(val.min(), train.min()) > 0 else 0.0
    (_, val_before, val_end), (_, train_before, train_end) = run.at_thirds(val), run.at_thirds(train)
    changes = ((val_before - val_end, run.val_error), (train_before - train_end, run.train_error))
    moving = any(run.is_significant(abs(change), SLOW_FALL_FRAC, error) for change, error in changes)
    if left < STUCK_FRAC or moving or not (run.fall or held):
        return None
    first, last = round(2 / 3 * run.judged_until), run.judged_until
    seen = (
        f"{run.describe_span(first, last)} the training loss stays near {train_end:.4g}, with {start:.4g} at the "
        f"start, and the validation loss near {val_end:.4g}, with {val[0]:.4g}"
    )
    if run.decay_exponent:
        seen += f"; the weight decay alone would have shrunk the weights by a factor of exp({run.decay_exponent:.3g})"
    try_first = run.suggest_less_decay() if held else f"take {run.suggest_higher_rate()}"
    advice = f"{try_first}; if that changes nothing, more capacity: or the data hold no more than this"
    name: DiagnosisName = "over-regularisation" if held else "underfitting"
    return Diagnosis(name, (first, last), float(left), seen, advice)


def _overfitting(run: SmoothedHistory) -> Diagnosis | None:
    """Find overfitting: the validation loss has turned up, and the training loss has not."""
    val, train = run.val_loss, run.train_loss
    low = int(val.argmin())
    late = float(val[run.steps >= run.last_step * 2 / 3].min())
    val_rise, train_rise = late - float(val[low]), float(train[-1] - train[low])
    turned_up = run.is_significant(val_rise, UPTURN_FRAC, run.val_error)
    if not (run.train_fell and turned_up and train_rise < MIN_SIGMAS * run.train_error):
        return None
    first = int(run.steps[low])
    seen = (
        f"the validation loss is lowest, {val[low]:.4g}, at {run.describe_step(first)}, {first / run.last_step:.0%} of "
        f"the way, and at least {late:.4g} in the last third of it; the training loss went from {train[low]:.4g} to "
        f"{train[-1]:.4g} meanwhile"
    )
    more = f"a weight decay of {run.weight_decay * 3:.2g}" if run.weight_decay else "more weight decay"
    advice = f"take {more}, a higher rate, more data or augmentation, or a smaller model; or stop near step {first}"
    return Diagnosis("overfitting", (first, run.last_step), val_rise / run.fall, seen, advice)


def _underfitting(run: SmoothedHistory) -> Diagnosis | None:
    """Find underfitting: the validation loss still falls when the training ends, or has never fallen."""
    if not run.fall:
        seen = (
            f"neither loss has fallen by more than its noise in {run.last_step} steps (training loss "
            f"{run.initial_train_loss:.4g})"
        )
        advice = (
            "take ten times the rate, or run a range test; check the targets, and that the parameters are trainable"
        )
        return Diagnosis("underfitting", (0, run.last_step), 0.0, seen, advice)
    # Coming down from a bump is no new fall, and a model that has learnt all it can has a level training loss.
    val_first, val_second, val_end = run.at_thirds(np.minimum.accumulate(run.val_loss))
    _, train_second, train_end = run.at_thirds(np.minimum.accumulate(run.train_loss))
    fell, fell_before = val_second - val_end, val_first - val_second
    level = train_second - train_end <= SLOW_FALL_FRAC * run.fall - MIN_SIGMAS * run.train_error
    if level or not run.is_significant(fell, SLOW_FALL_FRAC, run.val_error):
        return None
    pace = min(fell / fell_before, 1.0) if fell_before > 0 else 1.0
    extrapolated = fell * _last_third(pace ** (run.total_steps / run.last_step)) / _last_third(pace)
    if extrapolated <= SLOW_FALL_FRAC * run.fall:
        return None
    first, last = round(2 / 3 * run.judged_until), run.judged_until
    seen = (
        f"{run.describe_span(first, last)} the validation loss still fell from {val_second:.4g} to {val_end:.4g}, "
        f"{fell / run.fall:.0%} of its whole fall"
    )
    less = f"; or {run.suggest_less_decay()}" if run.weight_decay is None or run.weight_decay else ""
    advice = f"take {run.suggest_higher_rate()}, more steps or more capacity{less}"
    return Diagnosis("underfitting", (first, last), fell / run.fall, seen, advice)


def _last_third(pace: float) -> float:
    """Return the last third's fraction of the fall if each third falls ``pace`` times as much as the one before."""
    return pace**2 / (1 + pace + pace**2)


def _plateau(run: SmoothedHistory) -> Diagnosis | None:
    """Find a plateau: the validation loss stays on one level."""
    level, last = run.at_thirds(run.val_loss)[2], run.judged_until
    tolerance = max(LEVEL_FRAC * run.fall, MIN_SIGMAS * run.val_error)
    away = np.flatnonzero((run.steps <= last) & (np.abs(run.val_loss - level) > tolerance))
    first = int(run.steps[away[-1] + 1]) if len(away) and away[-1] + 1 < len(run.steps) else int(run.steps[0])
    frac = (last - first) / last
    if frac < PLATEAU_FRAC or MIN_SIGMAS * run.val_error > SLOW_FALL_FRAC * run.fall:
        return None
    seen = f"{run.describe_span(first, last)} the validation loss stays near {level:.4g}"
    advice = f"this is where training should get; past step {first} only a rate that anneals gains more"
    return Diagnosis("plateau", (first, last), frac, seen, advice)
