"""``Trial``: the settings of one short training; finished and pending trials, and their histories."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ..finder._smoothing import Floats
from ..schedules._policies import Momentum
from ._loss_history import History


class Trial(NamedTuple):
    """The settings of one short training.

    Attributes:
        momentum: a number, or (upper, lower) to cycle it against the rate.
        weight_decay: >= 0.
        repeat: index of the repeat, from 0. Each repeat trains on the batches after those of the one before it.
    """

    momentum: Momentum
    weight_decay: float
    repeat: int


Repeats = tuple[History, ...]
"""Histories of trials that differ in their batches alone."""

FinishedTrials = Mapping[Trial, History]
"""Finished trials and their histories."""

SaveTrials = Callable[[FinishedTrials, int], None]
"""``save(finished, started_steps)`` is called before trials start, with all finished trials and the steps of those that
start."""


@dataclass(frozen=True, eq=False)
class PendingTrials:
    """Trials with several values of one setting, of which some have not finished.

    Attributes:
        values: values of the setting to start with.
        steps: length of each trial.
        max_lr: highest rate of each trial.
        refine: whether more values are tried around the best, see ``find_weight_decay``.
        trials: the finished trials.
        histories: their histories, in the same order.
    """

    values: tuple[float, ...]
    steps: int
    max_lr: float
    refine: bool = False
    trials: tuple[Trial, ...] = ()
    histories: Repeats = field(default=(), repr=False)

    @property
    def finished(self) -> FinishedTrials:
        """The finished trials and their histories."""
        return dict(zip(self.trials, self.histories, strict=True))

    @property
    def finished_steps(self) -> int:
        """Total steps of the finished trials."""
        return count_steps(self.histories)

    def with_finished(self, finished: FinishedTrials) -> PendingTrials:
        """Return a copy whose finished trials are ``finished``."""
        return replace(self, trials=tuple(finished), histories=tuple(finished.values()))


def count_steps(histories: Iterable[History]) -> int:
    """Return the total number of steps. A run that diverged has fewer than were planned."""
    return sum(np.size(history.train_loss) for history in histories)


def final_losses(histories: Iterable[History]) -> Floats:
    """Return the validation loss after each run, float64 ``[n]``; inf where it is not finite."""
    loss = np.array([float(np.asarray(history.val_loss)[-1]) for history in histories])
    return np.where(np.isfinite(loss), loss, math.inf)
