"""``resolve_task``: accepts a ``Task`` in place of the arguments model, loss_fn, loader and compute_loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ..tasks import Task
from ._losses import ComputeLoss


def resolve_task(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    loader: Any,
    compute_loss: ComputeLoss | None,
    val_loader: Iterable[Any] | None = None,
    *,
    loader_name: str = "loader",
) -> Task:
    """Return the task that a caller gave as one value, or as a model, its loss and its data.

    Args:
        val_loader: replaces the task's own validation data, unless None.
        loader_name: the caller's name of the argument ``loader``, for messages.
    Raises:
        ValueError: a loss or a loader was given in addition to a task.
    """
    if not isinstance(model, Task):
        return Task(model, loss_fn, loader, val_loader, compute_loss)
    for name, value in (("loss_fn", loss_fn), (loader_name, loader), ("compute_loss", compute_loss)):
        if value is not None:
            raise ValueError(
                f"{name}: got {type(value).__name__} in addition to a Task, which has its own; give the Task alone, or "
                f"model, loss_fn and {loader_name} in its place"
            )
    val_loader = model.val_loader if val_loader is None else val_loader
    return Task(model.model, model.loss_fn, model.train_loader, val_loader, model.compute_loss)
