"""Losses of the tasks that torch has not as ``loss_fn(outputs, targets)``."""

from __future__ import annotations

from torch import Tensor, nn


class NegativeLogDensity(nn.Module):
    """The outputs are log densities; there are no targets."""

    def forward(self, log_density: Tensor, _: Tensor) -> Tensor:
        return -log_density.mean()


class GaussianNLL(nn.Module):
    """Up to a constant; the outputs ``[B, 2]`` are the mean and the logarithm of the deviation."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, log_std = outputs.unbind(1)
        return (log_std + 0.5 * ((targets - mean) * (-log_std).exp()).square()).mean()


class Triplet(nn.Module):
    """Of ``[B, 3, n]``: the first has to be nearer to the second than to the third; there are no targets."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.TripletMarginLoss()

    def forward(self, embedded: Tensor, _: Tensor) -> Tensor:
        return self.loss(*embedded.unbind(1))
