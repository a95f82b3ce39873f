"""K models as one: stacked, with one forward and backward pass of all."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from ..optim import SGD
from ..schedules import Schedule
from . import _graph_cache as graphs
from ._batches import move_batch
from ._losses import ComputeLoss, require_scalar
from ._train_step import TrainStep


@dataclass
class SweepSetup:
    """Models at their initial weights, and all else that training them takes."""

    models: list[nn.Module]
    compute_loss: ComputeLoss
    schedules: Sequence[Schedule]
    momentum: float
    smoothing: float
    stop_factor: float

    def optimizer(self, index: int, params: Iterable[Tensor]) -> SGD:
        """Of the model at ``index``, for its parameters wherever they are."""
        optimizer = SGD(params, momentum=self.momentum, schedule=self.schedules[index])
        assert optimizer.control is not None
        optimizer.control.watch_divergence(smoothing=self.smoothing, stop_factor=self.stop_factor)
        return optimizer

    def steps(self) -> list[TrainStep]:
        """Ordinary training steps of the models, each by its own optimizer."""
        made = []
        for index, model in enumerate(self.models):
            optimizer = self.optimizer(index, [param for param in model.parameters() if param.requires_grad])
            made.append(TrainStep(model, None, optimizer, compute_loss=self.compute_loss))
        return made


class _WithLoss(nn.Module):
    """The loss as a module over the model, so that ``functional_call`` can exchange the parameters of both."""

    def __init__(self, model: nn.Module, compute_loss: ComputeLoss):
        super().__init__()
        self.model, self._compute_loss = model, compute_loss

    def forward(self, batch: Any) -> Tensor:
        return require_scalar(self._compute_loss(self.model, batch)).reshape(())


class StackedStep:
    """K models as one: their parameters and buffers stacked, and an optimizer for each copy's part of them.

    Args:
        runs: the copies, and how they are trained.
        randomness: whether they draw "different" random numbers or the "same", as of ``torch.func.vmap``.
    Attributes:
        optimizers: K of them; what a run's ``control`` tells is there.
    """

    def __init__(self, runs: SweepSetup, randomness: Literal["different", "same"] = "different"):
        self._models = runs.models
        wrapped = [_WithLoss(model, runs.compute_loss) for model in runs.models]
        params, self._buffers = stack_module_state(wrapped)
        trainable = {name for name, param in wrapped[0].named_parameters() if param.requires_grad}
        self._params = {name: param.detach() for name, param in params.items() if name in trainable}
        self._frozen = {name: param.detach() for name, param in params.items() if name not in trainable}
        base = copy.deepcopy(wrapped[0]).to("meta")

        def loss(params: dict[str, Tensor], others: dict[str, Tensor], batch: Any) -> Tensor:
            return functional_call(base, (params, others), (batch,))

        self._grads_and_losses = vmap(grad_and_value(loss), in_dims=(0, 0, None), randomness=randomness)
        self.device = next(iter(self._params.values())).device
        self._graphs = graphs.GraphCache(self.device) if graphs.reason_against_graphs(self.device) is None else None
        self._parts = {name: [part.requires_grad_() for part in param.unbind()] for name, param in self._params.items()}
        self.optimizers = [
            runs.optimizer(index, params) for index, params in enumerate(zip(*self._parts.values(), strict=True))
        ]

    def train(self, batch: Any) -> None:
        """One step of all copies."""
        if self._graphs is None:
            self._train(batch)
        else:
            self._graphs(self._train, (batch,))

    def _train(self, batch: Any) -> None:
        others = {**self._frozen, **self._buffers}
        grads, losses = self._grads_and_losses(self._params, others, move_batch(batch, self.device))
        for name, parts in self._parts.items():
            # Contiguous as the parameters are: the native updates take both as flat memory.
            for part, grad in zip(parts, grads[name].contiguous().unbind(), strict=True):
                part.grad = grad
        for optimizer, loss in zip(self.optimizers, losses.detach().unbind(), strict=True):
            optimizer.step(loss=loss)

    def copy_to_models(self) -> None:
        """Copy each copy's parameters and buffers into its model."""
        with torch.no_grad():
            for index, model in enumerate(self._models):
                own = dict(model.named_parameters()) | dict(model.named_buffers())
                for name, stacked in {**self._params, **self._buffers}.items():
                    own[name.removeprefix("model.")].copy_(stacked[index])
