"""Data and a model for tests of `find_batch_size`; the size of a batch alone decides how much memory a step takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


def samples(n: int = 400) -> TensorDataset:
    """``n`` samples of two classes, on the CPU."""
    options = {"generator": torch.Generator().manual_seed(0), "device": "cpu"}
    return TensorDataset(torch.randn(n, 4, **options), torch.arange(n, device="cpu") % 2)


class Hold(torch.autograd.Function):
    """Keeps ``n_bytes`` from the forward to the backward pass."""

    @staticmethod
    def forward(ctx, weight, n_bytes):
        ctx.save_for_backward(torch.zeros(n_bytes, dtype=torch.uint8))
        return weight.sum()

    @staticmethod
    def backward(ctx, grad):
        return grad.expand(1), None


def holding(n_bytes: Callable[[int], int]) -> tuple[nn.Module, Callable[..., Tensor], list[int]]:
    """Return a model, a ``compute_loss`` that holds ``n_bytes(batch_size)``, and the list of batch sizes it meets."""
    model, met = nn.Linear(1, 1, bias=False), []

    def compute_loss(model, batch):
        size = len(batch[0])
        met.append(size)
        return Hold.apply(model.weight.view(1), n_bytes(size))

    return model, compute_loss, met
