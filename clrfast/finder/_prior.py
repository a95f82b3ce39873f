"""The prior: which rate is expected to train a model best, before its first step."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from ..optim import Adam, AdamW
from ..training._optimizer_list import split_optimizer

ADAM = (Adam, AdamW, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam)
"""Optimizers whose steps change every parameter by about the rate, so that a rate means the same in every task.

The best rate of SGD depends on the scale of the loss and the inputs, which only the ramp and the trials show."""

OCTAVES, OCTAVES_PER_DOUBLING, OCTAVES_WITH_NORMALIZATION = -0.5, -0.44, 0.73
"""Coefficients of the expected rate, from AdamW's best rates on the 106 development and 10 fine-tuning tasks of
benchmarks/finder_quality. ``python -m benchmarks.finder_quality.fit_prior`` computes them."""

PRIOR_STD = 1.7
"""Standard deviation of the expected rate's error on tasks that it was not fitted to, in powers of two."""

_NORMALIZATION = re.compile(r"(batch|layer|group|instance|rms)_?norm", re.IGNORECASE)


def expect_lr(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> float | None:
    """Return the rate that is expected to train ``model`` best.

    log2 lr = -0.5 - 0.44 * log2(n) + 0.73 * normalized

    Args:
        optimizer: ``n`` is the number of its trainable parameters.
        model: ``normalized`` is 1 if it has a normalisation layer, else 0.
    Returns:
        The rate; None if the optimizer is not a kind of Adam, or has no trainable parameters.
    """
    if optimizer is None or not all(isinstance(part, ADAM) for part in split_optimizer(optimizer)):
        return None
    size = sum(p.numel() for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
    if not size:
        return None
    octaves = OCTAVES + OCTAVES_PER_DOUBLING * math.log2(size) + OCTAVES_WITH_NORMALIZATION * is_normalized(model)
    return float(2**octaves)


def is_normalized(model: nn.Module) -> bool:
    """Return whether a module of ``model`` has the name of a normalisation layer."""
    return any(_NORMALIZATION.search(type(module).__name__) for module in model.modules())


def weigh_with_prior(lr: float, std: float, prior_lr: float | None) -> float:
    """Return the geometric mean of an estimate and the prior, weighted by their precisions 1 / std ** 2.

    Args:
        std: of the estimate's error, in powers of two.
        prior_lr: None: no prior.
    """
    if prior_lr is None:
        return lr
    weight = prior_weight(std)
    return lr ** (1 - weight) * prior_lr**weight


def prior_weight(std: float) -> float:
    """Return the weight of the prior beside an estimate with this standard deviation, in (0, 1)."""
    return std**2 / (std**2 + PRIOR_STD**2)
