"""Inputs and targets, split into training and validation samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Arrays = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training inputs and targets, validation inputs and targets."""


def split(inputs: Tensor, targets: Tensor, n_val: int) -> Arrays:
    """Split at random, the same way at every call: ``n_val`` samples for validation, the others for training."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    val, train = order[:n_val], order[n_val:]
    return inputs[train], targets[train], inputs[val], targets[val]


def standardize(values: np.ndarray) -> Tensor:
    """Return float32 columns with mean 0 and standard deviation 1."""
    return torch.tensor((values - values.mean(0)) / values.std(0), dtype=torch.float32)
