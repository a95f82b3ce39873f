"""Short 1cycles from one start, each with its own momentum and weight decay, on the same batches."""

from __future__ import annotations

import contextlib
import logging
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn

from .._checks import is_whole, require_positive
from .._progress import Progress
from .._ranks import SINGLE_PROCESS, Ranks
from ..finder._experiment import Experiment
from ..finder._range_test import range_test
from ..finder._scheduled_run import RunRecord, compute_rates
from ..finder._validation import Validation
from ..schedules import Schedule, one_cycle
from ..schedules._policies import Momentum
from ..tasks import Task
from ..training import StepOptions
from ..training._eager_step import device_of
from ..training._losses import ComputeLoss, resolve_loss
from ..training._step_options import resolve_options
from ..training._task_argument import resolve_task
from ._deadline import Deadline
from ._disjoint import require_apart
from ._distributed import require_alike, require_unwrapped
from ._history import History
from ._short_runs import Job, Keep, Made, Runs
from ._stacked_runs import MOST_COPIES, may_be_together, recorded_together

STEPS, REPEATS = 200, 2
"""Of each run, and runs of each value. Beside 2,000 steps of a small network on few digits, 100 were too few to show
overfitting, and 200 to 300 enough."""

LOOKS = 20
"""At the validation loss in each run, or fewer: looking takes no more forward passes than training."""

logger = logging.getLogger("clrfast.recipe")


class Runner:
    """Makes short runs of the model as it is now, all from the same weights, random numbers and place in the data.

    Only the repeats of a run follow each other in the data. Afterwards all is as before, as after ``range_test``. On a
    CUDA device runs on the same batches are made together by copies of the model, where vmap can and memory allows.

    Args:
        task: its ``train_loader`` can be iterated anew. The runs are judged on the first batches of its ``val_loader``,
            at most a tenth as many as a run has steps.
        options: of every step.
        max_lr: the highest rate; None: what a range test suggests, which is made first.
        steps: of each run, at least 20.
        repeats: of each run.
        planned: settings to come, for the progress.
        progress: told about all steps.
        ranks: all of them make the same calls; each gets a part of the runs, and all get the results.
        deadline: no run begins that would not end before it.
        found: runs of an earlier call with the same arguments, which are not made again.
        keep: is called on the first rank.
    Raises:
        ValueError: bad arguments; ranks that differ in model or data.
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
        planned: int,
        progress: Progress | None,
        ranks: Ranks = SINGLE_PROCESS,
        deadline: Deadline | None = None,
        found: Made | None = None,
        keep: Keep | None = None,
    ):
        require_unwrapped(task.model)
        if not is_whole(steps) or steps < LOOKS:
            raise ValueError(f"steps: got {steps!r}; give a whole number of updates for each run, at least {LOOKS}")
        if max_lr is not None:
            require_positive(max_lr=max_lr)
        self._experiment = Experiment(task, options)
        require_apart(task.train_loader, task.val_loader)
        require_alike(ranks, task.model, loader=task.train_loader, val_loader=task.val_loader)
        self._ranks, self._deadline = ranks, deadline
        self._ended, self._keep = dict(found or {}), keep if ranks.rank == 0 else None
        self._model, self._compute_loss = task.model, resolve_loss(task.loss_fn, task.compute_loss)
        # Copies of the model would share what the loss has of its own.
        self._together = may_be_together(device_of(task.model), options) and not self._experiment.loss_modules
        self._steps, self._repeats = int(steps), int(repeats)
        self._val_loader, self._batches_per_run = task.val_loader, (self._steps + 1) * options.accumulate
        with self._experiment.batches(task.val_loader):
            self._held_out = held_out(task.val_loader, self._steps, own=task.loss_fn is None)
            with self._experiment.training() as step:
                loss = float(self._held_out.mean(step))
        self._initial_loss = ranks.compute_on_first("the loss at the start", lambda: loss)
        self._progress, self._done, ahead = progress, 0, planned * self._repeats * self._steps

        def of_sweep(done: int, total: int, shown: dict[str, float]) -> None:
            self._done = total
            if progress is not None:
                progress(done, total + ahead, shown)

        if max_lr is None:
            curve = ranks.compute_on_first(
                "the range test", lambda: range_test(task, options=options, group=None, progress=of_sweep)
            )
            max_lr = curve.suggest().max_lr
        self.max_lr = float(max_lr)

    def __call__(self, settings: Sequence[tuple[Momentum, float]], *, later: int = 0) -> tuple[Runs, ...]:
        """The runs with each ``(momentum, weight_decay)``; without the last ones, if these would not end in time. The
        progress counts ``later`` settings as still to come."""
        n, ranks = self._repeats, self._ranks
        jobs: dict[tuple[int, int], Job] = {}
        for index, (momentum, weight_decay) in enumerate(settings):
            pair = tuple(momentum) if isinstance(momentum, list) else momentum  # what tells a run apart is hashable
            jobs |= {(index, repeat): (pair, weight_decay, repeat) for repeat in range(n)}
        total = self._done + (len(jobs) + later * n) * self._steps
        self._done += sum(job in self._ended for job in jobs.values()) * self._steps
        units = [
            [jobs[place] for place in unit if jobs[place] not in self._ended] for unit in self._units(len(settings))
        ]
        units = [unit for unit in units if unit]
        for begin in range(0, len(units), ranks.world_size):
            if self._deadline is not None and not ranks.compute_on_first("the time", self._deadline.allows_another):
                break
            # One for each rank, and then all meet: a failure is known to all after the time of one run.
            turn = units[begin : begin + ranks.world_size]
            if self._keep is not None:
                self._keep(dict(self._ended), sum(map(len, turn)) * self._steps)
            own = self._made(turn[ranks.rank], total) if ranks.rank < len(turn) else None
            what = f"short runs with {[job for unit in turn for job in unit]}"
            for unit, histories in zip(turn, ranks.all_gather(what, own), strict=False):
                self._ended |= zip(unit, histories, strict=True)
                self._done += len(unit) * self._steps
        ended = [index for index in range(len(settings)) if all(jobs[index, r] in self._ended for r in range(n))]
        return tuple(tuple(self._ended[jobs[index, repeat]] for repeat in range(n)) for index in ended)

    def end(self) -> None:
        """Tell the progress that no more runs come."""
        if self._progress is not None:
            self._progress(self._done, self._done, {})

    def _units(self, n_settings: int) -> list[list[tuple[int, int]]]:
        """The settings by their numbers and repeats, in parts for one rank at a time: a single run, or several on the
        same batches, which copies of the model make together."""
        size = min(MOST_COPIES, math.ceil(n_settings / self._ranks.world_size)) if self._together else 1
        parts = [range(begin, min(begin + size, n_settings)) for begin in range(0, n_settings, size)]
        return [[(index, repeat) for index in part] for part in parts for repeat in range(self._repeats)]

    def _made(self, jobs: list[Job], total: int) -> list[History]:
        if len(jobs) > 1 and self._together:
            try:
                return self._made_together(jobs, total)
            except Exception as error:  # vmap's, or of memory; what is wrong with model or data raises below as well
                logger.info("copies of this model are not trained together: %s: %s", type(error).__name__, error)
                self._together = False
        return [self._run(*job, self._done + index * self._steps, total) for index, job in enumerate(jobs)]

    def _made_together(self, jobs: list[Job], total: int) -> list[History]:
        schedules = [self._schedule(momentum, weight_decay) for momentum, weight_decay, _ in jobs]

        def tell(done: int) -> None:
            if self._progress is not None:
                self._progress(self._done + done * len(jobs), total, {})

        with self._batches(jobs[0][-1]) as batches:
            recorded = recorded_together(self._model, self._compute_loss, schedules, batches, self._held_out, tell)
        return [self._history(*made) for made in zip(schedules, recorded, jobs, strict=True)]

    def _run(self, momentum: Momentum, weight_decay: float, repeat: int, done: int, total: int) -> History:
        schedule = self._schedule(momentum, weight_decay)
        with self._batches(repeat) as batches:
            recorded = self._experiment.run(
                schedule,
                batches=batches,
                stop_factor=math.inf,  # a run that recovers is judged by its end
                validation=self._held_out,
                progress=self._progress,
                done=done,
                total=total,
            )
        return self._history(schedule, recorded, (momentum, weight_decay, repeat))

    def _schedule(self, momentum: Momentum, weight_decay: float) -> Schedule:
        return one_cycle(self.max_lr, self._steps, momentum=momentum, weight_decay=weight_decay)

    @contextlib.contextmanager
    def _batches(self, repeat: int) -> Iterator[Iterator[Any]]:
        with self._experiment.batches(self._val_loader) as batches:
            yield islice(batches, repeat * self._batches_per_run, None)

    def _history(self, schedule: Schedule, recorded: RunRecord, job: Job) -> History:
        train = recorded.losses[: self._steps]
        looks = {0: self._initial_loss} | {step: float(loss) for step, loss in recorded.validations.items()}
        if recorded.diverged:
            looks = {step: loss for step, loss in looks.items() if step < len(train)} | {len(train): math.inf}
        lr = compute_rates(schedule, len(train))
        return History(train, list(looks.values()), list(looks), lr=lr, weight_decay=job[1])


def resolve_arguments(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    loader: Iterable[Any] | None,
    compute_loss: ComputeLoss | None,
    val_loader: Iterable[Any] | None,
    options: StepOptions | None,
    keywords: Mapping[str, Any],
    function: str,
) -> tuple[Task, StepOptions]:
    """Return the task and the step's options that a caller of ``function`` gave in either form.

    Raises:
        TypeError: an unknown keyword.
        ValueError: a bad option, or an optimizer.
    """
    if "optimizer" in keywords:
        raise ValueError(
            f"optimizer: got {type(keywords['optimizer']).__name__}; the short runs are made with clrfast.SGD, "
            "whose schedule has a curve for every setting; leave it out"
        )
    options = resolve_options(options, keywords, function)
    return resolve_task(model, loss_fn, loader, compute_loss, val_loader), options


def held_out(val_loader: Any, steps: int, *, own: bool) -> Validation:
    """What is looked at in runs of ``steps``, and how often; ``own``: the batches are not pairs."""
    looked_at = Validation(val_loader, None, steps, None, custom_batches=own)
    looked_at.every = max(looked_at.every, steps // LOOKS)
    return looked_at


def checked_values(values: Any, *, name: str, below: float, example: Sequence[float]) -> list[float]:
    """The values to try, ascending.

    Raises:
        ValueError: fewer than 2 different ones, or one that is not in ``[0, below)``.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name}: got {values!r}; give several numbers, as {example}")
    given = list(values)
    for value in given:
        if not isinstance(value, numbers.Real) or not 0 <= float(value) < below:
            raise ValueError(f"{name}: got {value!r} among them; give numbers in [0, {below:g})")
    ascending = sorted({float(value) for value in given})
    if len(ascending) < 2:
        raise ValueError(f"{name}: got {given}; give at least two different values to compare, as {example}")
    return ascending


def require_repeats(repeats: Any) -> None:
    """Raises ValueError unless the noise can be told from so many runs of each value."""
    if not is_whole(repeats) or repeats < 2:
        raise ValueError(
            f"repeats: got {repeats!r}; give a whole number of runs for each value, at least 2: what differs between "
            "them tells the noise"
        )
