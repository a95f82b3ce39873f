"""``StackedStep``: trains K copies of a model in one forward and one backward pass over their stacked parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from ..optim import FusedOptimizer
from ..schedules import Schedule
from . import _graph_cache as graph_cache
from ._batches import move_batch
from ._losses import ComputeLoss, require_scalar
from ._optimizer_factory import MakeOptimizer, make_scheduled
from ._train_step import TrainStep


@dataclass
class SweepPlan:
    """K copies of a model and how each is trained; ``sweep`` describes the other fields.

    Attributes:
        models: the K models, with their initial weights.
        compute_loss: ``compute_loss(model, batch) -> loss``.
        schedules: one per model.
    """

    models: list[nn.Module]
    compute_loss: ComputeLoss
    schedules: Sequence[Schedule]
    make_optimizer: MakeOptimizer
    smoothing: float
    stop_factor: float

    def optimizer_of(self, index: int, params: Iterable[Tensor]) -> FusedOptimizer:
        """Make the optimizer of the model at ``index`` over ``params``."""
        optimizer = make_scheduled(self.make_optimizer, params, self.schedules[index])
        assert optimizer.control is not None
        optimizer.control.watch_divergence(smoothing=self.smoothing, stop_factor=self.stop_factor)
        return optimizer

    def make_steps(self) -> list[TrainStep]:
        """Make a separate training step for each model."""
        steps = []
        for index, model in enumerate(self.models):
            optimizer = self.optimizer_of(index, [param for param in model.parameters() if param.requires_grad])
            steps.append(TrainStep(model, None, optimizer, compute_loss=self.compute_loss))
        return steps


class StackedStep:
    """One training step of all models of a plan at once.

    The step works on stacked copies of the parameters and buffers; the models keep their weights until
    ``copy_to_models``.

    Args:
        plan: the models and how they are trained.
        randomness: "different" or the "same" random numbers in all models; see ``torch.func.vmap``.

    Attributes:
        optimizers: K optimizers, each over its model's part of the stacked parameters. Their controls have the losses.
        device: device of the parameters.
    """

    def __init__(self, plan: SweepPlan, randomness: Literal["different", "same"] = "different"):
        self._models = plan.models
        with_loss = [_WithLoss(model, plan.compute_loss) for model in plan.models]
        params, self._buffers = stack_module_state(with_loss)
        trainable = {name for name, param in with_loss[0].named_parameters() if param.requires_grad}
        self._params = {name: param.detach() for name, param in params.items() if name in trainable}
        self._frozen = {name: param.detach() for name, param in params.items() if name not in trainable}
        base = copy.deepcopy(with_loss[0]).to("meta")

        def loss(params: dict[str, Tensor], others: dict[str, Tensor], batch: Any) -> Tensor:
            return functional_call(base, (params, others), (batch,))

        self._grads_and_losses = vmap(grad_and_value(loss), in_dims=(0, 0, None), randomness=randomness)
        self.device = next(iter(self._params.values())).device
        has_graphs = graph_cache.reason_against_graphs(self.device) is None
        self._graphs = graph_cache.GraphCache(self.device) if has_graphs else None
        self._parts = {name: [part.requires_grad_() for part in param.unbind()] for name, param in self._params.items()}
        self.optimizers = [
            plan.optimizer_of(index, params) for index, params in enumerate(zip(*self._parts.values(), strict=True))
        ]

    def __call__(self, batch: Any) -> None:
        """Make one update of each model; the host does not wait."""
        if self._graphs is None:
            self._update(batch)
        else:
            self._graphs(self._update, (batch,))

    def copy_to_models(self) -> None:
        """Copy the stacked parameters and buffers into the models."""
        with torch.no_grad():
            for index, model in enumerate(self._models):
                own = dict(model.named_parameters()) | dict(model.named_buffers())
                for name, stacked in {**self._params, **self._buffers}.items():
                    own[name.removeprefix("model.")].copy_(stacked[index])

    def _update(self, batch: Any) -> None:
        others = {**self._frozen, **self._buffers}
        grads, losses = self._grads_and_losses(self._params, others, move_batch(batch, self.device))
        for name, parts in self._parts.items():
            # Contiguous like the parameters, because the native updates treat both as flat memory.
            for part, grad in zip(parts, grads[name].contiguous().unbind(), strict=True):
                part.grad = grad
        for optimizer, loss in zip(self.optimizers, losses.detach().unbind(), strict=True):
            optimizer.step(loss=loss)


class _WithLoss(nn.Module):
    """Wraps model and loss in one module, so that ``functional_call`` can replace the model's parameters."""

    def __init__(self, model: nn.Module, compute_loss: ComputeLoss):
        super().__init__()
        self.model, self._compute_loss = model, compute_loss

    def forward(self, batch: Any) -> Tensor:
        return require_scalar(self._compute_loss(self.model, batch)).reshape(())
