"""Optimizers of other packages that promise to need no tuning, each with the settings of its README.

Where a README leaves a choice, the training gets what its paper uses: momentum 0.9 for SGD, cosine annealing where
the README says to keep the usual schedule, a warmup of 5 % of the steps where it recommends one.

pip install prodigyopt prodigy-plus-schedule-free schedulefree dog-optimizer dadaptation momo-opt mechanic-pytorch
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from clrfast.training._loss_modules import trainable_parameters

from ..task_library.definition import BenchmarkTask
from .training import Contender, Method, stepped

WARMUP_FRAC = 0.05
"""Warmup of the schedule-free optimizers, as a fraction of the steps, as in "The Road Less Scheduled"."""

RECALIBRATION_BATCHES = 50
"""Batches that the README of schedulefree takes to recompute the statistics of BatchNorm."""

BATCH_NORM_REPS_REL = 1e-4
"""DoG's initial movement for models with BatchNorm, by its README and docstring; 1e-6 for all others."""


def _prodigy(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from prodigyopt import Prodigy

    return _cosine(task, Prodigy(trainable_parameters(task.model), lr=lr), steps)


def _prodigy_schedule_free(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from prodigyplus.prodigy_plus_schedulefree import ProdigyPlusScheduleFree

    return _schedule_free(task, ProdigyPlusScheduleFree(trainable_parameters(task.model), lr=lr))


def _adamw_schedule_free(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from schedulefree import AdamWScheduleFree

    warmup_steps = round(WARMUP_FRAC * steps)
    return _schedule_free(task, AdamWScheduleFree(trainable_parameters(task.model), lr=lr, warmup_steps=warmup_steps))


def _sgd_schedule_free(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from schedulefree import SGDScheduleFree

    warmup_steps = round(WARMUP_FRAC * steps)
    return _schedule_free(task, SGDScheduleFree(trainable_parameters(task.model), lr=lr, warmup_steps=warmup_steps))


def _dog(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from dog import DoG

    return _averaged(task, DoG)


def _ldog(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from dog import LDoG

    return _averaged(task, LDoG)


def _d_adapt_adam(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from dadaptation import DAdaptAdam

    return _cosine(task, DAdaptAdam(trainable_parameters(task.model), lr=lr), steps)


def _d_adapt_sgd(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from dadaptation import DAdaptSGD

    return _cosine(task, DAdaptSGD(trainable_parameters(task.model), lr=lr, momentum=0.9), steps)


def _momo(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from momo import Momo

    return _given_the_loss(task, Momo(trainable_parameters(task.model), lr=lr))


def _momo_adam(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from momo import MomoAdam

    return _given_the_loss(task, MomoAdam(trainable_parameters(task.model), lr=lr))


def _mechanic_sgd(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from mechanic_pytorch import mechanize

    return _cosine(task, mechanize(torch.optim.SGD)(trainable_parameters(task.model), lr=lr, momentum=0.9), steps)


def _mechanic_adamw(task: BenchmarkTask, steps: int, lr: float) -> Method:
    from mechanic_pytorch import mechanize

    return _cosine(task, mechanize(torch.optim.AdamW)(trainable_parameters(task.model), lr=lr), steps)


def _cosine(task: BenchmarkTask, optimizer: torch.optim.Optimizer, steps: int) -> Method:
    return stepped(task, optimizer, CosineAnnealingLR(optimizer, T_max=steps))


def _given_the_loss(task: BenchmarkTask, optimizer: Any) -> Method:
    return Method(lambda loss: optimizer.step(loss=loss), lambda: task.model)


def _schedule_free(task: BenchmarkTask, optimizer: Any) -> Method:
    """Return the method that evaluates the averaged weights, with BatchNorm's statistics recomputed on them."""
    optimizer.train()

    def finish() -> nn.Module:
        optimizer.eval()
        if _has_batch_norm(task.model):
            with torch.no_grad():
                for inputs, _ in itertools.islice(task.loader(), RECALIBRATION_BATCHES):
                    task.model(inputs)
        return task.model

    return Method(lambda _: optimizer.step(), finish)


def _averaged(task: BenchmarkTask, optimizer_class: Any) -> Method:
    """Return the method of DoG or LDoG that evaluates the average of the iterates."""
    from dog import PolynomialDecayAverager

    more = {"reps_rel": BATCH_NORM_REPS_REL} if _has_batch_norm(task.model) else {}
    optimizer = optimizer_class(trainable_parameters(task.model), **more)
    averager = PolynomialDecayAverager(task.model)

    def step(_: Tensor) -> None:
        optimizer.step()
        averager.step()

    def finish() -> nn.Module:
        # The averager multiplies the infinities of an attention mask by 0.
        for average, buffer in zip(averager.averaged_model.buffers(), task.model.buffers(), strict=True):
            if average.isnan().any():
                average.copy_(buffer)
        return averager.averaged_model

    return Method(step, finish)


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) for module in model.modules())


PEERS: dict[str, Contender] = {
    "Prodigy, cosine": Contender(_prodigy, 1.0, module="prodigyopt"),
    "Prodigy + Schedule-Free": Contender(_prodigy_schedule_free, 1.0, module="prodigyplus"),
    **{
        f"AdamWScheduleFree {lr:g}": Contender(_adamw_schedule_free, lr, module="schedulefree") for lr in (0.0025, 0.01)
    },
    "SGDScheduleFree 1": Contender(_sgd_schedule_free, 1.0, module="schedulefree"),
    "DoG, averaged": Contender(_dog, 1.0, module="dog"),
    "LDoG, averaged": Contender(_ldog, 1.0, module="dog"),
    "D-Adaptation Adam, cosine": Contender(_d_adapt_adam, 1.0, module="dadaptation"),
    "D-Adaptation SGD, cosine": Contender(_d_adapt_sgd, 1.0, module="dadaptation"),
    "MoMo 1": Contender(_momo, 1.0, module="momo"),
    "MoMoAdam 0.01": Contender(_momo_adam, 0.01, module="momo"),
    "Mechanic SGD, cosine": Contender(_mechanic_sgd, 1.0, module="mechanic_pytorch"),
    "Mechanic AdamW, cosine": Contender(_mechanic_adamw, 1.0, module="mechanic_pytorch"),
}
"""Contenders by name; a number in the name is the learning rate."""
