"""The training loop that all contenders share, and the result of one training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..finder_quality.suggestion import count_forward_passes
from ..peer_packages import quiet
from ..task_library.definition import BenchmarkTask, Step, make_step


@dataclass(frozen=True)
class Method:
    """An optimizer with its schedule, as the training loop uses it.

    Attributes:
        step: makes one update.
        finish: called once after the last update; returns the model to evaluate.
    """

    step: Step
    finish: Callable[[], nn.Module]


@dataclass(frozen=True)
class Contender:
    """A way to train that needs a model, a loss, data and a number of updates, and nothing else.

    Attributes:
        method: ``method(task, steps, lr) -> Method`` for a training of ``steps`` updates.
        lr: the rate, or a search ``task -> rate`` that leaves the model as it was.
        charged: take the search's forward passes off the number of updates, each like an update.
        module: that the optimizer comes from.
    """

    method: Callable[[BenchmarkTask, int, float], Method]
    lr: float | Callable[[BenchmarkTask], float]
    charged: bool = False
    module: str = "torch"


@dataclass(frozen=True)
class Outcome:
    """The result of one training.

    Attributes:
        loss: validation loss at the end; inf if the training failed.
        untrained: validation loss before it.
        passes: forward passes besides the evaluations of ``untrained`` and ``loss``.
        search_passes: those of the search alone.
        reason: why the training failed.
    """

    loss: float
    untrained: float
    passes: int
    search_passes: int
    reason: str = ""


def run(contender: Contender, task: BenchmarkTask, steps: int) -> Outcome:
    """Search a rate if the contender does so, and train for ``steps`` updates. An error makes the training fail."""
    untrained = task.evaluate(*task.val)
    search_passes, model, reason = 0, None, ""
    torch.manual_seed(task.seed)
    with quiet(), count_forward_passes(task.model) as passes:
        try:
            lr = contender.lr(task) if callable(contender.lr) else contender.lr
            search_passes = passes.n + passes.n_extra
            n_updates = steps - search_passes if contender.charged else steps
            if n_updates < 1:
                reason = "the search leaves no updates"
            else:
                method = contender.method(task, n_updates, lr)
                if task.fit(method.step, n_updates):
                    model = method.finish()
                else:
                    reason = "the loss is not finite"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        n_passes = passes.n + passes.n_extra
    loss = math.inf if model is None else dataclasses.replace(task, model=model).evaluate(*task.val)
    return Outcome(loss, untrained, n_passes, search_passes, reason)


def stepped(
    task: BenchmarkTask,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> Method:
    """Return the method that steps ``optimizer`` and then ``scheduler``, and evaluates the model itself."""
    return Method(make_step(optimizer, scheduler), lambda: task.model)
