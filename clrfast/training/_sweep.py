"""``sweep``: trains several copies of a model on the same batches, each with its own schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._progress import Progress, show_progress
from ..optim._control import require_divergence_limits
from ..schedules import Schedule
from ._batches import require_iterable
from ._loss_modules import find_loss_modules, trainable_parameters
from ._losses import ComputeLoss, resolve_loss
from ._optimizer_factory import MakeOptimizer, resolve_optimizer
from ._preservation import preserve_rng_and_loaders
from ._stacked_step import SweepPlan
from ._vectorization import StartedSweep, Vectorize, ignore_vmap_warnings, start_sweep


@dataclass(frozen=True, eq=False)
class SweepResult:
    """The outcome of a ``sweep`` of K copies, in the order of its schedules.

    Attributes:
        losses: float32 ``[K, total_steps]`` on the CPU: the loss before each update; NaN after a copy has stopped.
        steps: int64 ``[K]``: number of applied updates.
        stopped: bool ``[K]``: whether the copy diverged or had a loss that is not finite.
        models: the K trained models, in training mode.
        sequential_reason: why the copies were trained one after the other, in one sentence; None if they were trained
            at once.
    """

    losses: Tensor
    steps: Tensor
    stopped: Tensor
    models: list[nn.Module]
    sequential_reason: str | None

    def __repr__(self) -> str:
        n_copies, total_steps = self.losses.shape
        return f"SweepResult({n_copies} copies, {total_steps} steps, {int(self.stopped.sum())} stopped)"


def sweep(
    make_model: Callable[[], nn.Module],
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    schedules: Sequence[Schedule] = (),
    *,
    compute_loss: ComputeLoss | None = None,
    seeds: int | Sequence[int] = 0,
    momentum: float | None = None,
    make_optimizer: MakeOptimizer | None = None,
    smoothing: float = 0.98,
    stop_factor: float = 4.0,
    vectorize: Vectorize = "auto",
    progress: Progress | bool | None = None,
) -> SweepResult:
    """Train one copy of a model with each of ``schedules``, all on the same batches.

    Vectorized training stacks the parameters of the copies and makes one forward and one backward pass for all of them
    with ``torch.func.vmap``. Each copy has its own optimizer and schedule. On a device that a small model leaves
    idle, K copies then take little longer than one. A copy that diverges stops and the others continue. The host never
    waits for a step. The results equal those of K sequential training runs up to rounding, except for models that draw
    random numbers, such as dropout.

    Args:
        make_model: called once for each copy, right after torch is seeded with the copy's seed.
        loss_fn, loader, compute_loss: as for ``range_test``.
        schedules: K schedules with one parameter group each and the same ``total_steps``.
        seeds: seeds of the initial weights: one for all copies, or K of them.
        momentum: momentum of SGD for schedules without a momentum curve, >= 0; None: 0.9.
        make_optimizer: ``make_optimizer(params)`` returns the optimizer of a copy, one of clrfast without a schedule:
            ``clrfast.AdamW``, or ``functools.partial(clrfast.AdamW, clip_norm=1.0)``. Momentum and weight decay that a
            schedule lacks are the optimizer's. None: ``clrfast.SGD`` with ``momentum``.
        smoothing, stop_factor: limits of divergence; see ``StepControl.watch_divergence``.
        vectorize: whether to train all copies at once. "auto" tries both for some steps and continues with the faster.
        progress: ``progress(done, total, {})``; True for a bar, if tqdm is installed.
    Raises:
        ValueError: a bad argument; or ``vectorize=True`` and ``vmap`` cannot run the model, with the reason.
    """
    if own := find_loss_modules(loss_fn, compute_loss):
        raise ValueError(
            f"loss_fn, compute_loss: got a loss with parameters of its own ({type(own[0]).__name__}), which all copies "
            "would share; make_model must return them within the model"
        )
    compute_loss = resolve_loss(loss_fn, compute_loss)
    require_iterable(loader)
    assert loader is not None
    total_steps = _common_total_steps(schedules)
    require_divergence_limits(smoothing, stop_factor)
    if vectorize not in (True, False, "auto"):
        raise ValueError(f"vectorize: got {vectorize!r}; give True, False or 'auto'")
    make_optimizer = resolve_optimizer(make_optimizer, momentum)
    models = _make_models(make_model, seeds, len(schedules))
    plan = SweepPlan(models, compute_loss, schedules, make_optimizer, smoothing, stop_factor)
    for index, model in enumerate(models):
        plan.optimizer_of(index, trainable_parameters(model))  # a bad optimizer is reported before anything begins
    started = start_sweep(plan, loader, total_steps, vectorize)
    if vectorize is True and started.sequential_reason is not None:
        raise ValueError(f"vectorize: got True, and {started.sequential_reason}; give 'auto' or False")
    with show_progress(progress, f"{len(models)} copies") as show:
        finish = _train_sequentially if started.stacked is None else _train_stacked
        return finish(plan, started, loader, total_steps, show)


def _common_total_steps(schedules: Any) -> int:
    if not isinstance(schedules, Sequence) or not schedules:
        raise ValueError(f"schedules: got {schedules!r}; give a list of schedules, one for each copy")
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedules: got {schedule!r} among them; give clrfast.Schedule, for example one_cycle()")
        if schedule.n_groups > 1:
            raise ValueError("schedules: got one with several groups; the copies have one parameter group each")
    lengths = {schedule.total_steps for schedule in schedules}
    if len(lengths) > 1 or None in lengths:
        raise ValueError(f"schedules: got total_steps of {sorted(map(str, lengths))}; give all the same number")
    (total_steps,) = lengths
    assert total_steps is not None
    return total_steps


def _make_models(make_model: Any, seeds: Any, n: int) -> list[nn.Module]:
    if not callable(make_model) or isinstance(make_model, nn.Module):
        raise ValueError(f"make_model: got {type(make_model).__name__}; give a function that returns a new model")
    each = [seeds] * n if isinstance(seeds, int) else list(seeds)
    if len(each) != n:
        raise ValueError(f"seeds: got {len(each)} for {n} schedules; give one number, or one for each")
    models = []
    with preserve_rng_and_loaders():
        for seed in each:
            torch.manual_seed(seed)
            models.append(make_model())
    for model in models:
        if not isinstance(model, nn.Module):
            raise ValueError(f"make_model: it returned {type(model).__name__}; return a torch.nn.Module")
        if any(map(is_lazy, model.parameters())):
            raise ValueError("make_model: it returned lazy modules; run one batch through the model first")
        if not any(param.requires_grad for param in model.parameters()):
            raise ValueError("make_model: it returned a model without trainable parameters")
        model.train()
    _require_separate(models)
    return models


def _require_separate(models: Sequence[nn.Module]) -> None:
    """Raise ValueError if two of ``models`` share trainable parameters."""
    if len({id(model) for model in models}) < len(models):
        raise ValueError("make_model: it returned the same model again; it must make a new one at every call")
    trained = [id(param) for model in models for param in model.parameters() if param.requires_grad]
    if len(set(trained)) < len(trained):
        raise ValueError("make_model: it returned models that share parameters; it must make new ones at every call")


def _train_sequentially(
    plan: SweepPlan, started: StartedSweep, loader: Iterable[Any], total_steps: int, show: Progress | None
) -> SweepResult:
    n = len(plan.models)
    steps = started.steps or plan.make_steps()
    for index, step in enumerate(steps):
        last = index == n - 1
        # All copies see the same batches. At the end the loader is in the state that a single run leaves.
        with preserve_rng_and_loaders(*([] if last else [loader])):
            for done, batch in started.remaining(loader, total_steps, step.device):
                step(batch)
                if show is not None:
                    show(index * total_steps + done + 1, n * total_steps, {})
    for model in plan.models:
        model.zero_grad(set_to_none=True)
    return _make_result(plan, [step.optimizer for step in steps], started.sequential_reason)


def _train_stacked(
    plan: SweepPlan, started: StartedSweep, loader: Iterable[Any], total_steps: int, show: Progress | None
) -> SweepResult:
    stacked = started.stacked
    assert stacked is not None
    with ignore_vmap_warnings():
        for done, batch in started.remaining(loader, total_steps, stacked.device):
            stacked(batch)
            if show is not None:
                show(done + 1, total_steps, {})
    stacked.copy_to_models()
    return _make_result(plan, stacked.optimizers, None)


def _make_result(plan: SweepPlan, optimizers: Sequence[Any], sequential_reason: str | None) -> SweepResult:
    controls = [optimizer.control for optimizer in optimizers]
    losses, steps, stopped = (
        torch.stack([getattr(control, name) for control in controls]).cpu() for name in ("losses", "step", "stop")
    )
    return SweepResult(losses, steps, stopped, plan.models, sequential_reason)
