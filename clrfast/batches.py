"""Batches: from a loader to the model's device, and to a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

ComputeLoss = Callable[[nn.Module, Any], Tensor]


def chosen_loss(loss_fn: Callable[[Any, Any], Tensor] | None, compute_loss: ComputeLoss | None) -> ComputeLoss:
    """The one of the two forms that was given, as ``compute_loss(model, batch) -> loss``.

    Raises:
        ValueError: neither or both were given.
    """
    if (loss_fn is None) == (compute_loss is None):
        raise ValueError(
            f"loss_fn, compute_loss: got {'neither' if loss_fn is None else 'both'}; give exactly one of\n"
            "  range_test(model, loss_fn, loader)                           loss_fn(model(inputs), targets) -> loss\n"
            "  range_test(model, loader=loader, compute_loss=compute_loss)  compute_loss(model, batch) -> loss"
        )
    name, given = ("loss_fn", loss_fn) if compute_loss is None else ("compute_loss", compute_loss)
    if not callable(given):
        raise ValueError(f"{name}: got {type(given).__name__}, which cannot be called; are the arguments in order?")
    if compute_loss is not None:
        return compute_loss
    assert loss_fn is not None

    def of_pair(model: nn.Module, batch: Any) -> Tensor:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f"loader: it gave a {type(batch).__name__}, not (inputs, targets); "
                "for other batches use compute_loss(model, batch) -> loss in place of loss_fn"
            )
        inputs, targets = batch
        return loss_fn(model(inputs), targets)

    return of_pair


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of ``loader``, from the start again at its end.

    Raises:
        ValueError: it gives no batch, or cannot be iterated again.
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


def moved(batch: Any, device: torch.device) -> Any:
    """``batch`` with all its tensors on ``device``; containers of other kinds are left as they are."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: moved(value, device) for key, value in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(moved(value, device) for value in batch)
    return batch


def checked_loss(loss: Any) -> Tensor:
    """``loss`` if backward can start from it.

    Raises:
        ValueError: it is no tensor of one element, or needs no gradient.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(type(loss).__name__)
        raise ValueError(f"loss: got {got}; the loss must be a tensor of one element, for example loss.mean()")
    if not loss.requires_grad:
        raise ValueError("loss: it does not depend on a trainable parameter; do not detach it, nor use no_grad")
    return loss
