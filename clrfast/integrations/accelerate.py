"""Adapters to Accelerate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor, nn

from .. import finder
from ..finder import LRCurve
from ..schedules import FollowLR, Schedule, ScheduleLR, one_cycle
from ._follow import Policy, follow, make_schedule, require_search_keywords

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..finder._range_test import RangeTestKeywords
    from ..finder._suggestion import Suggestion

__all__ = ["OneCycle", "count_updates", "find_lr", "range_test"]

LOG_EVERY = 100
"""Number of updates between two writes to the trackers, each of which waits for the device."""


def range_test(
    accelerator: Accelerator,
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Any = None,
    **keywords: Unpack[RangeTestKeywords],
) -> LRCurve:
    """Run ``clrfast.range_test`` on what ``accelerator.prepare`` returned, on all processes together.

    Mixed precision, accumulation and the scaler are those of the accelerator. Give ``clip_norm`` if the training calls
    ``accelerator.clip_grad_norm_``.

    Args:
        accelerator: has prepared the others.
        model, loss_fn, loader, keywords: as in ``clrfast.range_test``; ``optimizer`` may be the prepared one.
    Returns:
        The curve.
    Raises:
        ValueError: see ``clrfast.range_test``.

    Example::

        curve = range_test(accelerator, model, loss_fn, loader, optimizer=optimizer)
    """
    found: dict[str, Any] = {**keywords}
    if found.get("options") is None:
        found.setdefault("accumulate", accelerator.gradient_accumulation_steps)
        found.setdefault("scaler", accelerator.scaler)
    if found.get("optimizer") is not None:
        found["optimizer"] = inner_optimizer(found["optimizer"])
    return finder.range_test(model, loss_fn, loader, **found)


def find_lr(
    accelerator: Accelerator,
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Any = None,
    **keywords: Unpack[RangeTestKeywords],
) -> Suggestion:
    """Return ``range_test(...).suggest()``, the rate to train with.

    Raises:
        ValueError: see ``range_test``.
        NoSuggestionError: the curve shows no rate.
    """
    return range_test(accelerator, model, loss_fn, loader, **keywords).suggest()


def count_updates(accelerator: Accelerator, loader: Any, epochs: int) -> int:
    """Count the optimizer updates of a training: the ``total_steps`` of a schedule of clrfast.

    This is right for an optimizer of clrfast with a schedule, and for ``as_lr_scheduler(..., follow_updates=True)``.
    A scheduler that Accelerate has prepared otherwise makes a step per process and update. With ``even_batches=False``,
    all processes make this call, and the highest number counts.

    Args:
        accelerator: its ``gradient_accumulation_steps`` batches make an update.
        loader: the loader that ``accelerator.prepare`` returned.
        epochs: number of passes over it, at least 1.
    Raises:
        ValueError: the loader is not prepared although there are several processes, or has no length.

    Example::

        schedule = clrfast.one_cycle(0.1, count_updates(accelerator, loader, epochs=10))
    """
    is_prepared = hasattr(loader, "end_of_dataloader")
    if accelerator.num_processes > 1 and not is_prepared:
        raise ValueError(
            "loader: it is not prepared, so it has the batches of all processes; give what accelerator.prepare returned"
        )
    try:
        n_batches = len(loader)
    except TypeError:
        raise ValueError("loader: it has no length; give total_steps, the number of updates") from None
    if accelerator.num_processes > 1 and not accelerator.even_batches:
        n_batches = max(gather_object([n_batches]))
    accumulate = accelerator.gradient_accumulation_steps
    if is_prepared and accelerator.gradient_state.sync_with_dataloader:
        return epochs * -(-n_batches // accumulate)
    return epochs * n_batches // accumulate


class OneCycle:
    """Finds the learning rate of a loop with Accelerate, and makes the optimizer follow a 1cycle of that rate.

    The schedule advances with every update that the optimizer makes, however many processes there are: the loop calls
    no ``scheduler.step()``. A skipped update, and a micro-batch whose gradients are only accumulated, do not advance
    it. ``accelerator.save_state`` saves rate and position; ``resume_from`` or ``accelerator.load_state`` restores them,
    also with another number of processes.

    Args:
        accelerator: has prepared the others.
        model, loss_fn, loader: as in ``clrfast.range_test``. The model is needed for the search only.
        optimizer: the prepared optimizer; one of clrfast follows the schedule on its device.
        epochs: number of passes over the loader, at least 1.
        total_steps: number of updates, in place of ``epochs``.
        max_lr: highest rate of the schedule, > 0; None finds it.
        policy: ``policy(max_lr, total_steps) -> schedule``.
        resume_from: a folder of ``accelerator.save_state``, which is loaded here in place of a search.
        log: write the curve of the search, and the loss and hyper-parameters of the updates by an optimizer of clrfast,
            to the accelerator's trackers, if ``init_trackers`` has been called. It writes every 100 updates and after
            the last one of the schedule.
        search: further keyword arguments of ``clrfast.range_test``, such as ``compute_loss`` and ``clip_norm``.
    Attributes:
        curve, suggestion: the result of the search; None without one.
        schedule: the schedule in force.
        batches_done: number of calls of ``backward``. To resume in mid-epoch, skip
            ``one_cycle.batches_done % len(loader)`` batches with ``accelerator.skip_first_batches``; the order of the
            data is then the same if the accelerator has ``use_seedable_sampler=True``.
    Raises:
        TypeError: ``clrfast.range_test`` has no such keyword.
        ValueError: an argument is wrong, or the optimizer has a schedule already.

    Example::

        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        one_cycle = OneCycle(accelerator, model, loss_fn, loader, optimizer=optimizer, epochs=10)
        for epoch in range(10):
            for inputs, targets in loader:
                with accelerator.accumulate(model):
                    one_cycle.backward(loss_fn(model(inputs), targets))
                    optimizer.step()
                    optimizer.zero_grad()
    """

    schedule: Schedule

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module | None = None,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        loader: Any = None,
        *,
        optimizer: torch.optim.Optimizer,
        epochs: int | None = None,
        total_steps: int | None = None,
        max_lr: float | None = None,
        policy: Policy = one_cycle,
        resume_from: str | None = None,
        log: bool = True,
        **search: Any,
    ):
        require_search_keywords(search, "OneCycle")
        if epochs is not None and total_steps is None:
            total_steps = count_updates(accelerator, loader, epochs)
        elif epochs is not None or total_steps is None:
            raise ValueError(f"epochs, total_steps: got {epochs!r} and {total_steps!r}; give one of the two")
        self._accelerator, self._optimizer = accelerator, inner_optimizer(optimizer)
        if getattr(self._optimizer, "schedule", None) is not None:
            raise ValueError("optimizer: it follows a schedule of its own already; make it without one")
        self.total_steps = total_steps
        self.curve: LRCurve | None = None
        self.suggestion: Suggestion | None = None
        self.batches_done = 0
        self._writers = list(_writers(accelerator)) if log else []
        self._written_steps = 0
        self._record = LossRecorder(accelerator, optimizer)
        self._scheduler: Any = None
        if resume_from is not None:
            accelerator.register_for_checkpointing(self)
            accelerator.load_state(resume_from)
            return
        if max_lr is None:
            if model is None:
                raise ValueError(
                    "model: got None, and the search of max_lr needs it; give the prepared model, or max_lr"
                )
            self.curve = range_test(accelerator, model, loss_fn, loader, optimizer=optimizer, **search)
            self.suggestion = self.curve.suggest()
            max_lr = self.suggestion.max_lr
            for writer in self._writers:
                self.curve.log_to(writer)
        self._follow(make_schedule(policy, max_lr, self.total_steps, self._optimizer))
        accelerator.register_for_checkpointing(self)

    def backward(self, loss: Tensor, **keywords: Any) -> None:
        """Call ``accelerator.backward``, and record the loss for the next update by an optimizer of clrfast.

        Args:
            loss: the loss of this batch, one element, not divided by the number of accumulated batches.
            keywords: those of ``accelerator.backward``.
        """
        self._record(loss)
        self.batches_done += 1
        self._accelerator.backward(loss, **keywords)

    @property
    def step(self) -> int:
        """The number of updates so far."""
        control = getattr(self._optimizer, "control", None)
        return int(self._scheduler.last_epoch if control is None else control.synchronize())

    def state_dict(self) -> dict[str, Any]:
        """Return schedule and position as plain data; ``accelerator.save_state`` calls this."""
        scheduler = self._scheduler.state_dict() if isinstance(self._scheduler, ScheduleLR) else None
        schedule = self.schedule.without_functions().to_dict()
        counts = {"batches_done": self.batches_done, "written_steps": self._written_steps}
        return {"schedule": schedule, "scheduler": scheduler, **counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved position; ``accelerator.load_state`` calls this after it has loaded the optimizer.

        Without a schedule of its own (``resume_from``), this one takes the saved schedule, and warns if this run has
        another number of updates.
        """
        self.batches_done = state_dict["batches_done"]
        if self._scheduler is None:
            saved = Schedule.from_dict(state_dict["schedule"])
            if saved.total_steps != self.total_steps:
                warnings.warn(
                    f"resume_from: the saved schedule has total_steps={saved.total_steps}, and this run plans "
                    f"{self.total_steps}; it continues at the saved step. Resume with as many processes and epochs as "
                    "before, or give max_lr and call accelerator.load_state for a schedule of the new length",
                    stacklevel=2,
                )
            self._follow(saved)
        if state_dict["scheduler"] is not None:
            self._scheduler.load_state_dict(state_dict["scheduler"])
        self._written_steps = state_dict["written_steps"]

    def _follow(self, schedule: Schedule) -> None:
        """Make the optimizer follow ``schedule``, unless it has loaded one of its own from a checkpoint."""
        self.schedule = schedule
        loaded = getattr(self._optimizer, "schedule", None) is not None
        self._scheduler = FollowLR(self._optimizer) if loaded else follow(self._optimizer, schedule)
        if isinstance(self._scheduler, ScheduleLR) or self._writers:
            self._optimizer.register_step_post_hook(self._after_update)

    def _after_update(self, *_: Any) -> None:
        if isinstance(self._scheduler, ScheduleLR):
            with warnings.catch_warnings():
                # Accelerate replaces optimizer.step while it steps with a scaler.
                warnings.filterwarnings("ignore", r"Seems like `optimizer\.step\(\)` has been overridden")
                self._scheduler.step()
        elif self._written_steps < self.total_steps and self._optimizer.control.host_step >= self._next_write:
            start = self._written_steps
            for writer in self._writers:
                self._written_steps = self._optimizer.control.log_to(writer, start=start)

    @property
    def _next_write(self) -> int:
        """The update after which the trackers get the next series."""
        return min(self._written_steps + LOG_EVERY, self.total_steps)


class LossRecorder:
    """Records the loss of each update by an optimizer of clrfast, without those of updates that a scaler has skipped.

    Args:
        accelerator: says whether a batch ends an update, and whether the update was skipped.
        optimizer: the prepared optimizer, or the one in it.
    """

    def __init__(self, accelerator: Accelerator, optimizer: torch.optim.Optimizer):
        self._accelerator, self._optimizer = accelerator, inner_optimizer(optimizer)
        self._ended_update = False

    def __call__(self, loss: Tensor) -> None:
        """Record the loss of a batch, before the update that it leads to."""
        control = getattr(self._optimizer, "control", None)
        if control is None:
            return
        if self._ended_update and self._accelerator.optimizer_step_was_skipped:
            control.take_recorded()
        self._ended_update = self._accelerator.sync_gradients
        control.record(loss)


def inner_optimizer(optimizer: torch.optim.Optimizer) -> Any:
    """Return the optimizer that Accelerate has wrapped; any other is returned unchanged."""
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _writers(accelerator: Accelerator) -> Iterator[Any]:
    """Yield what each tracker of the main process writes to, or the tracker itself."""
    for tracker in accelerator.trackers if accelerator.is_main_process else ():
        writer = getattr(tracker, "tracker", None)
        is_known = hasattr(writer, "add_scalar") or hasattr(writer, "define_metric")
        yield writer if is_known else tracker
