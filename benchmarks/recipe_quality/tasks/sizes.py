"""Sizes that all tasks of the recipe share."""

from __future__ import annotations

import torch
from torch import Tensor

from ...task_library.data import Arrays

RANGE = {"low": -2.5, "high": 1.0}
"""log10 of the lowest and the highest learning rate of the grid of SGD."""

ADAMW_RANGE = {"low": -4.0, "high": -0.5}
"""The same for AdamW: as many rates."""


def few(arrays: Arrays, n_train: int) -> Arrays:
    """Keep the first ``n_train`` training samples; all others become held-out samples."""
    inputs, targets, val_inputs, val_targets = arrays
    held_out: tuple[Tensor, Tensor] = (
        torch.cat([inputs[n_train:], val_inputs]),
        torch.cat([targets[n_train:], val_targets]),
    )
    return inputs[:n_train], targets[:n_train], *held_out
