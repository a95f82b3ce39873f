"""K models as one: stacked, with one forward and backward pass of all."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from ..batches import ComputeLoss, moved, one_element
from ..graph import TrainStep, graphs
from ..optim import SGD
from ..schedules import Schedule


@dataclass
class Runs:
    """Models at their initial weights, and all else that training them takes."""

    models: list[nn.Module]
    compute_loss: ComputeLoss
    schedules: Sequence[Schedule]
    momentum: float
    smoothing: float
    stop_factor: float

    def steps(self) -> list[TrainStep]:
        """Ordinary training steps of the models, each by its own optimizer."""
        made = []
        for model, schedule in zip(self.models, self.schedules, strict=True):
            params = [param for param in model.parameters() if param.requires_grad]
            optimizer = SGD(params, momentum=self.momentum, schedule=schedule)
            assert optimizer.control is not None
            optimizer.control.watch_divergence(smoothing=self.smoothing, stop_factor=self.stop_factor)
            made.append(TrainStep(model, None, optimizer, compute_loss=self.compute_loss))
        return made


class _WithLoss(nn.Module):
    """The loss as a module over the model, so that ``functional_call`` can exchange the parameters of both."""

    def __init__(self, model: nn.Module, compute_loss: ComputeLoss):
        super().__init__()
        self.model, self._compute_loss = model, compute_loss

    def forward(self, batch: Any) -> Tensor:
        return one_element(self._compute_loss(self.model, batch)).reshape(())


class Stacked:
    """K models as one: their parameters, buffers and momentum stacked, and what ``StepControl`` has, K times.

    Update and control are those of ``clrfast.SGD`` and ``StepControl`` (see ``optim/reference.py``), with a leading
    dimension for the copies.
    """

    def __init__(self, runs: Runs, total_steps: int):
        self._runs = runs
        wrapped = [_WithLoss(model, runs.compute_loss) for model in runs.models]
        params, self.buffers = stack_module_state(wrapped)
        trainable = {name for name, param in wrapped[0].named_parameters() if param.requires_grad}
        self.params = {name: param.detach() for name, param in params.items() if name in trainable}
        self.frozen = {name: param.detach() for name, param in params.items() if name not in trainable}
        self.momenta = {name: torch.zeros_like(param) for name, param in self.params.items()}
        base = copy.deepcopy(wrapped[0]).to("meta")

        def loss(params: dict[str, Tensor], others: dict[str, Tensor], batch: Any) -> Tensor:
            return functional_call(base, (params, others), (batch,))

        self._grads_and_losses = vmap(grad_and_value(loss), in_dims=(0, 0, None), randomness="different")
        self.device = next(iter(self.params.values())).device
        self._graphs = graphs.Graphs(self.device) if graphs.why_no_graphs(self.device) is None else None
        n = len(runs.models)
        tables = np.stack([_with_momentum(schedule, runs.momentum) for schedule in runs.schedules])
        self._tables = torch.from_numpy(tables).to(self.device)
        self._copies = torch.arange(n, device=self.device)
        self.step = torch.zeros(n, dtype=torch.int64, device=self.device)
        self.stop = torch.zeros(n, dtype=torch.bool, device=self.device)
        self.losses = torch.full((n, total_steps), float("nan"), device=self.device)
        self._average, self._weight = torch.zeros(2, n, device=self.device)
        self._best = torch.full((n,), float("inf"), device=self.device)

    def train(self, batch: Any) -> None:
        """One step of all copies."""
        if self._graphs is None:
            self._train(batch)
        else:
            self._graphs(self._train, (batch,))

    def _train(self, batch: Any) -> None:
        # All that a step keeps is written where it is: a CUDA graph knows no other place.
        grads, losses = self._grads_and_losses(self.params, {**self.frozen, **self.buffers}, moved(batch, self.device))
        apply = self._advance(losses.detach().float())
        rows = self._tables[self._copies, (self.step - apply.long()).clamp(max=self._tables.shape[1] - 1)]
        for name, param in self.params.items():
            shape = (-1,) + (1,) * (param.dim() - 1)
            lr, momentum, weight_decay = (rows[:, i].view(shape).to(param.dtype) for i in range(3))
            applied, buffer = apply.view(shape), self.momenta[name]
            moving = momentum * buffer + (grads[name] + weight_decay * param)
            # Where it stops nothing may change, and a gradient that is not finite times 0 would.
            buffer.copy_(torch.where(applied, moving, buffer))
            param.copy_(torch.where(applied, param - lr * moving, param))

    def _advance(self, loss: Tensor) -> Tensor:
        """``StepControl.advance`` for every copy; returns whose update is made."""
        live, finite = ~self.stop, torch.isfinite(loss)
        slot = self.step.clamp(max=self.losses.shape[1] - 1)
        self.losses[self._copies, slot] = torch.where(live, loss, self.losses[self._copies, slot])
        smoothing = float(np.float32(self._runs.smoothing))
        gain = float(np.float32(1) - np.float32(smoothing))
        average, weight = smoothing * self._average + gain * loss, smoothing * self._weight + gain
        smoothed = average / weight
        best = torch.minimum(self._best, smoothed)
        diverged = smoothed - best > (self._runs.stop_factor - 1) * best.abs()
        self.stop |= live & (~finite | diverged)
        enter = live & finite
        for kept, now in ((self._average, average), (self._weight, weight), (self._best, best)):
            kept.copy_(torch.where(enter, now, kept))
        apply = ~self.stop
        self.step += apply
        return apply

    def write_back(self) -> None:
        """Copy each copy's parameters and buffers into its model."""
        with torch.no_grad():
            for index, model in enumerate(self._runs.models):
                own = dict(model.named_parameters()) | dict(model.named_buffers())
                for name, stacked in {**self.params, **self.buffers}.items():
                    own[name.removeprefix("model.")].copy_(stacked[index])


def _with_momentum(schedule: Schedule, momentum: float) -> np.ndarray:
    """The table ``[total_steps, 3]``, with what the schedule leaves to the optimizer."""
    defaults = {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0}
    return schedule.bound_to([{**defaults, "params": []}]).table()[:, 0]
