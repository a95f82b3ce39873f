"""What a finder works on: a model with its loss and data, trained for a while and put back as it was."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._progress import Progress
from .._ranks import SINGLE_PROCESS, Ranks
from .._torch_compat import tree_leaves
from ..optim import SGD
from ..schedules import Schedule
from ..tasks import Task
from ..training import StepOptions, TrainStep, prefetched
from ..training._batches import ComputeLoss, chosen_loss, endless, require_iterable
from ..training._eager_step import EagerStep, require_trains
from ..training._joined_optimizer import Optimizers, joined, parts_of
from ..training._loss_modules import loss_modules, trainable
from ..training._module_attributes import Attributes
from ..training._preserve import surroundings_restored, trained_restored
from ._bad_batches import BadBatches, RecentBatches
from ._loss_reader import READ_EVERY
from ._scheduled_run import RunRecord, ScheduledRun
from ._validation import Validation

MOMENTUM = 0.9
"""Of the optimizer that is used where none was given."""

LATE_STEPS = 2 * READ_EVERY + 4
"""Steps that the host may be ahead of the loss that ends a sweep, where it does not see every loss at once."""


class Experiment:
    """A task that is trained again and again, each time from the same weights.

    ``at_work`` surrounds all passes. Each pass starts from the same parameters, buffers and optimizer state, and
    continues with the next batches.

    Args:
        task: its model, loss and ``train_loader`` are used.
        options: of every step. Several ranks take no CUDA graph.
        optimizer: see ``range_test``.
        ranks: work together.
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
        chosen = chosen_loss(loss_fn, compute_loss)
        require_iterable(task.train_loader)
        self._optimizer = joined(optimizer)
        _require_trainable(model, self._optimizer)
        self._model, self._loader, self._bad = model, task.train_loader, BadBatches()
        own = set(trainable(model))
        self.loss_modules = [
            each for each in loss_modules(loss_fn, compute_loss) if not own.issuperset(trainable(each))
        ]
        restored = (*self.loss_modules, loss_fn)
        self._also = tuple(module for module in restored if isinstance(module, nn.Module))
        self._options, self._ranks = options, ranks
        self._make_step: Callable[..., EagerStep] = (
            partial(TrainStep, model, loss_fn, compute_loss=compute_loss)
            if options.graph == "auto"
            and ranks.world_size == 1  # what ranks tell each other does not belong into a graph
            else partial(EagerStep, model, chosen if ranks.world_size == 1 else _going_on(chosen, ranks))
        )
        self.step()  # a bad optimizer is reported before anything begins

    @contextlib.contextmanager
    def at_work(self, *loaders: Any) -> Iterator[Iterator[Any]]:
        """A block in which passes are made, on the batches that it yields; the order of data and random numbers are
        put back after it, of ``loaders`` too."""
        with surroundings_restored(self._loader, *loaders):
            batches = endless(self._bad.numbered(self._loader))
            yield batches if self._ranks.world_size == 1 else self._going_on(next(batches), batches)

    def _going_on(self, batch: Any, batches: Iterator[Any]) -> Iterator[Any]:
        """``batch`` and all of ``batches``; one that cannot be loaded is the one before it once more, because the other
        ranks wait for this one in every step. They learn of it by the next look."""
        while True:
            yield batch
            try:
                batch = next(batches)
            except Exception as error:
                self._ranks.defer(error)

    def step(self) -> EagerStep:
        """A training step with the user's optimizer, or else a new SGD over all trainable parameters of the model and
        of the loss."""
        optimizer = self._optimizer
        if optimizer is None:
            optimizer = SGD(trainable(self._model, *self.loss_modules), momentum=MOMENTUM)
        step = self._make_step(optimizer=optimizer, options=self._options)
        if self._ranks.world_size > 1:
            step.share_skips = self._ranks.all_reduce
        return step

    @property
    def momentum(self) -> float | None:
        """Of heavy-ball SGD, the same for all groups; None for everything else."""
        if self._optimizer is None:
            return MOMENTUM
        if not isinstance(self._optimizer, SGD | torch.optim.SGD):
            return None
        groups = self._optimizer.param_groups
        values = {(group["momentum"], group["dampening"], group["nesterov"]) for group in groups}
        momentum, dampening, nesterov = values.pop()
        return None if values or dampening or nesterov else float(momentum)

    @contextlib.contextmanager
    def training(self) -> Iterator[EagerStep]:
        """A block in which the model is trained, by the step that it yields, and after which it is as before."""
        with self._training() as (step, _):
            yield step

    @contextlib.contextmanager
    def _training(self) -> Iterator[tuple[EagerStep, Attributes]]:
        with trained_restored(
            self._model,
            self._optimizer,
            self._also,
            scaler=self._options.scaler,
            snapshot_device=self._options.snapshot_device,
        ) as attributes:
            if not self._model.training:
                self._model.train()
            yield self.step(), attributes

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
    ) -> RunRecord:
        """One pass over the rates of ``schedule``; made again where a batch, not the rate, ended it."""
        while True:
            with self._training() as (step, attributes):
                at_once = step.device.type == "cpu" and self._ranks.world_size == 1
                recent = RecentBatches(self._bad.without_bad(batches), step.accumulate * (1 if at_once else LATE_STEPS))
                run = ScheduledRun(
                    step,
                    schedule,
                    keep_ratios=self._optimizer is not None,
                    stop_factor=stop_factor,
                    ranks=self._ranks,
                    after_first_step=attributes.note_sizes,
                )
                self._ranks.all_gather("a run", None)  # from here on all ranks take the same steps
                recorded = run.run(prefetched(iter(recent), step.device), validation, progress, done, total)
            if not recorded.diverged or math.isfinite(recorded.losses[-1]):
                return recorded
            with self.training() as step:
                if not self._bad.find_in(recent, batches, step, self._ranks):
                    return recorded


def _going_on(compute_loss: ComputeLoss, ranks: Ranks) -> ComputeLoss:
    """``compute_loss``, whose error after the model's outputs is set aside: this rank goes on with a loss of 0, because
    the others wait for its gradients."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        outputs: list[Any] = []
        handle = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            return compute_loss(model, batch)
        except Exception as error:
            if not outputs:
                raise
            ranks.defer(error)
            return torch.stack([(0 * leaf).sum() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]).sum()
        finally:
            handle.remove()

    return loss


def _require_trainable(model: Any, optimizer: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}; give a torch.nn.Module")
    if not trainable(model):
        raise ValueError("model: it has no trainable parameters; set requires_grad on those to train")
    if optimizer is not None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer: got {optimizer!r}; give an instance of a torch optimizer, or leave it out")
        if any(isinstance(part, torch.optim.LBFGS) for part in parts_of(optimizer)):
            raise ValueError("optimizer: LBFGS evaluates the model several times a step; a sweep cannot drive it")
        for part in parts_of(optimizer):
            require_trains(part, model)
