"""Small data and a small network, for tests that train."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers.range_tests import batches_of

SIZE, BATCH = 96, 16
BATCHES = SIZE // BATCH
"""Number of batches of an epoch."""


def two_classes(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Inputs float32 ``[size, 5]``, and classes int64 ``[size]``."""
    (batch,) = batches_of(size)
    return batch


def shuffled_loader(size: int = SIZE, batch_size: int = BATCH) -> DataLoader:
    """Batches of ``two_classes``, always in the same order in a new loader."""
    generator = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(*two_classes(size)), batch_size, shuffle=True, generator=generator)


def weights_of(model: nn.Module) -> list[Tensor]:
    """Copies of all parameters and buffers."""
    return [value.detach().clone() for value in model.state_dict().values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
