"""Runs the trials of a range test: short 1cycles from the same weights, judged on the same probe batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._progress import Progress
from ..schedules import Schedule, one_cycle
from ._curve import LRCurve
from ._experiment import Experiment
from ._probes import Probes
from ._smoothing import Floats
from ._trial_batches import TrialBatches
from ._trial_search import LEVELS, MIN_TRIALS, search
from ._trials import Trials, estimate_noise_of_change
from ._validation import average_over_ranks

RAMP_PROBES, RAMP_PROBE_EVERY = 4, 3
"""Number of probe batches that are measured during a ramp, and number of updates between two measurements."""

MAX_STEPS = sum(level.steps * level.max_trials for level in LEVELS)
"""Maximum number of updates of all trials."""

MIN_STEPS = LEVELS[0].steps * MIN_TRIALS
"""Number of updates of the first three trials."""

MAX_KEPT_STEPS = LEVELS[1].steps
"""Number of updates for which training batches are kept, so that all trials train on the same ones."""


class TrialRuns:
    """The trials of one range test.

    Args:
        experiment: trains from the initial weights.
        stream: its training batches, without end.
        max_lr: the highest rate of a trial; None: no limit.
        max_steps: maximum number of updates of ramps and trials together; None: no limit.
        thorough: run trials of the second length in any case.
    Attributes:
        ramp_batches: the training batches for the ramps.
        ramp_probes: the probes that are measured during the ramps.
    """

    def __init__(
        self,
        experiment: Experiment,
        stream: Iterator[Any],
        *,
        max_lr: float | None,
        max_steps: int | None,
        thorough: bool,
    ):
        n_needed = (MAX_KEPT_STEPS + 1) * experiment.options.accumulate
        self._batches = TrialBatches(stream, experiment.loader, n_needed, experiment.bad_batches, experiment.ranks)
        self._experiment, self._thorough = experiment, thorough
        self._max_lr = math.inf if max_lr is None else max_lr
        self._max_steps = math.inf if max_steps is None else max_steps
        self.ramp_batches = self._batches.training
        self.ramp_probes = experiment.make_probes(self._batches.probes[:RAMP_PROBES], RAMP_PROBE_EVERY)

    def max_total_steps(self, ramp_steps: int) -> int:
        """Return the maximum number of updates of ramps and trials, for ramps of ``ramp_steps``."""
        return int(min(ramp_steps + MAX_STEPS, self._max_steps))

    def run(self, curve: LRCurve, done: int, total: int, progress: Progress | None) -> tuple[Trials, ...]:
        """Run the trials around the ramps' estimate of the best rate.

        Args:
            curve: the result of the ramps.
            done: number of updates of the ramps.
            total: maximum number of updates of ramps and trials.
            progress: called as by ``ScheduledRun``.
        """
        probes, initial_loss = self._measured_probes()
        before = self._gather_losses(probes)

        def loss_after(lr: float, steps: int) -> tuple[float, float]:
            nonlocal done
            record = self._experiment.run(
                self._schedule(lr, steps),
                batches=iter(self._batches),
                stop_factor=math.inf,  # a trial that recovers is judged by its end
                validation=None,
                probes=probes,
                progress=progress,
                done=done,
                total=total,
            )
            done += steps
            if record.diverged:
                return math.inf, curve.noise
            noise = estimate_noise_of_change(before, self._gather_losses(probes), curve.noise)
            return float(record.probe_losses[steps]), noise

        levels = search(
            loss_after,
            curve.ramp_lr,
            self._max_lr,
            initial_loss,
            curve.noise,
            thorough=self._thorough,
            max_steps=self._max_steps - done,
        )
        if progress is not None:
            progress(done, done, {"lr": curve.ramp_lr, "loss": initial_loss})
        return tuple(levels)

    def _measured_probes(self) -> tuple[Probes, float]:
        """Return the probes and their loss on the initial weights; bad batches are replaced."""
        batches = self._batches.probes
        probes, loss = self._measure(batches)
        if not math.isfinite(loss):
            probes, loss = self._measure(self._experiment.replace_bad(batches, self._batches.training))
        return probes, loss

    def _gather_losses(self, probes: Probes) -> Floats:
        """Return the losses of the last measurement of all ranks' probes: float64 ``[n]``."""
        return np.concatenate(self._experiment.ranks.all_gather("the probe losses", probes.last_losses))

    def _measure(self, batches: list[Any]) -> tuple[Probes, float]:
        probes = self._experiment.make_probes(batches)
        with self._experiment.training() as step:
            return probes, float(average_over_ranks(self._experiment.ranks, probes.total(step)))

    def _schedule(self, lr: float, steps: int) -> Schedule:
        if self._experiment.optimizer is None:
            return one_cycle(lr, steps)
        return one_cycle(lr, steps, momentum=None)  # the user's choice of a momentum is kept
