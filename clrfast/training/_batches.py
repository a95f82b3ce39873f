"""Batches: from a loader to the model's device, and to a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ComputeLoss = Callable[[nn.Module, Any], Tensor]


def chosen_loss(loss_fn: Callable[[Any, Any], Tensor] | None, compute_loss: ComputeLoss | None) -> ComputeLoss:
    """The form of loss that was given, as ``compute_loss(model, batch) -> loss``; neither: the model's own loss.

    Raises:
        ValueError: both were given, or what was given is a class or cannot be called.
    """
    if loss_fn is not None and compute_loss is not None:
        raise ValueError(
            "loss_fn, compute_loss: got both; give one of\n"
            "  range_test(model, loss_fn, loader)                           loss_fn(model(inputs), targets) -> loss\n"
            "  range_test(model, loader=loader, compute_loss=compute_loss)  compute_loss(model, batch) -> loss"
        )
    name, given = ("loss_fn", loss_fn) if compute_loss is None else ("compute_loss", compute_loss)
    if given is not None and not callable(given):
        raise ValueError(f"{name}: got {type(given).__name__}, which cannot be called; are the arguments in order?")
    if isinstance(given, type):
        raise ValueError(f"{name}: got the class {given.__name__}; give an instance of it, {given.__name__}()")
    if compute_loss is not None:
        return compute_loss
    if loss_fn is None:
        return _own_loss

    def of_pair(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = as_pair(batch)
        return loss_fn(model(inputs), targets)

    return of_pair


def as_pair(batch: Any) -> tuple[Any, Any]:
    """``(inputs, targets)``, if ``batch`` is such a pair.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, targets = batch
        return inputs, targets
    raise ValueError(
        f"loader: it gave a {type(batch).__name__}, not (inputs, targets); for dict batches of a model that returns "
        "its own loss leave loss_fn out; for all others use compute_loss(model, batch) -> loss in place of loss_fn"
    )


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a model returns for a batch of keyword arguments, as those of Hugging Face's transformers do."""
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"loss_fn: it was left out, and the loader gave a {type(batch).__name__}; without it batches are dicts, "
            "for model(**batch).loss. Give loss_fn(model(inputs), targets) or compute_loss(model, batch)"
        )
    output = model(**batch)
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None:
        raise ValueError(
            f"loss_fn: it was left out, and model(**batch) returned a {type(output).__name__} without a loss; "
            "are the labels in the batch? Else give compute_loss(model, batch) -> loss"
        )
    return loss


def require_iterable(loader: Any) -> None:
    """Raises ValueError unless ``loader`` can give batches."""
    if not isinstance(loader, Iterable):
        raise ValueError(f"loader: got {type(loader).__name__}; give an iterable of batches, for example a DataLoader")


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
    if isinstance(batch, Mapping) and hasattr(batch, "to"):  # a tokeniser's, which knows how to move itself
        return batch.to(device)
    return batch


def checked_loss(loss: Any) -> Tensor:
    """``loss`` if backward can start from it.

    Raises:
        ValueError: it is no tensor of one element, or needs no gradient.
    """
    if not one_element(loss).requires_grad:
        raise ValueError("loss: it does not depend on a trainable parameter; do not detach it, nor use no_grad")
    return loss


def one_element(loss: Any) -> Tensor:
    """``loss`` if it is a tensor of one element.

    Raises:
        ValueError: it is not.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(type(loss).__name__)
    raise ValueError(f"loss: got {got}; the loss must be a tensor of one element, for example loss.mean()")
