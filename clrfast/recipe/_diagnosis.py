"""What the losses of a run tell about its settings: clues, each with its evidence and what to try next. Pure NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..finder._divergence import divergence
from ._history import SIGMAS, History, Run

ClueName = Literal["divergence", "over-regularisation", "overfitting", "underfitting", "plateau"]

MIN_LOOKS = 9
"""Validation losses: three for each third of a run. Fewer cannot tell a trend from their noise."""

SLOW = 0.1
"""Of the whole fall, in the last third of the steps. A loss that falls evenly has 0.33 there, an exponential one with
half of its decay time to go 0.27, with three decay times behind it 0.09."""

LEVEL = 0.02
"""Losses that differ by less than this part of the whole fall are on one level: five times less than still falling."""

PLATEAU_FRAC = 1 / 3
"""The horizontal part takes at least so much of the steps: shorter ones are where every run ends."""

TURN = 0.02
"""The validation loss has turned up once it is so much of the whole fall above its lowest: overfitting on CIFAR-10
begins with 0.45 to 0.5 after a fall by 1.85 (0.027)."""

TOGETHER = 0.25
"""Of the whole fall, that both losses rise by at once. At the top of a 1cycle a tenth is usual, and harmless."""

STUCK = 0.5
"""Both losses have stopped above this part of their start. The one threshold that takes zero for the best loss."""

FORGET = 1.0
"""Sum of lr * weight_decay from which on the decay holds the weights: by itself it shrinks them to 1/e in that time.
Usual settings stay below (0.1 * 5e-4 for 10,000 steps: 0.5)."""


@dataclass(frozen=True)
class Clue:
    """One thing that a run tells.

    Attributes:
        name: "divergence", "over-regularisation" (more than the rate can balance), "overfitting", "underfitting" or
            "plateau" (the horizontal part, which is no complaint).
        steps: the first and last step of the evidence.
        size: how much. Overfitting, over-regularisation: the rise; underfitting: the fall in the last third; as parts
            of the whole fall. Both losses stuck: the part of the start that is left. Plateau: its part of the steps.
            Divergence: the loss above its start, in units of what is allowed.
        evidence: what was seen, with numbers.
        advice: what to try next.
    """

    name: ClueName
    steps: tuple[int, int]
    size: float
    evidence: str
    advice: str


def diagnose(history: History) -> list[Clue]:
    """What the losses of a run tell about its settings, the most important first; empty where nothing is to be said.

        divergence           a loss explodes or is not finite; nothing else is judged then
        over-regularisation  both losses rise together by 0.25, or stop together above half of their start
                             (underfitting, where the weight decay is known to be too weak for that)
        overfitting          in the last third of the steps the validation loss is 0.02 or more above its lowest, and
                             the training loss has not risen since then
        underfitting         in the last third of the steps the validation loss falls by more than 0.1, or it never fell
        plateau              the validation loss stays within 0.02 for the last third or more; said if nothing else is

    The figures are parts of the whole fall of the losses, and what the noise could have made does not count; so
    neither the unit nor, but for "half of their start", an offset matters. A rate that anneals lowers and then flattens
    every loss: underfitting and plateau are judged up to the last step at half of the highest rate, or to the middle of
    the run if that is later. With ``total_steps``, underfitting is judged by the last third of these, if the fall
    goes on to slow down as it has: as an exponential.

    Raises:
        ValueError: fewer than 9 validation losses, unless the run diverged.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters", sections 3, 4.1 and 4.4.

    >>> t = np.linspace(0, 1, 100)
    >>> [clue.name for clue in diagnose(History(2 - t, 2 - t))]
    ['underfitting']
    >>> [clue.name for clue in diagnose(History(2 * np.exp(-20 * t), 2 * np.exp(-20 * t)))]
    ['plateau']
    """
    diverged = _divergence(history)
    if diverged is not None:
        return [diverged]
    if np.size(history.val_loss) < MIN_LOOKS:
        raise ValueError(
            f"val_loss: got {np.size(history.val_loss)} values, and at least {MIN_LOOKS} are needed to tell a trend; "
            "look at the validation data more often, or diagnose later"
        )
    run = Run(history)
    # Each of these explains what the next ones would see; only turning up may follow on slow falling.
    for judges in ((_rising_together,), (_stuck,), (_overfitting, _underfitting), (_plateau,)):
        clues = [clue for judge in judges if (clue := judge(run))]
        if clues:
            return clues
    return []


def _divergence(history: History) -> Clue | None:
    """A loss that is not finite or has exploded; the first of both."""
    train, val = np.asarray(history.train_loss), np.asarray(history.val_loss)
    at, limit = divergence(train)
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
    return Clue("divergence", (at, at), size, seen, advice)


def _rising_together(run: Run) -> Clue | None:
    """Over-regularisation: the validation loss rises, and the training loss with it."""
    rises = np.minimum(*(x - np.minimum.accumulate(x) for x in (run.val, run.train)))
    top = int(rises.argmax())
    low = int(run.val[: top + 1].argmin())
    if not (run.fall and run.counts(rises[top], TOGETHER, max(run.val_error, run.train_error))):
        return None
    first, last = int(run.steps[low]), int(run.steps[top])
    seen = (
        f"from {run.place(first)} to {run.place(last)} the validation loss rose from {run.val[low]:.4g} to "
        f"{run.val[top]:.4g}, and the training loss from {run.train[low]:.4g} to {run.train[top]:.4g}"
    )
    advice = f"{run.less_decay()}, or half of the highest rate: a large rate regularises, too"
    return Clue("over-regularisation", (first, last), float(rises[top] / run.fall), seen, advice)


def _stuck(run: Run) -> Clue | None:
    """Both losses stopped high above zero: held there by regularisation, unless the decay is known to be too weak."""
    held = run.fall > 0 if run.shrunk is None else run.shrunk >= FORGET
    left = min(run.val[-1] / run.val[0], run.train[-1] / run.start) if min(run.val.min(), run.train.min()) > 0 else 0.0
    (_, val, val_end), (_, train, train_end) = run.thirds(run.val), run.thirds(run.train)
    changes = ((val - val_end, run.val_error), (train - train_end, run.train_error))
    moving = any(run.counts(abs(change), SLOW, error) for change, error in changes)
    if left < STUCK or moving or not (run.fall or held):
        return None
    first = round(2 / 3 * run.until)
    seen = (
        f"from {run.place(first)} to {run.place(run.until)} the training loss stays near {train_end:.4g}, with "
        f"{run.start:.4g} at the start, and the validation loss near {val_end:.4g}, with {run.val[0]:.4g}"
    )
    if run.shrunk:
        seen += f"; the weight decay alone would have shrunk the weights by a factor of exp({run.shrunk:.3g})"
    try_first = run.less_decay() if held else f"take {run.higher_rate()}"
    advice = f"{try_first}; if that changes nothing, more capacity: or the data hold no more than this"
    name: ClueName = "over-regularisation" if held else "underfitting"
    return Clue(name, (first, run.until), float(left), seen, advice)


def _overfitting(run: Run) -> Clue | None:
    """The validation loss has turned up, and the training loss has not."""
    low = int(run.val.argmin())
    late = float(run.val[run.steps >= run.last * 2 / 3].min())
    rise, risen = late - float(run.val[low]), float(run.train[-1] - run.train[low])
    if not (run.train_fell and run.counts(rise, TURN, run.val_error) and risen < SIGMAS * run.train_error):
        return None
    first = int(run.steps[low])
    seen = (
        f"the validation loss is lowest, {run.val[low]:.4g}, at {run.place(first)}, {first / run.last:.0%} of the way, "
        f"and at least {late:.4g} in the last third of it; the training loss went from {run.train[low]:.4g} to "
        f"{run.train[-1]:.4g} meanwhile"
    )
    more = f"a weight decay of {run.decay * 3:.2g}" if run.decay else "more weight decay"
    advice = f"take {more}, a higher rate, more data or augmentation, or a smaller model; or stop near step {first}"
    return Clue("overfitting", (first, run.last), rise / run.fall, seen, advice)


def _underfitting(run: Run) -> Clue | None:
    """The validation loss has not done falling when the training ends, or has never begun."""
    if not run.fall:
        seen = f"neither loss has fallen by more than its noise in {run.last} steps (training loss {run.start:.4g})"
        advice = (
            "take ten times the rate, or run a range test; check the targets, and that the parameters are trainable"
        )
        return Clue("underfitting", (0, run.last), 0.0, seen, advice)
    # Coming down from a bump is no new fall; and a model that has learnt all that it can has a level training loss.
    begin, middle, end = run.thirds(np.minimum.accumulate(run.val))
    _, learning, learnt = run.thirds(np.minimum.accumulate(run.train))
    fell, before = middle - end, begin - middle
    level = learning - learnt <= SLOW * run.fall - SIGMAS * run.train_error
    if level or not run.counts(fell, SLOW, run.val_error):
        return None
    pace = min(fell / before, 1.0) if before > 0 else 1.0
    then = fell * _last_third(pace ** (run.total_steps / run.last)) / _last_third(pace)
    if then <= SLOW * run.fall:
        return None
    first = round(2 / 3 * run.until)
    seen = (
        f"from {run.place(first)} to {run.place(run.until)} the validation loss still fell from {middle:.4g} to "
        f"{end:.4g}, {fell / run.fall:.0%} of its whole fall"
    )
    less = f"; or {run.less_decay()}" if run.decay is None or run.decay else ""
    advice = f"take {run.higher_rate()}, more steps or more capacity{less}"
    return Clue("underfitting", (first, run.until), fell / run.fall, seen, advice)


def _last_third(pace: float) -> float:
    """Its part of the fall of a loss that falls ``pace`` times as much in each third as in the one before."""
    return pace**2 / (1 + pace + pace**2)


def _plateau(run: Run) -> Clue | None:
    """The validation loss is on one level."""
    level = run.thirds(run.val)[2]
    inside = run.steps <= run.until
    away = np.flatnonzero(inside & (np.abs(run.val - level) > max(LEVEL * run.fall, SIGMAS * run.val_error)))
    first = int(run.steps[away[-1] + 1]) if len(away) and away[-1] + 1 < len(run.steps) else int(run.steps[0])
    frac = (run.until - first) / run.until
    if frac < PLATEAU_FRAC or SIGMAS * run.val_error > SLOW * run.fall:
        return None
    seen = f"from {run.place(first)} to {run.place(run.until)} the validation loss stays near {level:.4g}"
    advice = f"this is where training should get; past step {first} only a rate that anneals gains more"
    return Clue("plateau", (first, run.until), frac, seen, advice)
