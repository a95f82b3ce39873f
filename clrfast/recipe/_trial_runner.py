"""``TrialRunner``: runs short 1cycles with several settings, all from the same start on the same batches."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from .._checks import is_whole, require_positive
from .._distributed import SINGLE_PROCESS, Ranks
from .._progress import Progress
from ..finder._experiment import Experiment
from ..finder._range_test import range_test
from ..finder._scheduled_run import RunRecord, compute_rates
from ..finder._validation import Validation
from ..schedules import Schedule, one_cycle
from ..schedules._policies import Momentum
from ..tasks import Task
from ..training import StepOptions
from ..training._eager_step import device_of
from ..training._losses import resolve_loss
from ._data_overlap import require_disjoint
from ._deadline import Deadline
from ._loss_history import History
from ._optimizers import OPTIMIZERS, trial_optimizer
from ._shared_trials import require_no_ddp, require_same_start
from ._stacked_trials import MAX_COPIES, can_stack, run_stacked
from ._trials import FinishedTrials, Repeats, SaveTrials, Trial

DEFAULT_STEPS, DEFAULT_REPEATS = 200, 2
"""Default length of a trial, and number of trials for each value. Compared with 2,000 steps of a small network on few
digits, 100 steps were too few to show overfitting, and 200 to 300 were enough."""

TRIAL_VALIDATIONS = 20
"""Maximum number of validations in a trial. They never take more forward passes than the training."""

logger = logging.getLogger("clrfast.recipe")


class TrialRunner:
    """Runs trials from the current model: all start with the same weights, random numbers and batches.

    Only the repeats of a setting use successive batches. Everything is restored after each trial, as after
    ``range_test``. On a CUDA device trials on the same batches run at once, as stacked copies of the model, if vmap
    supports the model and memory suffices.

    Args:
        task: its ``train_loader`` can be iterated repeatedly. Trials are judged on the first batches of its
            ``val_loader``, at most a tenth as many as a trial has steps.
        options: the options of every step.
        max_lr: highest rate of each trial; None: the suggestion of a range test, which runs first.
        steps: length of each trial, >= 20.
        repeats: number of trials for each setting.
        planned_settings: number of settings that the progress expects.
        progress: receives the progress of all steps.
        ranks: they make the same calls. Each runs a part of the trials, and all get the results.
        deadline: no trial starts that would end after it.
        finished: trials of an earlier call with the same arguments, which do not run again.
        save: function that is called on the first rank before trials start.
        optimizer: name of the optimizer.
    Raises:
        ValueError: an argument is wrong, or the ranks differ in model or data.
        RankError: another rank failed.
        NoSuggestionError: the range test has no valid answer.
    """

    def __init__(
        self,
        task: Task,
        options: StepOptions,
        *,
        max_lr: float | None,
        steps: int,
        repeats: int,
        planned_settings: int,
        progress: Progress | None,
        ranks: Ranks = SINGLE_PROCESS,
        deadline: Deadline | None = None,
        finished: FinishedTrials | None = None,
        save: SaveTrials | None = None,
        optimizer: str = "sgd",
    ):
        require_no_ddp(task.model)
        if not is_whole(steps) or steps < TRIAL_VALIDATIONS:
            raise ValueError(
                f"steps: got {steps!r}; give a whole number of updates for each run, at least {TRIAL_VALIDATIONS}"
            )
        if max_lr is not None:
            require_positive(max_lr=max_lr)
        self.optimizer, self._task, self._options = optimizer, task, options
        self._experiment = Experiment(task, options, optimizer=trial_optimizer(optimizer, task))
        require_disjoint(task.train_loader, task.val_loader)
        require_same_start(ranks, task.model, loader=task.train_loader, val_loader=task.val_loader)
        self._ranks, self._deadline = ranks, deadline
        self._finished, self._save = dict(finished or {}), save if ranks.rank == 0 else None
        # Copies of the model would share the loss's own parameters.
        self._stack = can_stack(device_of(task.model), options) and not self._experiment.loss_modules
        self._steps, self._repeats = int(steps), int(repeats)
        self._validation, self._initial_loss = self._validate_start()
        self._progress, self._done_steps = progress, 0
        self.max_lr = float(self._suggested_max_lr(planned_settings) if max_lr is None else max_lr)

    def _validate_start(self) -> tuple[Validation, float]:
        with self._experiment.batches(self._task.val_loader):
            validation = trial_validation(self._task, self._steps)
            with self._experiment.training() as step:
                loss = float(validation.mean(step))
        return validation, self._ranks.compute_on_first("the loss at the start", lambda: loss)

    def _suggested_max_lr(self, planned_settings: int) -> float:
        trial_steps = planned_settings * self._repeats * self._steps

        def show(done: int, total: int, shown: dict[str, float]) -> None:
            self._done_steps = total
            if self._progress is not None:
                self._progress(done, total + trial_steps, shown)

        optimizer, options = trial_optimizer(self.optimizer, self._task), self._options
        test = partial(
            range_test, self._task, optimizer=optimizer, options=options, trials=False, group=None, progress=show
        )
        return self._ranks.compute_on_first("the range test", test).suggest().max_lr

    def run(self, settings: Sequence[tuple[Momentum, float]], *, upcoming: int = 0) -> tuple[Repeats, ...]:
        """Run the trials of each ``(momentum, weight_decay)`` and return their histories.

        The last settings are left out if their trials would not end before the deadline. The progress expects
        ``upcoming`` more settings after these.
        """
        ranks = self._ranks
        hashable = [(tuple(m) if isinstance(m, list) else m, weight_decay) for m, weight_decay in settings]
        trials = [[Trial(*setting, repeat) for repeat in range(self._repeats)] for setting in hashable]
        total = self._done_steps + (len(settings) + upcoming) * self._repeats * self._steps
        self._done_steps += sum(trial in self._finished for repeats in trials for trial in repeats) * self._steps
        stacks = self._stacks(trials)
        for start in range(0, len(stacks), ranks.world_size):
            if self._deadline is not None and not ranks.compute_on_first("the time", self._deadline.allows_another):
                break
            # One stack for each rank; then all meet, so that a failure is known everywhere after one trial.
            turn = stacks[start : start + ranks.world_size]
            if self._save is not None:
                self._save(dict(self._finished), sum(map(len, turn)) * self._steps)
            own = self._run_stack(turn[ranks.rank], total) if ranks.rank < len(turn) else None
            place = f"short runs with {[tuple(trial) for stack in turn for trial in stack]}"
            for stack, histories in zip(turn, ranks.all_gather(place, own), strict=False):
                self._finished |= zip(stack, histories, strict=True)
                self._done_steps += len(stack) * self._steps
        complete = [repeats for repeats in trials if all(trial in self._finished for trial in repeats)]
        return tuple(tuple(self._finished[trial] for trial in repeats) for repeats in complete)

    def finish(self) -> None:
        """Report to the progress that no more trials will run."""
        if self._progress is not None:
            self._progress(self._done_steps, self._done_steps, {})

    def _stacks(self, trials: list[list[Trial]]) -> list[list[Trial]]:
        """Group the unfinished trials: each group is for one rank, has the same batches, and can run at once."""
        size = min(MAX_COPIES, math.ceil(len(trials) / self._ranks.world_size)) if self._stack else 1
        stacks = [
            [repeats[repeat] for repeats in trials[start : start + size] if repeats[repeat] not in self._finished]
            for start in range(0, len(trials), size)
            for repeat in range(self._repeats)
        ]
        return [stack for stack in stacks if stack]

    def _run_stack(self, trials: list[Trial], total: int) -> list[History]:
        if len(trials) > 1 and self._stack:
            try:
                return self._run_at_once(trials, total)
            except Exception as error:  # of vmap or memory; an error of the model or the data is raised again below
                logger.info("copies of this model are not trained together: %s: %s", type(error).__name__, error)
                self._stack = False
        return [self._run(trial, self._done_steps + i * self._steps, total) for i, trial in enumerate(trials)]

    def _run_at_once(self, trials: list[Trial], total: int) -> list[History]:
        schedules = [self._schedule(trial) for trial in trials]

        def show(done: int) -> None:
            if self._progress is not None:
                self._progress(self._done_steps + done * len(trials), total, {})

        compute_loss = resolve_loss(self._task.loss_fn, self._task.compute_loss)
        kind, model = OPTIMIZERS[self.optimizer].kind, self._task.model
        with self._batches(trials[0].repeat) as batches:
            records = run_stacked(model, compute_loss, schedules, batches, self._validation, show, kind)
        return [self._history(*each) for each in zip(trials, schedules, records, strict=True)]

    def _run(self, trial: Trial, done: int, total: int) -> History:
        schedule = self._schedule(trial)
        with self._batches(trial.repeat) as batches:
            record = self._experiment.run(
                schedule,
                batches=batches,
                stop_factor=math.inf,  # a trial that recovers is judged by its end
                validation=self._validation,
                progress=self._progress,
                done=done,
                total=total,
            )
        return self._history(trial, schedule, record)

    def _schedule(self, trial: Trial) -> Schedule:
        return one_cycle(self.max_lr, self._steps, momentum=trial.momentum, weight_decay=trial.weight_decay)

    @contextlib.contextmanager
    def _batches(self, repeat: int) -> Iterator[Iterator[Any]]:
        batches_per_trial = (self._steps + 1) * self._options.accumulate
        with self._experiment.batches(self._task.val_loader) as batches:
            yield islice(batches, repeat * batches_per_trial, None)

    def _history(self, trial: Trial, schedule: Schedule, record: RunRecord) -> History:
        train_loss = record.losses[: self._steps]
        n = len(train_loss)
        val_loss = {0: self._initial_loss} | {step: float(loss) for step, loss in record.validations.items()}
        if record.diverged:
            val_loss = {step: loss for step, loss in val_loss.items() if step < n} | {n: math.inf}
        lr = compute_rates(schedule, n)
        return History(train_loss, list(val_loss.values()), list(val_loss), lr=lr, weight_decay=trial.weight_decay)


def trial_validation(task: Task, steps: int) -> Validation:
    """Return the validation of a trial of ``steps``, which is due at most ``TRIAL_VALIDATIONS`` times."""
    assert task.val_loader is not None  # `require_disjoint` has checked it
    validation = Validation(task.val_loader, None, steps, None, custom_batches=task.loss_fn is None)
    validation.every = max(validation.every, steps // TRIAL_VALIDATIONS)
    return validation
