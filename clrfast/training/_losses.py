"""The loss of a model on a batch, in each form that users give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ._batches import unpack_pair

ComputeLoss = Callable[[nn.Module, Any], Tensor]
"""``compute_loss(model, batch) -> loss``."""


def resolve_loss(loss_fn: Callable[[Any, Any], Tensor] | None, compute_loss: ComputeLoss | None) -> ComputeLoss:
    """Return the loss as ``compute_loss(model, batch) -> loss``, whichever form is given.

    Args:
        loss_fn: ``loss_fn(model(inputs), targets) -> loss`` for batches of ``(inputs, targets)``.
        compute_loss: for all other batches. If both are None, the batches are dicts and the loss is
            ``model(**batch).loss``.
    Raises:
        ValueError: both are given, or the given one is a class or is not callable.
    """
    if loss_fn is not None and compute_loss is not None:
        raise ValueError(
            "loss_fn, compute_loss: got both; give one of\n"
            "  range_test(model, loss_fn, loader)                           loss_fn(model(inputs), targets) -> loss\n"
            "  range_test(model, loader=loader, compute_loss=compute_loss)  compute_loss(model, batch) -> loss"
        )
    name, given = ("loss_fn", loss_fn) if compute_loss is None else ("compute_loss", compute_loss)
    if given is not None and not callable(given):
        raise ValueError(
            f"{name}: got {type(given).__name__}, which cannot be called; are the arguments in the right order?"
        )
    if isinstance(given, type):
        raise ValueError(f"{name}: got the class {given.__name__}; give an instance of it, {given.__name__}()")
    if compute_loss is not None:
        return compute_loss
    if loss_fn is None:
        return _loss_of_output

    def loss_of_pair(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = unpack_pair(batch)
        return loss_fn(model(inputs), targets)

    return loss_of_pair


def require_differentiable(loss: Any) -> Tensor:
    """Return ``loss`` unchanged if ``backward`` can start from it.

    Raises:
        ValueError: it is not a tensor of one element, or requires no gradient.
    """
    if not require_scalar(loss).requires_grad:
        raise ValueError("loss: it does not depend on a trainable parameter; do not detach it or use no_grad")
    return loss


def require_scalar(loss: Any) -> Tensor:
    """Return ``loss`` unchanged if it is a tensor of one element.

    Raises:
        ValueError: it is not.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(type(loss).__name__)
    raise ValueError(f"loss: got {got}; the loss must be a tensor of one element, for example loss.mean()")


def _loss_of_output(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that the model itself computes, as Hugging Face models do."""
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
            "are the labels in the batch? If not, give compute_loss(model, batch) -> loss"
        )
    return loss
