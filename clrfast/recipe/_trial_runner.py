"""``TrialRunner``: makes the measurement of a trial, from the same start as all others of the task."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from .._progress import Progress
from ..batch_size import BatchSizes, find_batch_size
from ..diagnosis import History
from ..finder import LRCurve, range_test
from ..finder._experiment import Experiment
from ..finder._scheduled_run import RunRecord
from ..finder._suggestion import NoSuggestionError
from ..finder._validation import Validation
from ..tasks import Task
from ..training import StepOptions
from ..training._data_overlap import require_disjoint
from ..training._eager_step import device_of
from ..training._losses import resolve_loss
from ._optimizers import OPTIMIZERS, trial_optimizer
from ._stacked_trials import can_stack, run_stacked
from ._study import Result, TrialSpec, range_test_key

TRIAL_VALIDATIONS = 20
"""Maximum number of validations in a trial. They never take more forward passes than the training."""

MIN_EPOCH_STEPS = 20
"""Minimum number of batches in an epoch with the largest batch size to try. With fewer, a training would have too few
updates, and too little of their noise."""

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
    Raises:
        ValueError: an argument is wrong, or the validation data are visibly in the training data.
    """

    def __init__(self, task: Task, options: StepOptions):
        _require_no_ddp(task.model)
        require_disjoint(task.train_loader, task.val_loader)
        self._task, self._options = task, options
        # Refuses a bad model before anything begins. A worker that waits for others has done its slow imports by then.
        loss_modules = Experiment(task, options).loss_modules
        # Copies of the model would share the loss's own parameters.
        self.stacks = can_stack(device_of(task.model), options) and not loss_modules
        self._starts: dict[tuple[int, int | None], tuple[Validation, float]] = {}

    def run(self, specs: Sequence[TrialSpec], progress: Progress | None) -> list[Result]:
        """Return the result of each trial.

        Args:
            specs: one trial; or trainings that differ in rate, momentum and weight decay alone, if ``stacks``.
            progress: ``progress(done, total, shown)`` with the steps of these trials.
        """
        task = with_batch_size(self._task, specs[0].batch_size)
        if specs[0].stage == "range test":
            return [self._range_test(task, specs[0], progress)]
        if specs[0].stage == "batch size":
            return [self._batch_sizes(task, specs[0])]
        return list(self._trainings(task, specs, progress))

    def seconds_per_step(self, spec: TrialSpec) -> float:
        """Measure the time of a step in a short training with the settings of ``spec``, validation included."""
        short = replace(spec, stage="pair", steps=2 * TRIAL_VALIDATIONS, max_lr=1e-6, momentum=0.9)
        start = time.perf_counter()
        self.run([short], None)
        return (time.perf_counter() - start) / short.steps

    def _range_test(self, task: Task, spec: TrialSpec, progress: Progress | None) -> LRCurve:
        """Run the ramps of a range test. If they have no answer for the first time, repeat them with trials."""
        optimizer = trial_optimizer(spec.optimizer, task, spec.weight_decay)
        test = partial(range_test, task, options=self._options, optimizer=optimizer, group=None)
        curve = test(trials=False, progress=progress or False)
        if spec.key == range_test_key(spec.optimizer):
            try:
                curve.suggest()
            except NoSuggestionError:
                curve = test(progress=progress or False)
                curve.suggest()  # raises if there is no rate to continue with
        return curve

    def _batch_sizes(self, task: Task, spec: TrialSpec) -> BatchSizes:
        loader: Any = task.train_loader
        most = max(len(loader.dataset) // MIN_EPOCH_STEPS, loader.batch_size or 1)
        optimizer = trial_optimizer(spec.optimizer, task)
        return find_batch_size(task, optimizer=optimizer, max_batch_size=most, options=self._options)

    def _trainings(self, task: Task, specs: Sequence[TrialSpec], progress: Progress | None) -> list[History]:
        experiment = Experiment(task, self._options, optimizer=trial_optimizer(specs[0].optimizer, task))
        validation, initial_loss = self._start(experiment, task, specs[0].steps)
        records = None
        if len(specs) > 1 and self.stacks:
            try:
                records = self._run_at_once(task, experiment, specs, validation, progress)
            except Exception as error:  # of vmap or memory; an error of the model or the data is raised again below
                logger.info("copies of this model are not trained together: %s: %s", type(error).__name__, error)
                self.stacks = False
        if records is None:
            records = [self._run(task, experiment, spec, validation, progress) for spec in specs]
        return [_history(spec, record, initial_loss) for spec, record in zip(specs, records, strict=True)]

    def _start(self, experiment: Experiment, task: Task, steps: int) -> tuple[Validation, float]:
        """Return the validation of trials of ``steps``, and the loss before them."""
        key = steps, getattr(task.train_loader, "batch_size", None)
        if key not in self._starts:
            with experiment.batches(task.val_loader):
                validation = _trial_validation(task, steps)
                with experiment.training() as step:
                    self._starts[key] = validation, float(validation.mean(step))
        return self._starts[key]

    def _run(
        self, task: Task, experiment: Experiment, spec: TrialSpec, validation: Validation, progress: Progress | None
    ) -> RunRecord:
        with self._batches(task, experiment, spec) as batches:
            return experiment.run(
                spec.schedule,
                batches=batches,
                stop_factor=math.inf,  # a trial that recovers is judged by its end
                validation=validation,
                progress=progress,
                done=0,
                total=spec.steps,
            )

    def _run_at_once(
        self,
        task: Task,
        experiment: Experiment,
        specs: Sequence[TrialSpec],
        validation: Validation,
        progress: Progress | None,
    ) -> list[RunRecord]:
        def show(done: int) -> None:
            if progress is not None:
                progress(done * len(specs), specs[0].steps * len(specs), {})

        compute_loss = resolve_loss(task.loss_fn, task.compute_loss)
        schedules, kind = [spec.schedule for spec in specs], OPTIMIZERS[specs[0].optimizer].kind
        with self._batches(task, experiment, specs[0]) as batches:
            return run_stacked(task.model, compute_loss, schedules, batches, validation, show, kind)

    @contextlib.contextmanager
    def _batches(self, task: Task, experiment: Experiment, spec: TrialSpec) -> Iterator[Iterator[Any]]:
        batches_per_trial = (spec.steps + 1) * self._options.accumulate
        with experiment.batches(task.val_loader) as batches:
            yield islice(batches, spec.repeat * batches_per_trial, None)


def with_batch_size(task: Task, batch_size: int | None) -> Task:
    """Return the task with a loader of another batch size; the user's task is not changed."""
    loader = task.train_loader
    if batch_size is None or not isinstance(loader, DataLoader) or loader.batch_size == batch_size:
        return task
    names: tuple[str, ...] = ("dataset", "sampler", "num_workers", "collate_fn", "pin_memory", "drop_last", "generator")
    names += ("worker_init_fn", "multiprocessing_context", "persistent_workers", "prefetch_factor", "timeout")
    given = {name: getattr(loader, name) for name in names}
    return replace(task, train_loader=DataLoader(batch_size=batch_size, **given))


def _history(spec: TrialSpec, record: RunRecord, initial_loss: float) -> History:
    train_loss = record.losses[: spec.steps]
    n = len(train_loss)
    val_loss = {0: initial_loss} | {step: float(loss) for step, loss in record.validations.items()}
    if record.diverged:
        val_loss = {step: loss for step, loss in val_loss.items() if step < n} | {n: math.inf}
    return spec.history(train_loss, list(val_loss.values()), list(val_loss))


def _trial_validation(task: Task, steps: int) -> Validation:
    """Return the validation of a trial of ``steps``, which is due at most ``TRIAL_VALIDATIONS`` times."""
    assert task.val_loader is not None  # `require_disjoint` has checked it
    validation = Validation(task.val_loader, None, steps, None, custom_batches=task.loss_fn is None)
    validation.every = max(validation.every, steps // TRIAL_VALIDATIONS)
    return validation


def _require_no_ddp(model: Any) -> None:
    """Raise ValueError for a model whose ranks wait for each other in every step: trials run in one process."""
    if isinstance(model, nn.Module):
        for module in model.modules():
            if isinstance(module, nn.parallel.DistributedDataParallel):
                raise ValueError(
                    "model: got a DistributedDataParallel, whose ranks wait for each other at every step; a trial runs "
                    "in one process: give the model in it (model.module), and storage= to share the trials"
                )
