"""Adapters to the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import get_last_checkpoint, has_length

from .. import finder, optim
from ..finder import LRCurve
from ..schedules import Schedule, one_cycle
from ..training._loader_order import save_attributes
from ..training._preservation import preserve_rng_and_loaders
from ._follow import Policy, follow, make_schedule, require_search_keywords
from .accelerate import LossRecorder, inner_optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..finder._range_test import RangeTestKeywords
    from ..finder._suggestion import Suggestion

__all__ = ["OneCycleTrainer", "find_lr", "range_test"]

_OURS = {torch.optim.AdamW: optim.AdamW, torch.optim.Adam: optim.Adam, torch.optim.SGD: optim.SGD}


def range_test(trainer: Trainer, **keywords: Unpack[RangeTestKeywords]) -> LRCurve:
    """Run ``clrfast.range_test`` on what a ``Trainer`` trains: its model, loss, data and optimizer.

    The loss is ``trainer.compute_loss`` with its ``num_items_in_batch``, on ``trainer.get_train_dataloader()``. The
    optimizer is the trainer's own, or one like that which it would make. Accumulation, clipping and mixed precision are
    those of ``trainer.args``. Afterwards the trainer, its model and all random states are as before, and nothing is
    logged. All processes make this call; the model is then trained as DistributedDataParallel.

    Args:
        trainer: with a training dataset.
        keywords: those of ``clrfast.range_test``; they replace what the trainer says.
    Returns:
        The curve.
    Raises:
        ValueError: the trainer uses DeepSpeed, FSDP or DataParallel; or see ``clrfast.range_test``.

    Example::

        curve = range_test(trainer)
        print(curve.suggest())
    """
    args, found = trainer.args, cast("dict[str, Any]", keywords)
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or args.n_gpu > 1:
        raise ValueError(
            "trainer: it uses DeepSpeed, FSDP or DataParallel, and the range test needs a process per device with the "
            "whole model (torchrun); else give the rate: OneCycleTrainer(max_lr=...)"
        )
    with _restored(trainer):
        loader: Any = trainer.get_train_dataloader()
        if found.get("options") is None:
            longest = len(loader) if has_length(loader) else args.gradient_accumulation_steps
            found.setdefault("accumulate", min(args.gradient_accumulation_steps, longest))
            found.setdefault("clip_norm", args.max_grad_norm or None)
            found.setdefault("scaler", trainer.accelerator.scaler)
        if found.get("compute_loss") is None:
            accumulate = found["accumulate"] if found.get("options") is None else found["options"].accumulate
            loader, found["compute_loss"] = _MicroBatches(trainer, loader, accumulate), _loss_of(trainer)
        if found.get("optimizer") is None:
            found["optimizer"] = trainer.create_optimizer() if trainer.optimizer is None else trainer.optimizer
        found["optimizer"] = inner_optimizer(found["optimizer"])
        return finder.range_test(_prepared_model(trainer), loader=loader, **found)


def find_lr(trainer: Trainer, **keywords: Unpack[RangeTestKeywords]) -> Suggestion:
    """Return ``range_test(trainer, **keywords).suggest()``, the rate to train with.

    Raises:
        ValueError: see ``range_test``.
        NoSuggestionError: the curve shows no rate.

    Example::

        trainer.args.learning_rate = find_lr(trainer).max_lr
    """
    return range_test(trainer, **keywords).suggest()


class OneCycleTrainer(Trainer):
    """A ``Trainer`` that finds its learning rate at the start of ``train()``, and trains by a 1cycle of that rate.

    The optimizer is the one that ``args`` describes; torch's AdamW, Adam and SGD become those of clrfast, which follow
    the schedule on the device. The schedule has a step per optimizer update of the run; ``learning_rate`` and
    ``lr_scheduler_type`` in ``args`` have no effect. A run that resumes from a checkpoint continues the schedule at the
    saved step and does not search; if its number of updates differs, it continues the schedule of the new length.

    It also goes in front of another subclass: ``class MyTrainer(OneCycleTrainer, Seq2SeqTrainer)``.

    Args:
        args, keywords: those of the ``Trainer``. In ``optimizers``, give no scheduler.
        max_lr: highest rate of the schedule, > 0; None finds it.
        policy: ``policy(max_lr, total_steps) -> schedule``.
        search: keyword arguments of ``clrfast.range_test`` for the search.
        log: write the curve of the search, and the loss and hyper-parameters of every update by an optimizer of
            clrfast, to TensorBoard and W&B if the Trainer reports to them.
    Attributes:
        curve, suggestion: the result of the search; None without one.
        schedule: the schedule of the last run; None before.
    Raises:
        TypeError: ``search`` has a keyword that ``clrfast.range_test`` does not have.
        ValueError: ``optimizers`` has a schedule already.

    Example::

        trainer = OneCycleTrainer(model=model, args=args, train_dataset=dataset)
        trainer.train()
    """

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        *args: Any,
        max_lr: float | None = None,
        policy: Policy = one_cycle,
        search: RangeTestKeywords | None = None,
        log: bool = True,
        **keywords: Any,
    ):
        require_search_keywords(search or {}, "search")
        super().__init__(*args, **keywords)
        if self.lr_scheduler is not None or getattr(self.optimizer, "schedule", None) is not None:
            raise ValueError(
                "optimizers: they have a schedule already; give (optimizer without a schedule, None), or use the "
                "plain Trainer"
            )
        self.max_lr, self.policy, self.search = max_lr, policy, search
        self.curve: LRCurve | None = None
        self.suggestion: Suggestion | None = None
        self.schedule: Schedule | None = None
        self._writes_series = log
        self._unwritten_curve: LRCurve | None = None
        self._resumed_lr: float | None = None
        self.add_callback(OneCycleState())

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **keywords: Any) -> Any:
        """Train as the ``Trainer`` does.

        Raises:
            ValueError: the checkpoint is not that of a ``OneCycleTrainer``, and ``max_lr`` is None.
        """
        self._resumed_lr = None
        if resume_from_checkpoint and self.max_lr is None:
            self._resumed_lr = self._saved_lr(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **keywords)

    def create_optimizer(self, *args: Any, **keywords: Any) -> torch.optim.Optimizer:
        """Make the optimizer as the ``Trainer`` does, as one of clrfast if there is one of that name."""
        given = self.optimizer
        made = super().create_optimizer(*args, **keywords)
        if given is None and type(made) in _OURS:
            self.optimizer = _OURS[type(made)](made.param_groups, **made.defaults)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Find the rate, unless it is given or that of a resumed run, and make the optimizer follow the schedule."""
        inner = inner_optimizer(self.optimizer if optimizer is None else optimizer)
        max_lr = self.max_lr if self._resumed_lr is None else self._resumed_lr
        self.curve = self.suggestion = None
        if max_lr is None:
            keywords: RangeTestKeywords = {"optimizer": inner, **(self.search or {})}
            self.curve = range_test(self, **keywords)
            self.suggestion = self.curve.suggest()
            max_lr = self.suggestion.max_lr
        self.schedule = make_schedule(self.policy, max_lr, num_training_steps, inner)
        self.lr_scheduler = follow(inner, self.schedule)
        self._unwritten_curve, self._record = self.curve, LossRecorder(self.accelerator, inner)
        saved = self.state.stateful_callbacks.get(OneCycleState.__name__) if self.state.global_step else None
        written_steps = self.state.global_step if saved is None else saved["args"]["written_steps"]
        self._saved_state().max_lr, self._saved_state().written_steps = max_lr, written_steps
        return self.lr_scheduler

    def training_step(self, *args: Any, **keywords: Any) -> Tensor:
        """Make a training step as the ``Trainer`` does, and record its loss."""
        loss: Tensor = super().training_step(*args, **keywords)
        # The losses of an update's micro-batches add up to its loss, and the control takes their mean.
        self._record(loss * self.current_gradient_accumulation_steps)
        return loss

    def log(self, *args: Any, **keywords: Any) -> None:
        """Log as the ``Trainer`` does, and write the curve and the updates since the last call."""
        super().log(*args, **keywords)
        if not self._writes_series or not self.is_in_train:
            return
        saved = self._saved_state()
        control, start = getattr(inner_optimizer(self.optimizer), "control", None), saved.written_steps
        for writer in _writers(self.callback_handler.callbacks):
            if self._unwritten_curve is not None:
                self._unwritten_curve.log_to(writer)
            if control is not None:
                saved.written_steps = control.log_to(writer, start=start)
        self._unwritten_curve = None

    def _saved_state(self) -> OneCycleState:
        return next(each for each in self.callback_handler.callbacks if isinstance(each, OneCycleState))

    def _saved_lr(self, checkpoint: str | bool) -> float | None:
        folder = get_last_checkpoint(self.args.output_dir) if checkpoint is True else checkpoint
        file = os.path.join(str(folder), "trainer_state.json")
        if not os.path.isfile(file):
            return None  # the Trainer says what is wrong
        saved = TrainerState.load_from_json(file).stateful_callbacks.get(OneCycleState.__name__)
        if saved is None:
            raise ValueError(
                f"resume_from_checkpoint: {folder} is of a run without a OneCycleTrainer, so its rate is unknown; give "
                "it: OneCycleTrainer(max_lr=...)"
            )
        return float(saved["args"]["max_lr"])


class OneCycleState(TrainerCallback, ExportableState):
    """Keeps the highest rate of a run, and the number of updates written to loggers, in its checkpoints."""

    def __init__(self, max_lr: float | None = None, written_steps: int = 0):
        self.max_lr, self.written_steps = max_lr, written_steps

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **keywords: Any) -> None:
        """Make room for the rate in the state of a run whose checkpoint had none."""
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())

    def state(self) -> dict[str, Any]:
        """Return both in the form that a checkpoint keeps."""
        return {"args": {"max_lr": self.max_lr, "written_steps": self.written_steps}, "attributes": {}}


class _MicroBatch(NamedTuple):
    inputs: Any
    n_items: Any
    """Number of items (labels) in all batches of the update, as ``compute_loss`` takes it."""
    n_batches: int
    """Number of batches of the update."""

    def values(self) -> Iterable[Any]:
        """Return the tensors of the inputs, from which the range test counts the samples."""
        return self.inputs.values() if isinstance(self.inputs, Mapping) else self.inputs


class _MicroBatches:
    """The batches of a loader; an update of fewer than ``accumulate`` batches at the end of an epoch is left out."""

    def __init__(self, trainer: Trainer, loader: Any, accumulate: int):
        self._trainer, self._loader, self._accumulate = trainer, loader, accumulate

    def __len__(self) -> int:
        return len(self._loader) // self._accumulate * self._accumulate

    def __iter__(self) -> Iterator[_MicroBatch]:
        batches, device = iter(self._loader), self._trainer.args.device
        while True:
            some, n_items = self._trainer.get_batch_samples(batches, self._accumulate, device)
            if len(some) < self._accumulate:
                return
            yield from (_MicroBatch(inputs, n_items, len(some)) for inputs in some)


def _loss_of(trainer: Trainer) -> Callable[[nn.Module, Any], Tensor]:
    """Return the loss whose mean over the batches of an update is the trainer's loss of that update."""

    def compute_loss(model: nn.Module, batch: Any) -> Tensor:
        inputs, n_items, n_batches = batch if isinstance(batch, _MicroBatch) else (batch, None, 1)
        with trainer.compute_loss_context_manager():
            loss: Tensor = trainer.compute_loss(model, trainer._prepare_inputs(inputs), num_items_in_batch=n_items)
        is_share = getattr(trainer, "loss_is_scaled_for_ga", None)
        if is_share is None:  # the Trainer's own rule
            takes_items = trainer.model_accepts_loss_kwargs and n_items is not None
            is_share = takes_items or trainer.compute_loss_func is not None
        return loss * n_batches if is_share and n_batches > 1 else loss

    return compute_loss


def _prepared_model(trainer: Trainer) -> nn.Module:
    """Return the trainer's model with the mixed precision and the DistributedDataParallel of a training."""
    accelerator = trainer.accelerator
    for model in (trainer.model_wrapped, *accelerator._models):
        if model is not trainer.model and accelerator.unwrap_model(model) is trainer.model:
            return model
    return accelerator.prepare_model(trainer.model)


@contextlib.contextmanager
def _restored(trainer: Trainer) -> Iterator[None]:
    """Run a block without the trainer's log, and restore the random states and what the trainer keeps."""
    with preserve_rng_and_loaders(), contextlib.ExitStack() as stack:
        for kept in (trainer, trainer.model, trainer.accelerator):
            stack.callback(save_attributes(kept))
        trainer.log = lambda *args, **keywords: None
        yield


def _writers(callbacks: list[TrainerCallback]) -> Iterator[Any]:
    """Yield the TensorBoard writer and the W&B run that the Trainer's callbacks have opened in this process."""
    for callback in callbacks:
        for writer in (getattr(callback, "tb_writer", None), getattr(getattr(callback, "_wandb", None), "run", None)):
            if writer is not None:
                yield writer
