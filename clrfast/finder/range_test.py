"""The learning-rate range test: train for a while with a rising rate, and record the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batches import ComputeLoss, checked_loss, chosen_loss, endless, moved
from ..optim import SGD, StepControl
from ..schedules import Curve, Schedule, lr_sweep
from ..schedules.curves import is_whole
from ..schedules.policies import Spacing
from .curve import LRCurve, StopReason
from .restore import restored

POLL_EVERY = 10
"""Steps between two looks of the host at the stop flag: each waits for the device."""


def range_test(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    compute_loss: ComputeLoss | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    spacing: Spacing = "exponential",
    stop_factor: float = 4.0,
    smoothing: float = 0.98,
    progress: Callable[[int], None] | None = None,
) -> LRCurve:
    """Train ``model`` for ``steps`` updates while the rate rises from ``min_lr`` to ``max_lr``, and record the loss.

    Afterwards the model, its buffers, gradients and train/eval flags, the optimizer, the loader's generators and all
    random states are exactly as before, also after an exception or Ctrl-C. Losses stay on the device; the host looks
    at the stop flag every 10 steps and at the curve once, at the end.

    Args:
        model: any module with trainable parameters; put into training mode, unless it is in that mode already
            (then submodules in eval mode stay there). Batches are moved to its device.
        loss_fn: ``loss_fn(model(inputs), targets) -> loss`` for a loader of ``(inputs, targets)``.
        loader: an iterable of batches; one that is shorter than the sweep starts again.
        compute_loss: ``compute_loss(model, batch) -> loss`` instead of ``loss_fn``, for every other kind of batch.
        optimizer: its kind, groups and state are used, its rates replaced (the groups keep their ratios).
            None: ``clrfast.SGD`` with momentum 0.9.
        min_lr, max_lr, steps, spacing: the sweep, end points included; see ``lr_sweep``.
        stop_factor: stop where the running average of the loss exceeds this many times its best; see
            ``StepControl.watch_divergence``.
        smoothing: weight of the past in the running average that is judged for this, in [0, 1).
        progress: called with the number of steps done, every 10 steps and at the end.
    Returns:
        The curve; ``loss[i]`` is the loss after the update with ``lr[i]``, so ``steps + 1`` batches are used.
    Raises:
        ValueError: bad arguments; a model without trainable parameters; a loader that is empty, or used up before
            the sweep ends; a first loss that is not finite.

    Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    compute_loss = chosen_loss(loss_fn, compute_loss)
    if not isinstance(loader, Iterable):
        raise ValueError(f"loader: got {type(loader).__name__}; give an iterable of batches, for example a DataLoader")
    steps = _checked(model, optimizer, steps)
    sweep = lr_sweep(min_lr, max_lr, steps, spacing=spacing)
    with restored(model, optimizer, loader, also=(loss_fn,) if isinstance(loss_fn, nn.Module) else ()):
        if not model.training:
            model.train()
        # One row more than rates: the last loss is measured after the last update.
        stepper = _Stepper.over(model, optimizer, sweep.extended_to(steps + 1))
        stepper.control.watch_divergence(smoothing=smoothing, stop_factor=stop_factor)
        _run(model, compute_loss, loader, stepper, steps, progress)
        control = stepper.control
        stopped = bool(control.stop)
        losses = control.losses[: control.synchronize() + 1].tolist()
    return _curve(sweep, losses, stopped, stop_factor)


def _checked(model: Any, optimizer: Any, steps: Any) -> int:
    """``steps`` as an int, if all of these can be used."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}; give a torch.nn.Module")
    trainable = {param for param in model.parameters() if param.requires_grad}
    if not trainable:
        raise ValueError("model: it has no trainable parameters; set requires_grad on those to train")
    if optimizer is not None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer: got {optimizer!r}; give an instance of a torch optimizer, or leave it out")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer: LBFGS evaluates the model several times a step; range_test cannot drive it")
        if trainable.isdisjoint(param for group in optimizer.param_groups for param in group["params"]):
            raise ValueError("optimizer: it has no trainable parameter of the model; make it from model.parameters()")
    if not is_whole(steps) or steps < 2:
        raise ValueError(f"steps: got {steps!r}; give a whole number of updates, at least 2")
    return int(steps)


class _Stepper:
    """Backward's other half: takes a loss, records it on the device and updates the model at the sweep's rate."""

    def __init__(self, optimizer: torch.optim.Optimizer, sweep: Schedule):
        self.optimizer = optimizer
        if isinstance(optimizer, SGD):
            control = optimizer.set_schedule(sweep)
        else:
            first = next(param for group in optimizer.param_groups for param in group["params"])
            control = StepControl(sweep.table(), device=first.device)
        self.control = control

    @classmethod
    def over(cls, model: nn.Module, optimizer: torch.optim.Optimizer | None, sweep: Schedule) -> _Stepper:
        """The user's own optimizer with its groups' ratios kept; None: an SGD over all trainable parameters."""
        if optimizer is None:
            return cls(SGD([param for param in model.parameters() if param.requires_grad], momentum=0.9), sweep)
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        # All are 0 at the start of a warm-up: there are no ratios to keep.
        return cls(optimizer, sweep.for_groups(optimizer.param_groups) if max(rates) > 0 else sweep)

    def step(self, loss: Tensor) -> None:
        if isinstance(self.optimizer, SGD):
            self.optimizer.step(loss=loss)
            return
        for group, (lr, *_) in zip(self.optimizer.param_groups, self.control.host_row(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.control.advance(loss)
        self.optimizer.step()


def _run(
    model: nn.Module,
    compute_loss: ComputeLoss,
    loader: Iterable[Any],
    stepper: _Stepper,
    steps: int,
    progress: Callable[[int], None] | None,
) -> None:
    device = next(param.device for param in model.parameters() if param.requires_grad)
    for step, batch in zip(range(steps + 1), endless(loader), strict=False):
        stepper.optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = checked_loss(compute_loss(model, moved(batch, device)))
        if step == steps:  # the loss after the last update; nothing to update any more
            stepper.control.advance(loss)
        else:
            loss.backward()
            stepper.step(loss)
        if step % POLL_EVERY == 0 or step == steps:
            if progress is not None:
                progress(step)
            if stepper.control.stopped():
                return


def _curve(sweep: Schedule, losses: list[float], stopped: bool, stop_factor: float) -> LRCurve:
    """The record of a run that gave ``losses`` before the updates 0, 1, ...; ``stopped``: by the last of them."""
    initial, *after = losses
    assert isinstance(sweep.lr, Curve)
    lr = sweep.lr(np.arange(len(after)))
    kind: StopReason
    if not math.isfinite(initial):
        raise ValueError(
            f"loader, loss: the very first loss is {initial}, before any update; check the data and the loss function"
        )
    if not stopped:
        kind = "completed"
        reason = f"reached the highest rate, {lr[-1]:.3g}; the loss did not exceed the limit on the way"
    elif math.isfinite(after[-1]):
        kind = "diverged"
        reason = (
            f"diverged at {lr[-1]:.3g}: the running average of the loss passed its limit (stop_factor {stop_factor:g})"
        )
    else:
        kind, reason = "non-finite", f"the loss became {after[-1]} at {lr[-1]:.3g}"
    return LRCurve(lr, np.array(after), initial, kind, reason)
