"""Rate and weight decay together: runs as long as the training, or nearly, from each pair to a better neighbour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..batches import ComputeLoss
from ..finder.noise import Floats
from ..finder.suggest import NoSuggestionError
from ..progress import Progress, showing
from ..schedules.curves import is_whole, require_positive
from ..schedules.policies import Momentum
from .clock import Deadline, deadline
from .history import History
from .runner import LOOKS, Runner
from .runs import final_losses
from .weight_decay import half_step

LINE = (1e-4, 1e-3, 1e-2)
"""The weight decays to begin with, a decade apart."""

MOST_DECAY = 1.0
"""The line does not go on above it."""

RATE_STEP, LEAST_STRIDE = math.sqrt(10), 0.5
"""Between neighbouring rates, and the part of it, in the exponent, that is the least: a factor of 1.8."""


@dataclass(frozen=True)
class Pair:
    """The rate and the weight decay to train with, and why."""

    max_lr: float
    weight_decay: float
    reason: str


@dataclass(frozen=True, eq=False)
class Pairs:
    """What runs with ``n`` pairs of a rate and a weight decay ended with, in the order in which they were made.

    Attributes:
        max_lr: float64 ``[n]``, the highest rate of each.
        weight_decay: float64 ``[n]``.
        steps: int64 ``[n]``, the length of their schedules; those at the beginning are half as long as the others.
        runs: a ``History`` each; one that diverged ends with inf.
    """

    max_lr: Floats
    weight_decay: Floats
    steps: np.ndarray
    runs: tuple[History, ...] = field(repr=False)

    @property
    def loss(self) -> Floats:
        """float64 ``[n]``: the validation loss after each run; inf where it is not finite."""
        return final_losses(self.runs)

    @property
    def failing_lr(self) -> Floats:
        """float64 ``[n]``: the lowest rate above that of each run at which another one failed, with any decay and
        length: it ended above the middle of the loss at the start and the lowest one. Inf where none did."""
        failed = self.max_lr[~(self.loss <= (self._initial + self.loss.min()) / 2)]
        above = np.where(failed > self.max_lr[:, None], failed, math.inf)
        return above.min(axis=1, initial=math.inf)

    @property
    def expected(self) -> Floats:
        """float64 ``[n]``: the loss to expect after each run with other random numbers.

            loss + chance * (loss at the start - loss),  chance = (max_lr / failing_lr)**2 / 2

        One run says what a rate gives where it is borne, and nothing of the next training's bearing it. The chance
        that another seed fails is by the 52 tasks of ``benchmarks.edge``, where a rate that is better than a third of
        it failed with 16 % of other seeds at 0.56 of a rate at which the first seed failed, with 5 % at 0.32 of it.
        """
        chance = (self.max_lr / self.failing_lr) ** 2 / 2
        return self.loss + chance * np.maximum(self._initial - self.loss, 0.0)

    @property
    def best(self) -> int:
        """The place of the lowest expected loss among the longest runs.

        Raises:
            NoSuggestionError: the validation loss fell in none of them.
        """
        best = self._lowest(self.expected)
        if not self.loss[best] < self._initial:
            raise NoSuggestionError(
                f"in no run of {self.steps.max()} steps, with rates from {self.max_lr.min():.3g} to "
                f"{self.max_lr.max():.3g}, the validation loss fell below its {self._initial:.4g} at the start: look "
                "at the data, or give another max_lr"
            )
        return best

    def suggest(self) -> Pair:
        """The best of what was tried at full length.

        Raises:
            NoSuggestionError: see ``best``.
        """
        at, lowest = self.best, self._lowest(self.loss)
        longest = self.steps == self.steps.max()
        told = f"ends with the lowest validation loss ({self.loss[at]:.4g})"
        if at != lowest:
            told = (
                f"is taken, with a validation loss of {self.loss[at]:.4g} at the end: with {self.max_lr[lowest]:.3g} "
                f"and {self.weight_decay[lowest]:g} it is {self.loss[lowest]:.4g}, but a run failed at "
                f"{self.failing_lr[lowest]:.3g}, and so near to that another training may"
            )
        reason = (
            f"of {longest.sum()} runs of {self.steps[at]} steps, with rates from {self.max_lr[longest].min():.3g} to "
            f"{self.max_lr[longest].max():.3g} and weight decays from {self.weight_decay[longest].min():g} to "
            f"{self.weight_decay[longest].max():g}, the one with {self.max_lr[at]:.3g} and {self.weight_decay[at]:g} "
            f"{told}"
        )
        return Pair(float(self.max_lr[at]), float(self.weight_decay[at]), reason)

    @property
    def _initial(self) -> float:
        return float(np.asarray(self.runs[0].val_loss)[0])

    def _lowest(self, loss: Floats) -> int:
        """The place of the lowest among the longest runs."""
        longest = np.flatnonzero(self.steps == self.steps.max())
        return int(longest[loss[longest].argmin()])

    def table(self) -> list[tuple[float, ...]]:
        """For each run: its rate, weight decay, steps and the loss after it."""
        columns = self.max_lr, self.weight_decay, self.steps, self.loss
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def __str__(self) -> str:
        rows = [f"{'rate':>8}  {'decay':>8}  {'steps':>6}  {'loss after':>10}"]
        rows += [f"{lr:>8.3g}  {decay:>8g}  {steps:>6}  {loss:>10.5g}" for lr, decay, steps, loss in self.table()]
        return "\n".join(rows)


def find_pair(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any],
    max_lr: float,
    steps: int,
    max_steps: int,
    momentum: Momentum = (0.95, 0.85),
    max_seconds: float | None = None,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Pairs:
    """1cycles of the training's own length, or nearly, from one pair of rate and weight decay to a better neighbour.

    Short runs tell neither the decay, for they do not overfit, nor the rate that is best with it, which is higher
    where the decay keeps a long training from overfitting. So these are few and long:

        line     runs of half the steps at max_lr, with 1e-4, 1e-3 and 1e-2, and on above while the last is the best
        climb    from the best of these on, at full length: the rate times and over sqrt(10), or the root of that where
                 it was too far, the decay a half decade up and down, then both against each other; on from the first
                 that is better, until none is or the steps are used up; back where a run failed too near

    Better is what ends with the lower ``Pairs.expected`` loss, which counts what a rate just below failure risks.

    All start from the model as it is now, with the same random numbers and batches; afterwards all is as before, as
    after ``range_test``.

    Args:
        model, loss_fn, loader, compute_loss, val_loader, momentum, progress, options: as of ``find_weight_decay``.
        max_lr: to begin with, as ``range_test`` suggests it.
        steps: of each run, at least 40; as near to those of the training as can be, at least a quarter.
        max_steps: no run is made beyond so many updates of all together; at least 2.5 times ``steps``.
        max_seconds: after the first four runs, none begins that would not end in so much time, > 0, as far as those
            before it tell. None: no such end.
    Returns:
        All runs; ``suggest()`` tells the pair to take.
    Raises:
        ValueError: bad arguments; validation data that are in the training data, as far as the objects tell.
    """
    require_positive(max_lr=max_lr)
    if not is_whole(steps) or steps < 2 * LOOKS:
        raise ValueError(f"steps: got {steps!r}; give a whole number of updates for each run, at least {2 * LOOKS}")
    if not is_whole(max_steps) or max_steps < len(LINE) * (steps // 2) + steps:
        raise ValueError(
            f"max_steps: got {max_steps!r}; give at least 2.5 times the {steps} steps of a run, for the first four runs"
        )
    until = deadline(max_seconds)
    with showing(progress, "rate and weight decay") as show:
        made = _Made(max_lr, int(max_steps), until)

        def run(place: float, decay: float, of: int) -> float:
            def tell(done: int, _: int, shown: dict[str, float]) -> None:
                if show is not None:
                    show(made.done + done, made.max_steps, shown)

            lr = max_lr * RATE_STEP**place
            runner = Runner(
                model,
                loss_fn,
                loader,
                val_loader,
                compute_loss=compute_loss,
                max_lr=lr,
                steps=of,
                repeats=1,
                planned=1,
                progress=tell,
                options=options,
            )
            ((history,),) = runner([(momentum, decay)])
            return made.add(place, decay, of, history)

        decay, towards = _line(made, run, int(steps) // 2, int(steps))
        _climb(made, run, int(steps), decay, towards)
    return made.pairs()


Run = Callable[[float, float, int], float]


class _Made:
    """The runs so far, each at a place ``(steps of the rate from the first, weight decay, length)``."""

    def __init__(self, max_lr: float, max_steps: int, until: Deadline | None = None):
        self.max_lr, self.max_steps, self.until, self.done = max_lr, max_steps, until, 0
        self.at: dict[tuple[float, float, int], History] = {}

    def add(self, place: float, decay: float, steps: int, history: History) -> float:
        self.at[place, decay, steps] = history
        self.done += steps
        return float(final_losses([history])[0])

    def allows(self, steps: int) -> bool:
        in_time = self.until is None or self.until.gone * (1 + steps / self.done) <= self.until.seconds
        return in_time and self.done + steps <= self.max_steps

    def best(self, steps: int) -> tuple[float, float]:
        """The place with the lowest expected loss of those with runs of so many steps."""
        expected = dict(zip(self.at, self.pairs().expected.tolist(), strict=True))
        place, decay, _ = min((at for at in self.at if at[-1] == steps), key=lambda at: expected[at])
        return place, decay

    def pairs(self) -> Pairs:
        places, decays, steps = zip(*self.at, strict=True)
        rates = self.max_lr * RATE_STEP ** np.array(places, dtype=np.float64)
        return Pairs(rates, np.array(decays), np.array(steps), tuple(self.at.values()))


def _line(made: _Made, run: Run, steps: int, longer: int) -> tuple[float, int]:
    """The best of a line of weight decays, and on which side of it the loss is lower: 1 above, -1 below."""
    losses = {decay: run(0.0, decay, steps) for decay in LINE}
    while (best := min(losses, key=lambda decay: losses[decay])) == max(losses) < MOST_DECAY:
        if not made.allows(steps + longer):  # for the first of the climb
            break
        above = float(f"{10 * best:.0e}")
        losses[above] = run(0.0, above, steps)
    lower, higher = (losses.get(float(f"{best * factor:.0e}"), math.inf) for factor in (0.1, 10))
    return best, 1 if higher < lower else -1


def _climb(made: _Made, run: Run, steps: int, decay: float, towards: int) -> None:
    here = 0.0, decay
    run(*here, steps)
    stride = {1: 1.0, -1: 1.0}  # of the rate alone, up and down, in parts of RATE_STEP
    moving = True
    while moving:
        moving = False
        for side, next_place, next_decay in _neighbours(*here, stride, towards):
            there = next_place, next_decay
            if (*there, steps) in made.at or not made.allows(steps):
                continue
            moving = True
            run(*there, steps)
            best = made.best(steps)
            if best == here:
                if side:
                    stride[side] /= 2
                continue
            if best != there:  # which failed, and what was the best is too near to it
                stride, towards = {1: LEAST_STRIDE, -1: 1.0}, 1
            elif side:
                stride[-side] = stride[side] / 2  # the whole one leads back
                towards = -side  # a higher rate regularises, and with the decay: it wants less of that
            else:
                stride = {side: max(part, LEAST_STRIDE) for side, part in stride.items()}
            here = best
            break


def _neighbours(
    place: float, decay: float, stride: dict[int, float], towards: int
) -> Iterator[tuple[int, float, float]]:
    """Where to look next, what is likelier better first: the direction, if it is of the rate alone, and the pair."""
    for side, decay_side in ((1, towards), (-1, -towards)):
        if stride[side] >= LEAST_STRIDE:
            yield side, place + side * stride[side], decay
        yield 0, place, half_step(decay, decay_side)
    for side in (1, -1):  # along lr * weight_decay, where both shrink the weights alike
        yield 0, place + side, half_step(decay, -side)
