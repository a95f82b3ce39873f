"""fastai: ``learn.fit(n, cbs=OneCycle())``, ``find_lr(learn)``, and ``opt_func=sgd`` or ``opt_func=adamw``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from fastai.callback import fp16
from fastai.callback.core import Callback
from fastai.callback.rnn import RNNCallback
from fastai.callback.schedule import ParamScheduler
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Learner
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import schedules
from ..finder import LRCurve, Suggestion
from ..finder import range_test as _range_test
from ..optim import FusedOptimizer
from ..schedules import Schedule, one_cycle
from ..schedules._table import row_at
from ._fastai_optimizers import LayerGroups, adamw, groups_of, sgd, torch_optimizer_of
from ._follow import Policy, follow, make_schedule, require_search_keywords

__all__ = ["OneCycle", "adamw", "find_lr", "range_test", "sgd"]

_ONE_CYCLES = [policy for name, policy in vars(schedules).items() if name.startswith("one_cycle")]


def range_test(learn: Learner, **keywords: Any) -> LRCurve:
    """Run ``clrfast.range_test`` on a Learner, as ``learn.fit`` would train it.

    Model, ``loss_func``, ``dls.train``, ``opt_func`` with ``lr`` and ``wd``, mixed precision, ``GradientAccumulation``
    (``ceil(n_acc / batch size)`` batches for an update) and ``GradientClip`` are the Learner's, and are unchanged
    afterwards. fastai's own optimizers make the updates themselves. Other callbacks do not run: if one of them changes
    batches or the loss, as MixUp does, give ``compute_loss``.

    Args:
        keywords: those of ``clrfast.range_test``; they override the Learner's.
    Raises:
        ValueError: see ``clrfast.range_test``; or ``GradientClip`` has another norm than 2, or the optimizer is a
            ``Lookahead``.
    """
    opt, lr = learn.opt, learn.lr
    if opt is None:
        learn.create_opt()
    groups = groups_of(learn.opt)
    values = [dict(group) for group in groups]
    try:
        learn.opt.set_hypers(lr=learn.lr, **({} if learn.wd is None else {"wd": learn.wd}))
        learn.model.to(getattr(learn.dls, "device", None))  # as learn.fit does
        return _search(learn, keywords)
    finally:
        for group, own in zip(groups, values, strict=True):
            group.clear()
            group.update(own)
        learn.opt, learn.lr = opt, lr


def find_lr(learn: Learner, **keywords: Any) -> Suggestion:
    """Return the suggestion of ``range_test(learn, **keywords)``, for example for ``learn.fit_one_cycle(5, lr)``.

    Raises:
        NoSuggestionError: the curve has no usable rate.
        ValueError: see ``range_test``.
    """
    return range_test(learn, **keywords).suggest()


def _search(learn: Learner, keywords: dict[str, Any]) -> LRCurve:
    """Run the range test with the present values of the Learner's optimizer."""
    given: dict[str, Any] = {"loader": learn.dls.train}
    if "loss_fn" not in keywords:
        given["compute_loss"] = partial(_loss_of, learn)
    if "optimizer" not in keywords:
        given["optimizer"] = torch_optimizer_of(learn.opt)
    for callback in learn.cbs if keywords.get("options") is None else ():
        if isinstance(callback, GradientAccumulation):
            given["accumulate"] = -(-callback.n_acc // _batch_size(learn))
        elif isinstance(callback, GradientClip):
            if callback.norm_type != 2:
                raise ValueError(
                    f"norm_type: got GradientClip(norm_type={callback.norm_type}); a search clips by norm 2"
                )
            given["clip_norm"] = callback.max_norm
        elif isinstance(callback, fp16.MixedPrecision):
            given.update(_precision_of(learn, callback))
    return _range_test(learn.model, **{**given, **keywords})


def _loss_of(learn: Learner, model: nn.Module, batch: Any) -> Tensor:
    """Return the loss of a batch as the Learner computes it."""
    parts = [part.as_subclass(Tensor) if isinstance(part, Tensor) else part for part in batch]
    n_inputs = getattr(learn.dls, "n_inp", 1 if len(parts) == 1 else len(parts) - 1)
    outputs = model(*parts[:n_inputs])
    if any(isinstance(callback, RNNCallback) for callback in learn.cbs):
        first = outputs[0]  # as the callback's after_pred
        outputs = first[-1] if isinstance(first, list | tuple) else first
    if any(isinstance(callback, fp16.MixedPrecision) for callback in learn.cbs):
        outputs = fp16.to_float(outputs)
    return learn.loss_func(outputs, *parts[n_inputs:])


def _precision_of(learn: Learner, callback: fp16.MixedPrecision) -> dict[str, Any]:
    """Return the options of a step with fastai's mixed precision, which has no effect on some devices."""
    is_half = callback.amp_mode == fp16.AMPMode.FP16
    device = next(learn.model.parameters()).device.type
    with fp16.autocast("cuda", dtype=torch.float16 if is_half else torch.bfloat16):
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    scaler = fp16.GradScaler("cuda", **{**callback.kwargs, "enabled": is_half})
    return {"autocast": autocast, "scaler": scaler if scaler.is_enabled() else None}


def _batch_size(learn: Learner) -> int:
    loader = learn.dls.train
    return loader.bs if hasattr(loader, "bs") else loader.batch_size


def _count_updates(learn: Learner, epochs: int) -> int:
    """Return the number of updates in ``epochs`` epochs, if none is skipped."""
    loader, n_batches = learn.dls.train, len(learn.dls.train)
    n_acc = next((callback.n_acc for callback in learn.cbs if isinstance(callback, GradientAccumulation)), None)
    if n_acc is None:
        return epochs * n_batches
    size = _batch_size(learn)
    n_samples = loader.n if hasattr(loader, "n") else len(loader.dataset)
    updates = count = 0
    for batch in range(epochs * n_batches):  # as GradientAccumulation counts: across epochs, and drops what is left
        count += min(size, n_samples - batch % n_batches * size)
        if count >= n_acc:
            updates, count = updates + 1, 0
    return updates


class OneCycle(Callback):
    """Finds the highest rate at the start of a fit, and trains along a schedule: ``learn.fit(5, cbs=OneCycle())``.

    Optimizers of clrfast (``opt_func=sgd``, ``adamw``, or an ``OptimWrapper`` of one) follow the schedule on their
    device, and record the losses in ``learn.opt.control``. All others get the schedule's values before each batch, as
    from fastai's ``ParamScheduler``. Layer groups keep the ratios of ``learn.fit(n, lr=slice(...))``. The schedule has
    a row for each update of the fit: it counts with ``GradientAccumulation``, and a step that mixed precision skips
    does not advance it.

    ``learn.fit(n, cbs=OneCycle(), start_epoch=k)`` continues the schedule that ``learn.load`` has restored with the
    optimizer, and searches nothing. fastai does not save the order of the data. For a run that continues bit for bit,
    set ``dls.rng`` and the random states at the start of each epoch.

    Args:
        max_lr: the highest rate, > 0. None: find it.
        policy: ``policy(max_lr, total_steps) -> Schedule``. The momentum of clrfast's 1cycles is the Learner's
            ``moms``; a ``functools.partial`` of one keeps its own.
        log: write losses, rates and the search's curve to the writers of ``TensorBoardCallback`` and ``WandbCallback``,
            if the Learner has them.
        range_test_keywords: those of ``range_test`` for the search, but ``max_lr``.
    Attributes (None before the fit):
        suggestion, curve: what the search found; None if there was none.
        schedule: the schedule of the run.
    Raises (in the fit):
        NoSuggestionError: the search found no rate.
        ValueError: another scheduler acts on the fit (``fit_one_cycle``, ``fine_tune``); ``start_epoch`` without a
            saved schedule or ``max_lr``, or with one of another length; see also ``range_test``.
    """

    order, run_valid = 60, False

    def __init__(
        self, max_lr: float | None = None, *, policy: Policy = one_cycle, log: bool = True, **range_test_keywords: Any
    ):
        require_search_keywords(range_test_keywords, "OneCycle")
        self.max_lr, self.policy, self._log, self._keywords = max_lr, policy, log, range_test_keywords
        self.suggestion: Suggestion | None = None
        self.curve: LRCurve | None = None
        self.schedule: Schedule | None = None
        self._steps: Any = None

    def before_fit(self) -> None:
        """Leave ``learn.lr_find`` and predictions alone."""
        self.run = not hasattr(self.learn, "lr_finder") and not hasattr(self.learn, "gather_preds")
        self._steps = None

    def before_train(self) -> None:
        """Install the schedule, or continue the saved one, at the first epoch that is trained."""
        learn = self.learn
        if self._steps is not None:
            return
        if any(isinstance(callback, ParamScheduler) for callback in learn.cbs):
            raise ValueError(
                "cbs: OneCycle and another scheduler act on one fit; in place of fit_one_cycle or fine_tune call "
                "learn.fit(n, cbs=OneCycle()) after learn.freeze(), then learn.fit(n, lr=slice(...), cbs=OneCycle()) "
                "after learn.unfreeze()"
            )
        self.suggestion = self.curve = None
        total_steps, done = _count_updates(learn, learn.n_epoch), _count_updates(learn, learn.epoch)
        is_fused = isinstance(getattr(learn.opt, "opt", None), FusedOptimizer)
        steps: Any = _DeviceSteps(learn.opt) if is_fused else _HostSteps(learn.opt)
        make = partial(make_schedule, self._policy(), total_steps=total_steps, optimizer=steps)
        self.schedule = steps.resume(make, total_steps) if learn.epoch else None
        if self.schedule is None:
            max_lr = self._find() if self.max_lr is None else self.max_lr
            self.schedule = make(max_lr=max_lr)
            steps.start(self.schedule, max_lr, done)
        self._steps, self._first = steps, steps.step
        self._written = self._first

    def _policy(self) -> Policy:
        policy: Any = self.policy
        if policy not in _ONE_CYCLES:
            return policy
        upper, lower, last = self.learn.moms
        if last != upper:
            raise ValueError(f"moms: got {self.learn.moms}; a 1cycle ends at the first one; give it twice, or a policy")
        return partial(policy, momentum=(upper, lower))

    def _find(self) -> float:
        if self.learn.epoch:
            raise ValueError(
                f"start_epoch: got {self.learn.epoch}, and the optimizer has no saved schedule to continue; load a "
                "file saved with_opt=True, or give OneCycle(max_lr)"
            )
        self.curve = _search(self.learn, self._keywords)
        self.suggestion = self.curve.suggest()
        for writer in self._writers():
            self.curve.log_to(writer)
        return self.suggestion.max_lr

    def before_batch(self) -> None:
        """Set the values of the next update."""
        self._steps.show()

    def before_backward(self) -> None:
        """Record the loss."""
        self._steps.record(self.learn.loss)

    def before_step(self) -> None:
        """Count the update; the callbacks that cancel one come before this."""
        self._steps.count()

    def after_cancel_step(self) -> None:
        """Forget the losses of an update that mixed precision has skipped."""
        self._steps.forget()

    def after_epoch(self) -> None:
        """Write what the epoch has recorded to the loggers."""
        for writer in () if self._steps is None else self._writers():
            self._steps.log_to(writer, self._written)
        self._written = 0 if self._steps is None else self._steps.step

    def after_cancel_fit(self) -> None:
        """Write what the last epoch has recorded."""
        self.after_epoch()

    def after_fit(self) -> None:
        """Leave the values of the updates to ``learn.recorder.plot_sched()``."""
        if self._steps is not None:
            self._steps.end()
        if self._steps is not None and hasattr(self.learn, "recorder"):
            lr, momentum, _ = self._steps.table[self._first : self._steps.step, -1].T
            self.learn.recorder.hps = {"lr": lr.tolist(), "mom": momentum.tolist()}

    def _writers(self) -> list[Any]:
        """Return the writers of fastai's logging callbacks."""
        writers = [getattr(getattr(self.learn, "tensor_board", None), "writer", None)]
        if hasattr(self.learn, "wandb"):
            writers.append(sys.modules["wandb"].run)
        return [writer for writer in writers if writer is not None and self._log]


class _DeviceSteps:
    """The updates of an optimizer of clrfast, which follows the schedule by itself."""

    def __init__(self, opt: Any):
        self._opt = opt
        self.optimizer: Any = torch_optimizer_of(opt)
        self.param_groups = self.optimizer.param_groups

    def resume(self, make: Callable[..., Schedule], total_steps: int) -> Schedule | None:
        """Continue the saved schedule and return it; None if there is none."""
        schedule: Schedule | None = self.optimizer.schedule
        if schedule is not None:
            _require_length(schedule.total_steps, total_steps)
            self._opt.follows_schedule = True
            self.optimizer.follower.synchronize(self.param_groups)  # fit has written its lr and wd over the values
        return schedule

    def start(self, schedule: Schedule, max_lr: float, done: int) -> None:
        """Follow the schedule from the update ``done``."""
        if isinstance(self._opt, LayerGroups) and not isinstance(schedule.lr, tuple):
            schedule = schedule.for_groups(self.param_groups)
        follow(self.optimizer, schedule)
        self._opt.follows_schedule = True
        for group in self.param_groups:
            group["schedule_step"] = done
        self.optimizer.follower.synchronize(self.param_groups)

    @property
    def step(self) -> int:
        """Number of updates so far."""
        return self.optimizer.control.synchronize()

    @property
    def table(self) -> NDArray[np.float32]:
        return self.optimizer.control.host_table

    def end(self) -> None:
        """Leave the optimizer's values to the next fit."""
        self._opt.follows_schedule = False

    def record(self, loss: Tensor) -> None:
        self.optimizer.control.record(loss)

    def forget(self) -> None:
        """Forget the losses of an update that was cancelled."""
        self.optimizer.control.take_recorded()

    def log_to(self, writer: Any, start: int) -> None:
        self.optimizer.control.log_to(writer, start=start)

    def show(self) -> None:
        """Do nothing: the optimizer knows its values."""

    count = show


class _HostSteps:
    """The updates of any other optimizer of fastai, whose values are set before each batch.

    The highest rate, the length and the step are hyper-parameters of the optimizer, so that fastai saves them.
    """

    def __init__(self, opt: Any):
        self.opt = opt
        names = {"mom": "momentum", "wd": "weight_decay"}
        self.param_groups = [{names.get(name, name): value for name, value in hyper.items()} for hyper in opt.hypers]

    def resume(self, make: Callable[..., Schedule], total_steps: int) -> Schedule | None:
        """Continue the saved schedule and return it; None if there is none."""
        saved = groups_of(self.opt)[0]
        if "max_lr" not in saved:
            return None
        _require_length(saved["total_steps"], total_steps)
        schedule = make(max_lr=saved["max_lr"])
        self.start(schedule, saved["max_lr"], saved["schedule_step"])
        return schedule

    def start(self, schedule: Schedule, max_lr: float, done: int) -> None:
        """Set the values from the update ``done`` on."""
        schedule.require_groups(len(self.param_groups))
        if not isinstance(schedule.lr, tuple):
            schedule = schedule.for_groups(self.param_groups)
        self.names = [
            name
            for name, curve in zip(_HYPERS, (schedule.lr, schedule.momentum, schedule.weight_decay), strict=True)
            if curve is not None
        ]
        self.table = schedule.table()
        self.step = done
        for group in groups_of(self.opt):
            group.update(max_lr=max_lr, total_steps=schedule.total_steps, schedule_step=done)

    def show(self) -> None:
        rows = row_at(self.table, self.step)
        for name in self.names:
            self.opt.set_hyper(name, [row[_HYPERS.index(name)] for row in rows])

    def count(self) -> None:
        self.step += 1
        for group in groups_of(self.opt):
            group["schedule_step"] = self.step

    def end(self) -> None:
        """Do nothing: fastai sets the values of the next fit."""

    def record(self, loss: Tensor) -> None:
        """Do nothing: fastai's Recorder has the losses."""

    forget = end

    def log_to(self, writer: Any, start: int) -> None:
        """Do nothing: fastai's callbacks write the losses and hyper-parameters."""


_HYPERS = ("lr", "mom", "wd")
"""fastai's names of a table's columns."""


def _require_length(saved_steps: int | None, total_steps: int) -> None:
    if saved_steps != total_steps:
        raise ValueError(
            f"n_epoch: the fit has {total_steps} updates, and the saved schedule {saved_steps}; give the n_epoch of "
            "the interrupted fit, with start_epoch"
        )
