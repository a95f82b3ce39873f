"""Training of a task with a schedule, and evaluation on its validation data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._progress import Progress
from ..schedules import Schedule
from ..tasks import Task
from ._batches import cycle_loader, move_batch, unpack_pair
from ._loss_modules import parameters_of_task
from ._losses import resolve_loss
from ._optimizer_factory import MakeOptimizer, make_scheduled, resolve_optimizer
from ._prefetch import prefetch
from ._train_step import TrainStep


@dataclass(frozen=True)
class Score:
    """A model's result on validation data.

    Attributes:
        loss: mean loss over the samples, or over the batches if the task has no ``loss_fn``.
        accuracy: fraction of samples whose largest output is the target, in [0, 1]; None if the task is not a
            classification.
        n_samples: number of samples, or of batches if the task has no ``loss_fn``.
    """

    loss: float
    accuracy: float | None
    n_samples: int


def steps_per_epoch(task: Task) -> int:
    """Return the number of batches in one pass over the training data; a loader without a length is iterated once."""
    try:
        return len(task.train_loader)  # type: ignore[arg-type]
    except TypeError:  # no length; that of a DataLoader over an IterableDataset raises
        return sum(1 for _ in task.train_loader)


def train(
    task: Task,
    schedule: Schedule,
    *,
    momentum: float | None = None,
    make_optimizer: MakeOptimizer | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Train ``task.model`` in place over all of ``schedule``.

    On a CUDA device the steps are replays of a CUDA graph where possible; see ``TrainStep``.

    Args:
        schedule: a schedule with ``total_steps``. The training data is iterated again as often as needed.
        momentum: momentum of SGD for schedules without a momentum curve, >= 0; None: 0.9.
        make_optimizer: ``make_optimizer(params)`` returns an optimizer of clrfast without a schedule, for example
            ``clrfast.AdamW``. None: ``clrfast.SGD`` with ``momentum``.
        progress: ``progress(done, total, {})``, called after every step.
    Returns:
        The loss before each update, float32 ``[total_steps]`` on the model's device.
    Raises:
        ValueError: the schedule has no ``total_steps``, the optimizer is wrong, or the training data are empty or used
            up.
    """
    _require_task(task)
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule: got {type(schedule).__name__}; give a clrfast.Schedule with total_steps")
    model = task.model
    optimizer = make_scheduled(resolve_optimizer(make_optimizer, momentum), parameters_of_task(task), schedule)
    control = optimizer.control
    assert control is not None
    step = TrainStep(task, optimizer=optimizer)
    model.train()
    batches = prefetch(cycle_loader(task.train_loader), step.device)
    for done, batch in zip(range(control.total_steps), batches, strict=False):
        step(batch)
        if progress is not None:
            progress(done + 1, control.total_steps, {})
    return control.losses


@torch.no_grad()
def evaluate(task: Task) -> Score | None:
    """Return the score on the task's validation data; None if the task has none. The model is left in eval mode.

    Raises:
        ValueError: the validation data has no batches.
    """
    _require_task(task)
    if task.val_loader is None:
        return None
    model = task.model.eval()
    device = next(model.parameters()).device
    compute_loss = resolve_loss(task.loss_fn, task.compute_loss)
    total, correct, n_samples, classifies = 0.0, 0, 0, True
    for batch in task.val_loader:
        batch = move_batch(batch, device)
        if task.loss_fn is None:
            total, n_samples, classifies = total + float(compute_loss(model, batch)), n_samples + 1, False
            continue
        inputs, targets = unpack_pair(batch)
        outputs = model(inputs)
        total += float(task.loss_fn(outputs, targets)) * len(targets)
        n_samples += len(targets)
        classifies = classifies and _is_classification(outputs, targets)
        correct += int((outputs.argmax(-1) == targets).sum()) if classifies else 0
    if n_samples == 0:
        raise ValueError("val_loader: it is empty; give at least one batch, or None")
    return Score(total / n_samples, correct / n_samples if classifies else None, n_samples)


def _is_classification(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.dim() == 2 and targets.dim() == 1 and not targets.is_floating_point()


def _require_task(task: Any) -> None:
    if not isinstance(task, Task):
        raise ValueError(
            f"task: got {type(task).__name__}; give clrfast.Task(model, loss_fn, train_loader, val_loader)"
        )
