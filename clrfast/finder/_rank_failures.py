"""Lets a rank continue after its data or its loss failed, because the other ranks wait for it in every step.

The error is deferred; see ``Ranks.defer``. The other ranks learn of it at the next read of the losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._distributed import Ranks
from .._torch_compat import tree_leaves
from ..training._losses import ComputeLoss


def repeat_failed_batches(batches: Iterator[Any], ranks: Ranks) -> Iterator[Any]:
    """Iterate over ``batches``; a batch that cannot be loaded is replaced by the one before it.

    A failure of the first batch is raised.
    """
    batch = next(batches)
    return _repeating(batch, batches, ranks)


def _repeating(batch: Any, batches: Iterator[Any], ranks: Ranks) -> Iterator[Any]:
    while True:
        yield batch
        try:
            batch = next(batches)
        except Exception as error:
            ranks.defer(error)


def zero_failed_losses(compute_loss: ComputeLoss, ranks: Ranks) -> ComputeLoss:
    """Return ``compute_loss``, changed so that an error after the model's forward pass gives a loss of 0.

    The zero loss keeps the backward pass going, because the other ranks wait for this rank's gradients.
    """

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
