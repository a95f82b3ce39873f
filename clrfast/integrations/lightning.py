"""1cycle and the learning-rate finder for Lightning, ``lightning.pytorch`` as well as ``pytorch_lightning``."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from .._fields import Fields
from .._saving import to_plain
from ..finder import LRCurve, Suggestion, range_test
from ..optim import StepControl
from ..schedules import Schedule, one_cycle
from ..training._loader_order import save_loader_order
from ..training._preservation import preserve_model_and_optimizer
from ..training._saved_state import save_random_states
from ._follow import Policy, follow, make_schedule, require_search_keywords

__all__ = ["LRFinder", "OneCycle"]

_DISTRIBUTIONS = ("lightning.pytorch", "pytorch_lightning")


def _distribution() -> str:
    """Return the name of the package that was imported first, or else of the installed one."""
    only_second = find_spec("lightning") is None and find_spec("pytorch_lightning") is not None
    return next((name for name in sys.modules if name in _DISTRIBUTIONS), _DISTRIBUTIONS[only_second])


pl: Any = import_module(_distribution())


class OneCycle(pl.Callback):
    """Finds the learning rate at the start of a fit and makes the optimizer follow a schedule over the whole run.

    The search and the run use the trainer's strategy, precision, ``accumulate_grad_batches`` and
    ``gradient_clip_val``. In the search, ``self.log`` and the loggers write nothing, and the hooks of batches and of
    other callbacks do not run. The schedule counts optimizer updates, and an update that a scaler skips does not
    advance it. For an optimizer of clrfast, ``control.losses`` has the loss of each update. A fit with ``ckpt_path``
    continues the schedule of the checkpoint without a search. With ``fast_dev_run``, the optimizer's own rate takes the
    place of a search.

    Args:
        max_lr: the highest rate of the schedule, > 0; None searches for it.
        policy: ``policy(max_lr, total_steps) -> schedule``.
        log: whether to write the curve of the search and, for an optimizer of clrfast, the loss, the gradient's norm
            and the schedule of all updates to the trainer's loggers, at the end of each epoch.
        range_test: keywords of ``clrfast.range_test`` for the search, without ``max_lr``; they override the trainer's
            settings.

    Attributes:
        suggestion: the result of the search; None if ``max_lr`` was given.
        curve: the curve of the search; None if ``max_lr`` was given.
        schedule: the schedule of the run; None before it starts.

    Raises:
        TypeError: a keyword is unknown.
        ValueError: at the start of a fit: the run has no end, the module has schedulers of its own or optimizes by
            hand, or as for ``clrfast.range_test``.
        NoSuggestionError: at the start of a fit: the search has no valid answer.

    Example:
        >>> trainer = L.Trainer(max_epochs=10, callbacks=[OneCycle()])  # doctest: +SKIP
        >>> trainer.fit(module, datamodule=datamodule)  # doctest: +SKIP
    """

    def __init__(self, max_lr: float | None = None, *, policy: Policy = one_cycle, log: bool = True, **range_test: Any):
        require_search_keywords(range_test, "OneCycle")
        self._max_lr, self._policy, self._log, self._keywords = max_lr, policy, log, range_test
        self._forget()

    def _forget(self) -> None:
        self.suggestion: Suggestion | None = None
        self.curve: LRCurve | None = None
        self.schedule: Schedule | None = None
        self._n_logged = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget the fit before this one."""
        if stage == "fit":
            self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule and the result of the search as plain data."""
        if self.schedule is None:
            return {}
        found = {"suggestion": to_plain(self.suggestion), "curve": to_plain(self.curve)}
        return {"schedule": self.schedule.to_dict(), "n_logged": self._n_logged, **found}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Continue the schedule of a checkpoint."""
        state = checkpoint["callbacks"].get(self.state_key)
        if not state:
            return
        self.schedule, self._n_logged = Schedule.from_dict(state["schedule"]), state["n_logged"]
        self.suggestion = state["suggestion"] and Suggestion(**state["suggestion"])
        self.curve = state["curve"] and LRCurve.from_plain(Fields(state["curve"], "curve"))
        if trainer.state.fn == "fit" and trainer.strategy.restore_checkpoint_after_setup:
            self._install(trainer)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the run, and install the schedule of a checkpoint before the optimizer's state is loaded."""
        _require_automatic(pl_module)
        _require_no_schedule(trainer)
        if self.schedule is not None:
            self._install(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the rate and install the schedule, unless a checkpoint has done so."""
        if self.schedule is not None:
            return
        total_steps, max_lr = _remaining_updates(trainer), self._max_lr
        (optimizer,) = trainer.optimizers
        if max_lr is None and trainer.fast_dev_run:
            max_lr = max(float(group["lr"]) for group in optimizer.param_groups)
            pl.utilities.rank_zero_info(f"OneCycle: no search with fast_dev_run; max_lr is the optimizer's, {max_lr:g}")
        if max_lr is None:
            max_lr = self._search(trainer, pl_module)
        self.schedule = make_schedule(self._policy, max_lr, total_steps, optimizer).without_functions()
        self._install(trainer)

    def _search(self, trainer: Any, module: Any) -> float:
        self.curve = _range_test(trainer, module, self._keywords)
        for logger in trainer.loggers if self._log and trainer.is_global_zero else ():
            self.curve.log_to(logger)
        self.suggestion = self.curve.suggest()
        pl.utilities.rank_zero_info(f"OneCycle: max_lr {self.suggestion}")
        return self.suggestion.max_lr

    def _install(self, trainer: Any) -> None:
        assert self.schedule is not None
        scheduler = follow(trainer.optimizers[0], self.schedule)
        trainer.lr_scheduler_configs.append(pl.utilities.types.LRSchedulerConfig(scheduler, interval="step"))

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Forget the losses of an update that the scaler has skipped."""
        if (control := _control(trainer)) is not None:
            control.take_recorded()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Record the loss, which is scaled by the scaler and divided by the number of accumulated batches."""
        if (control := _control(trainer)) is not None:
            loss = loss.detach().float() * trainer.accumulate_grad_batches
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            control.record(loss if scaler is None else loss / scaler.scale(loss.new_ones(())))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the updates since the last call to the loggers."""
        control, start = _control(trainer), self._n_logged
        if self._log and control is not None and trainer.is_global_zero:
            for logger in trainer.loggers:
                self._n_logged = control.log_to(logger, start=start)

    on_train_end = on_train_epoch_end


class LRFinder:
    """Finds a learning rate for a ``LightningModule`` and its data, and leaves both as they were.

    Args:
        range_test: keywords of ``clrfast.range_test``; they override the trainer's settings.
    Attributes:
        curve: the curve of the last search; None before it.
    Raises:
        TypeError: a keyword is unknown.

    Example:
        >>> LRFinder().suggest(module, datamodule).max_lr  # doctest: +SKIP
    """

    def __init__(self, **range_test: Any):
        require_search_keywords(range_test, "LRFinder")
        self._keywords = range_test
        self.curve: LRCurve | None = None

    def suggest(
        self, module: Any, datamodule: Any = None, *, train_dataloaders: Any = None, trainer: Any = None
    ) -> Suggestion:
        """Find a rate with the optimizer of ``module.configure_optimizers()``; its schedulers are ignored.

        As in a fit, ``prepare_data``, ``setup`` and ``train_dataloader`` are called. The trainer's callbacks do not
        run, and its loggers write nothing.

        Args:
            module: a ``LightningModule`` with automatic optimization.
            datamodule, train_dataloaders: the data, as for ``Trainer.fit``; by default the module's own.
            trainer: gives device, strategy, precision, accumulation, clipping and limits. None: ``Trainer(devices=1)``.
        Raises:
            NoSuggestionError: the curve has no valid answer.
            ValueError: the module optimizes by hand, the trainer has no training left, or as for
                ``clrfast.range_test``.
        """
        if trainer is None:
            trainer = pl.Trainer(devices=1, max_epochs=1, logger=False, **_QUIET)
        data = [each for each in (datamodule, train_dataloaders) if each is not None] or [module]
        to_restore = [*save_random_states(), *save_loader_order(*data)]
        self.curve = None

        def search(trainer: Any, module: Any) -> None:
            _require_automatic(module)
            for restore in to_restore:  # the trainer has drawn random numbers to iterate its loader
                restore()
            self.curve = _range_test(trainer, module, self._keywords)
            raise pl.utilities.exceptions._TunerExitException  # ends the fit, as Lightning's own tuner does

        alone = {"callbacks": [pl.callbacks.LambdaCallback(on_train_start=search)], "num_sanity_val_steps": 0}
        with contextlib.ExitStack() as stack:
            for restore in to_restore:
                stack.callback(restore)
            stack.enter_context(preserve_model_and_optimizer(module))
            stack.enter_context(_replaced(trainer, **alone, loggers=_dummies(trainer)))
            if datamodule is not None:
                stack.enter_context(_replaced(datamodule, trainer=trainer))
            trainer.fit(module, train_dataloaders, datamodule=datamodule)
        if self.curve is None:
            raise ValueError("trainer: it has no training left, so there was no search; give a new Trainer")
        return self.curve.suggest()


_QUIET = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}


class _Batches:
    """The batches of a fit; iterating them leaves the fit's own iterator where it is."""

    def __init__(self, loader: Any, limit: float):
        self._loader, self._limit = loader, limit

    def __iter__(self) -> Iterator[Any]:
        for batch, index, _ in copy.copy(self._loader):
            if index == self._limit:
                break
            yield batch

    def __len__(self) -> int:
        return len(self._loader)  # a TypeError where a loader has no length


def _range_test(trainer: Any, module: Any, keywords: Mapping[str, Any]) -> LRCurve:
    """Call ``range_test`` with the training step, the data and the settings of a fit that is about to start."""
    strategy, precision, indices = trainer.strategy, trainer.precision_plugin, itertools.count()
    takes_index = _takes_index(module.training_step)

    def compute_loss(_: Any, batch: Any) -> Any:
        batch = module._on_before_batch_transfer(precision.convert_input(batch))
        batch = strategy.batch_to_device(batch)
        output = strategy.training_step(batch, next(indices)) if takes_index else strategy.training_step(batch)
        return output.get("loss") if isinstance(output, Mapping) else output

    settings: dict[str, Any] = {}
    if "options" not in keywords:
        scaler, accumulate = getattr(precision, "scaler", None), trainer.accumulate_grad_batches
        settings = {"scaler": scaler, "accumulate": accumulate, "clip_norm": _clip_norm(trainer, keywords)}
        settings["graph"] = False  # a replay would not run the hooks of a batch, nor count its index
    given = {"compute_loss": compute_loss, "optimizer": trainer.optimizers[0], **settings, **keywords}
    ignored = {name: lambda *_, **__: None for name in ("log", "log_dict")}
    with _replaced(trainer, loggers=_dummies(trainer)), _replaced(module, **ignored):
        loader = _Batches(trainer.fit_loop._combined_loader, trainer.num_training_batches)
        return range_test(strategy.model, loader=loader, **given)


def _clip_norm(trainer: Any, keywords: Mapping[str, Any]) -> float | None:
    if trainer.gradient_clip_algorithm == "value" and trainer.gradient_clip_val and "clip_norm" not in keywords:
        warnings.warn(
            "gradient_clip_algorithm: got 'value', and a search clips by norm only, so it does not clip; the rate that "
            "it finds may be lower than clipping allows. Give clip_norm=... for the search, or choose 'norm'",
            stacklevel=2,
        )
        return None
    return trainer.gradient_clip_val or None


@contextlib.contextmanager
def _replaced(thing: Any, **values: Any) -> Iterator[None]:
    """Replace attributes, properties and methods of ``thing`` within a block."""
    before, own = {name: getattr(thing, name) for name in values}, set(vars(thing))
    for name, value in values.items():
        setattr(thing, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if name in vars(thing) and name not in own:
                delattr(thing, name)  # a method of the class
            else:
                setattr(thing, name, value)


def _dummies(trainer: Any) -> list[Any]:
    """Return loggers that write nothing, as many as the trainer has, and at least one for ``self.logger``."""
    return [pl.loggers.logger.DummyLogger() for _ in trainer.loggers or [None]]


def _control(trainer: Any) -> StepControl | None:
    """Return the control of the run; None for an optimizer that is not of clrfast."""
    return getattr(trainer.optimizers[0], "control", None)


def _takes_index(training_step: Any) -> bool:
    """Return whether ``training_step`` takes the index of the batch, too."""
    parameters = inspect.signature(training_step).parameters
    return len(parameters) > 1 or any(each.kind is each.VAR_POSITIONAL for each in parameters.values())


def _require_automatic(module: Any) -> None:
    if not module.automatic_optimization:
        raise ValueError(
            "module: it has automatic_optimization=False; OneCycle and LRFinder need Lightning's own optimization. In "
            "training_step, an optimizer with a schedule needs neither: clrfast.SGD(params, schedule=clrfast.one_cycle("
            "max_lr, total_steps)), with the max_lr that clrfast.range_test suggests"
        )
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise ValueError("training_step: it takes a dataloader_iter; OneCycle and LRFinder need training_step(batch)")


def _require_no_schedule(trainer: Any) -> None:
    """Raise ValueError if anything besides OneCycle decides the rate or the number of updates."""
    names = [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs]
    if names:
        raise ValueError(
            f"configure_optimizers: it returns {', '.join(names)}, and OneCycle sets the rate, too; return the "
            "optimizer alone, or leave OneCycle out"
        )
    if getattr(trainer.optimizers[0], "schedule", None) is not None:
        raise ValueError(
            "configure_optimizers: its optimizer follows a schedule of its own, and OneCycle gives it one, too; make "
            "the optimizer without schedule=, or leave OneCycle out"
        )
    if any(isinstance(each, pl.callbacks.GradientAccumulationScheduler) for each in trainer.callbacks):
        raise ValueError(
            "callbacks: GradientAccumulationScheduler changes the number of updates in an epoch, so OneCycle cannot "
            "plan them; give Trainer(accumulate_grad_batches=...), or leave OneCycle out"
        )


def _remaining_updates(trainer: Any) -> int:
    """Return the number of optimizer updates from here to the end of the run."""
    total_steps = trainer.estimated_stepping_batches
    if not 0 < total_steps < math.inf:
        raise ValueError(
            f"trainer: got max_epochs={trainer.max_epochs} and max_steps={trainer.max_steps}, so the run has no known "
            "end; give max_epochs, or max_steps for data without a length"
        )
    return int(total_steps) - trainer.global_step
