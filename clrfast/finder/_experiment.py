"""``Experiment``: trains a task several times from the same weights, and restores it after each run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from .._distributed import SINGLE_PROCESS, Ranks
from .._progress import Progress
from ..optim import SGD
from ..schedules import Schedule
from ..tasks import Task
from ..training import StepOptions, TrainStep, prefetch
from ..training._batches import cycle_loader, require_iterable
from ..training._eager_step import EagerStep, require_optimizes
from ..training._loss_modules import find_loss_modules, trainable_parameters
from ..training._losses import resolve_loss
from ..training._module_attributes import ModuleAttributes
from ..training._optimizer_factory import DEFAULT_MOMENTUM
from ..training._optimizer_list import Optimizers, join_optimizers, split_optimizer
from ..training._preservation import preserve_model_and_optimizer, preserve_rng_and_loaders
from ._bad_batches import BadBatches, RecentBatches
from ._cost import Cost
from ._loss_reader import READ_EVERY
from ._prior import expect_lr
from ._probes import Probes
from ._rank_failures import repeat_failed_batches, zero_failed_losses
from ._scheduled_run import RunRecord, ScheduledRun
from ._validation import Validation

MAX_LAG_STEPS = 2 * READ_EVERY + 4
"""Maximum number of steps between the loss that ends a run and the host's read of it, where the host does not read
every loss at once."""


class Experiment:
    """A task that is trained several times, each time from the same weights.

    ``batches`` is a context around all runs. Each run starts from the same parameters, buffers and optimizer state, and
    continues with the next batches.

    Args:
        task: its model, loss and ``train_loader`` are used.
        options: the options of every step. Several ranks use no CUDA graph.
        optimizer: see ``range_test``.
        ranks: the ranks that make all runs together.
    Attributes:
        optimizer, loader, options, ranks: as given; a list of optimizers is joined into one.
        bad_batches: the bad batches found so far.
        cost: counts the updates and the extra forward passes of all runs and measurements.
        loss_modules: the modules of the loss with trainable parameters that the model does not have.
    Raises:
        ValueError: a bad argument; the message names it.
    """

    def __init__(
        self,
        task: Task,
        options: StepOptions,
        *,
        optimizer: Optimizers | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ):
        model, loss_fn, compute_loss = task.model, task.loss_fn, task.compute_loss
        chosen = resolve_loss(loss_fn, compute_loss)
        self.optimizer = join_optimizers(optimizer)
        _require_trainable(model, self.optimizer)
        require_iterable(task.train_loader)
        self._task, self._model, self.loader, self.cost = task, model, task.train_loader, Cost()
        self.bad_batches = BadBatches(self.cost)
        own = set(trainable_parameters(model))
        self.loss_modules = [
            each for each in find_loss_modules(loss_fn, compute_loss) if not own.issuperset(trainable_parameters(each))
        ]
        self._restored_too = tuple(each for each in (*self.loss_modules, loss_fn) if isinstance(each, nn.Module))
        self.options, self.ranks = options, ranks
        self._new_step: Callable[..., EagerStep] = (
            partial(TrainStep, task)
            if options.graph == "auto" and ranks.world_size == 1  # a graph cannot hold the communication of ranks
            else partial(EagerStep, model, chosen if ranks.world_size == 1 else zero_failed_losses(chosen, ranks))
        )
        self.make_step()  # a bad optimizer is reported before anything begins

    @contextlib.contextmanager
    def batches(self, *loaders: Any) -> Iterator[Iterator[Any]]:
        """Yield the batches for all runs, without end; then restore the order of the data and all random states.

        The order of ``loaders`` is restored, too.
        """
        with preserve_rng_and_loaders(self.loader, *loaders):
            batches = cycle_loader(self.bad_batches.numbered(self.loader))
            yield batches if self.ranks.world_size == 1 else repeat_failed_batches(batches, self.ranks)

    def make_probes(self, batches: list[Any], every: int | None = None) -> Probes:
        """Make ``Probes`` of training batches; ``every`` is as there."""
        return Probes(
            batches,
            every=every,
            custom_batches=self._task.loss_fn is None,
            loss_modules=self._restored_too,
            cost=self.cost,
        )

    def replace_bad(self, batches: list[Any], others: Iterator[Any]) -> list[Any]:
        """Return ``batches`` with the next of ``others`` in place of those that are bad; see ``BadBatches.find_in``."""
        while True:
            recent = RecentBatches(iter(batches), len(batches))
            for _ in recent:
                pass
            with self.training() as step:
                if not self.bad_batches.find_in(recent, others, step, self.ranks):
                    return batches
            good = list(self.bad_batches.without_bad(iter(batches)))
            batches = good + list(islice(self.bad_batches.without_bad(others), len(batches) - len(good)))

    def make_step(self) -> EagerStep:
        """Make a training step with the user's optimizer.

        Without one, the step has a new SGD over all trainable parameters of the model and of the loss.
        """
        optimizer = self.optimizer
        if optimizer is None:
            optimizer = SGD(trainable_parameters(self._model, *self.loss_modules), momentum=DEFAULT_MOMENTUM)
        step = self._new_step(optimizer=optimizer, options=self.options)
        if self.ranks.world_size > 1:
            step.sum_found_inf = self.ranks.all_reduce
        return step

    @property
    def momentum(self) -> float | None:
        """Momentum of heavy-ball SGD, if it is the same in all groups; None for any other optimizer."""
        if self.optimizer is None:
            return DEFAULT_MOMENTUM
        if not isinstance(self.optimizer, SGD | torch.optim.SGD):
            return None
        groups = self.optimizer.param_groups
        values = {(group["momentum"], group["dampening"], group["nesterov"]) for group in groups}
        momentum, dampening, nesterov = values.pop()
        return None if values or dampening or nesterov else float(momentum)

    @property
    def prior_lr(self) -> float | None:
        """The rate that is expected before the first step; see ``expect_lr``."""
        return expect_lr(self.optimizer, self._model)

    @contextlib.contextmanager
    def training(self) -> Iterator[EagerStep]:
        """Yield a training step; then restore the model and the optimizer."""
        with self._training() as (step, _):
            yield step

    @contextlib.contextmanager
    def _training(self) -> Iterator[tuple[EagerStep, ModuleAttributes]]:
        with preserve_model_and_optimizer(
            self._model,
            self.optimizer,
            self._restored_too,
            scaler=self.options.scaler,
            snapshot_device=self.options.snapshot_device,
        ) as attributes:
            if not self._model.training:
                self._model.train()
            yield self.make_step(), attributes

    def run(
        self,
        schedule: Schedule,
        *,
        batches: Iterator[Any],
        stop_factor: float,
        validation: Validation | None,
        progress: Progress | None,
        done: int,
        total: int,
        probes: Probes | None = None,
    ) -> RunRecord:
        """Train along ``schedule`` from the initial weights.

        The run is repeated without a bad batch if one ended it; see ``BadBatches``. The arguments are those of
        ``ScheduledRun``.
        """
        while True:
            with self._training() as (step, attributes):
                lag = 1 if step.device.type == "cpu" and self.ranks.world_size == 1 else MAX_LAG_STEPS
                recent = RecentBatches(self.bad_batches.without_bad(batches), step.accumulate * lag)
                run = ScheduledRun(
                    step,
                    schedule,
                    keep_ratios=self.optimizer is not None,
                    stop_factor=stop_factor,
                    cost=self.cost,
                    ranks=self.ranks,
                    after_first_step=attributes.record_sizes,
                )
                self.ranks.all_gather("a run", None)  # from here on all ranks take the same steps
                record = run.run(prefetch(iter(recent), step.device), validation, progress, done, total, probes)
            if not record.diverged or math.isfinite(record.losses[-1]):
                return record
            with self.training() as step:
                if not self.bad_batches.find_in(recent, batches, step, self.ranks):
                    return record


def _require_trainable(model: Any, optimizer: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}; give a torch.nn.Module, or a clrfast.Task")
    if not trainable_parameters(model):
        raise ValueError("model: it has no trainable parameters; set requires_grad on those to train")
    if optimizer is not None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer: got {optimizer!r}; give an instance of a torch optimizer, or leave it out")
        if any(isinstance(part, torch.optim.LBFGS) for part in split_optimizer(optimizer)):
            raise ValueError(
                "optimizer: LBFGS evaluates the model several times per step; a range test does not support that"
            )
        for part in split_optimizer(optimizer):
            require_optimizes(part, model)
