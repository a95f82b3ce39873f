"""Batches of a loader: iterated without end, unpacked and moved to a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def require_iterable(loader: Any) -> None:
    """Raise ValueError unless ``loader`` can be iterated."""
    if not isinstance(loader, Iterable):
        raise ValueError(f"loader: got {type(loader).__name__}; give a DataLoader, or any iterable of batches")


def cycle_loader(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of ``loader`` without end; each pass iterates the loader again.

    Raises:
        ValueError: the loader is empty, or cannot be iterated a second time.
    """
    n_batches = 0
    while True:
        before = n_batches
        for batch in loader:
            n_batches += 1
            yield batch
        if n_batches == 0:
            raise ValueError("loader: it is empty; give at least one batch")
        if n_batches == before:
            raise ValueError(
                f"loader: it was used up after {n_batches} batches and gives no more; a generator can be iterated "
                "only once: give a DataLoader or a list, or fewer steps"
            )


def unpack_pair(batch: Any) -> tuple[Any, Any]:
    """Return ``(inputs, targets)`` of a batch that is a tuple or a list of two.

    Raises:
        ValueError: the batch is something else.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, targets = batch
        return inputs, targets
    raise ValueError(
        f"loader: it gave a {type(batch).__name__}, not (inputs, targets); for dict batches of a model that returns "
        "its own loss leave loss_fn out; for all others use compute_loss(model, batch) -> loss in place of loss_fn"
    )


def move_batch(batch: Any, device: torch.device) -> Any:
    """Return ``batch`` with its tensors on ``device``.

    Dicts, lists and tuples are copied, also nested ones. A mapping with a method ``to`` is moved by that method. All
    other objects are returned unchanged.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move_batch(value, device) for key, value in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(move_batch(value, device) for value in batch)
    if isinstance(batch, Mapping) and hasattr(batch, "to"):  # the output of a Hugging Face tokenizer
        return batch.to(device)
    return batch
