"""Metrics of a validation batch: the loss, the accuracy, or the user's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..training._batches import move_batch, unpack_pair
from ..training._eager_step import EagerStep

Metric = str | Callable[..., Any]

VALIDATION_LOSS = "validation loss"
"""Name of the metric that is the loss itself, on validation batches."""


def require_metric(metric: Any) -> None:
    """Raise ValueError unless ``metric`` is None, "accuracy" or a function."""
    if metric is not None and metric != "accuracy" and not callable(metric):
        raise ValueError(f"metric: got {metric!r}; give 'accuracy', a function, or None for the loss")


def name_metric(metric: Metric | None) -> str:
    """Name ``metric`` for curves and plots; None is the validation loss."""
    if metric is None:
        return VALIDATION_LOSS
    return metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")


def measure_batch(metric: Metric | None, step: EagerStep, batch: Any, *, custom_batches: bool) -> Tensor:
    """Measure ``metric`` on ``batch``, in the model's current mode.

    Args:
        metric: None for the loss; "accuracy"; or a function, ``metric(outputs, targets)`` for batches of ``(inputs,
            targets)`` and ``metric(model, batch)`` for custom ones.
        step: the training step; its model and its loss are evaluated.
        custom_batches: the batches are not pairs ``(inputs, targets)``.
    Returns:
        The mean over the batch, a tensor of one element; on the CPU where the metric returns a number.
    Raises:
        ValueError: "accuracy" does not fit these batches or outputs.
    """
    if metric is None:
        return to_tensor(step.compute_loss(batch))
    if custom_batches and metric != "accuracy":
        return to_tensor(metric(step.model, move_batch(batch, step.device)))  # type: ignore[operator]
    if custom_batches and not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ValueError(
            f"metric: 'accuracy' needs batches of (inputs, targets), and val_loader gave a {type(batch).__name__}; "
            "give metric(model, batch) -> number"
        )
    inputs, targets = unpack_pair(move_batch(batch, step.device))
    outputs = step.model(inputs)
    return to_tensor(metric(outputs, targets) if callable(metric) else _accuracy(outputs, targets))


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.dim() < 2 or targets.is_floating_point():
        raise ValueError(
            f"metric: 'accuracy' needs outputs [n, classes, ...] and whole targets, and got {tuple(outputs.shape)} "
            f"and {targets.dtype}; give metric(outputs, targets) -> number"
        )
    return (outputs.argmax(1) == targets).float().mean()


def to_tensor(value: Any) -> Tensor:
    """Return a tensor unchanged, and a number as a tensor on the CPU."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


def count_samples(batch: Any) -> int:
    """Count the samples of ``batch``: the length of its first tensor, or 1 where it has none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    values = batch.values() if hasattr(batch, "values") else batch if isinstance(batch, tuple | list) else ()
    return next((count_samples(value) for value in values if isinstance(value, Tensor)), 1)
