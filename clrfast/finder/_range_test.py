"""The learning-rate range test: train for some steps at a rising rate, and record the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from .._checks import is_whole
from .._distributed import GroupOption, resolve_group
from .._progress import Progress, show_progress
from ..optim._control import require_divergence_limits
from ..schedules._curves import Exponential
from ..schedules._policies import Spacing
from ..schedules._warnings import warn_user
from ..tasks import Task
from ..training import StepOptions
from ..training._distributed_model import require_not_distributed
from ..training._losses import ComputeLoss
from ..training._optimizer_list import Optimizers
from ..training._step_options import StepKeywords, resolve_options
from ..training._task_argument import resolve_task
from ._curve import LRCurve
from ._experiment import Experiment
from ._metrics import Metric
from ._ramp_curves import measure_curves
from ._ramp_plan import RampPlan, plan_ramps
from ._trial_runs import MIN_STEPS, TrialRuns
from ._validation import Validation

if TYPE_CHECKING:
    from typing_extensions import Unpack


TrialsOption = Literal["auto", "thorough"] | bool
"""Whether trials follow the ramps. "auto": if ``steps`` is "auto" too and the ramp is exponential."""


class RangeTestKeywords(StepKeywords, total=False):
    """Keyword arguments of ``range_test``."""

    optimizer: Optimizers | None
    min_lr: float
    max_lr: float | None
    steps: int | Literal["auto"]
    spacing: Spacing
    repeats: int
    stop_factor: float
    trials: TrialsOption
    max_steps: int | None
    compute_loss: ComputeLoss | None
    val_loader: Iterable[Any] | None
    metric: Metric | None
    val_every: int | None
    group: GroupOption
    progress: Progress | bool | None
    options: StepOptions | None


def range_test(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    compute_loss: ComputeLoss | None = None,
    optimizer: Optimizers | None = None,
    min_lr: float = 1e-7,
    max_lr: float | None = None,
    steps: int | Literal["auto"] = "auto",
    spacing: Spacing = "exponential",
    repeats: int = 1,
    val_loader: Iterable[Any] | None = None,
    metric: Metric | None = None,
    val_every: int | None = None,
    stop_factor: float = 4.0,
    trials: TrialsOption = "auto",
    max_steps: int | None = None,
    group: GroupOption = "auto",
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> LRCurve:
    """Train ``model`` while the learning rate rises from ``min_lr`` to ``max_lr``, and record the loss.

    By default, short trials follow: 1cycles of 20 steps at rates around the ramp's suggestion, each from the initial
    weights and on the same batches. The loss of fixed training batches after each trial decides the suggestion.

    **Restoration.** Afterwards everything is bit for bit as before, also after an exception or Ctrl-C: the model with
    its buffers, plain attributes, gradients and train/eval flags, the modules of the loss, the optimizer, the scaler,
    the order of the loaders' next batches, and all random states. A warning names an attribute that keeps the autograd
    graph alive or grows. A module without trainable parameters that only a closure refers to is not restored.

    **Speed.** Losses stay on the device. The host reads a copy of them about every 10 steps and does not wait for a
    CUDA device. With a ``scaler`` it waits at each read, or at every step if the optimizer is not one of clrfast.

    **Bad batches.** A batch whose loss is not finite is evaluated again on the initial weights. If its loss is not
    finite there either, and that of another batch is, a warning names the batch and the ramp is repeated without it.

    **Several ranks.** All ranks of ``group`` make this call, each with its own shard of the data, and get the same
    curve. Losses and validation metrics are means over the ranks, and all ranks stop at the same step. The device sums
    the losses about every 10 steps, or at every step with a ``scaler``. No step is part of a CUDA graph.
    ``DistributedDataParallel`` and ``fully_shard`` (FSDP2) models are supported; the ranks of any other model train
    separate copies. A loader with fewer batches than those of the other ranks starts again at its end.

    Args:
        model: a module with trainable parameters, or a ``Task`` in place of model, loss_fn, loader and compute_loss.
            A model in eval mode is put into training mode with all submodules; in a model in training mode, submodules
            keep their own modes. Batches are moved to the model's device.
        loss_fn: ``loss_fn(model(inputs), targets) -> loss``, a tensor of one element, for batches of ``(inputs,
            targets)``. Without ``loss_fn`` and ``compute_loss``, batches are dicts and the model returns its own loss,
            ``model(**batch).loss``.
        loader: an iterable of batches. One that is shorter than the ramp starts again. An iterator is used up, with a
            warning.
        compute_loss: ``compute_loss(model, batch) -> loss`` in place of ``loss_fn``, for batches of any kind.
        optimizer: the optimizer that trains the model. The ramp replaces its rates, and its groups keep their ratios.
            The optimizers in a list (of a GAN, for example) step together on one loss; all their groups keep their
            ratios, and the curve's rate is the highest. None: ``clrfast.SGD`` with momentum 0.9 over the trainable
            parameters of the model and of the loss.
        min_lr, max_lr: ends of the ramp, both included, 0 < min_lr < max_lr. ``max_lr`` None: 10; a coarse ramp
            continues up to 10,000 until the loss diverges.
        steps: number of updates of the ramp: at least 2. A rule for the ramp needs 5, and neighbouring rates of an
            exponential ramp that differ by at most a factor of 4 (15 updates from 1e-7 to 10). "auto": a coarse ramp of
            38 updates (over 8 powers of ten; others in proportion) and a fine ramp of 60, from 1/500 to 1.5 times the
            rate at which the coarse one diverged, both from the same weights. The fine ramp may begin below ``min_lr``.
            The curve has the fine points, and the coarse points below them. Linear ramps, and ramps over a factor of at
            most 750, are single ramps of 98 updates.
        spacing: "exponential" (equal ratios) or "linear" (equal differences); see ``lr_ramp``.
        repeats: number of ramps (with "auto": of fine ramps), each on other batches, at least 1. The curve has the
            others as ``curve.repeats``, and suggests from all of them.
        val_loader: an iterable of validation batches, of which at most one for every ten updates is used. None: no
            validation, or the data of a ``Task`` if ``metric`` or ``val_every`` is given.
        metric: what is measured on the validation batches: None for the loss, "accuracy", or a function:
            ``metric(outputs, targets)``, or ``metric(model, batch)`` with ``compute_loss`` or dict batches.
        val_every: number of updates between two validations, at least 1. None: the number of validation batches, so
            that validation takes no more forward passes than training.
        stop_factor: > 1. A ramp stops where the loss exceeds ``start + (stop_factor - 1) * max(fall, 10 * noise)``, or
            is not finite.
        trials: False: none. True: 3 to 7 trials of 20 updates; 3 to 6 of 80 if the loss does not visibly fall in those,
            or falls equally far at rates that span a factor of 4; 3 to 5 of 240 if it does not visibly fall in these
            either. "thorough": the trials of 80 updates, too, unless those of 20 fit the data.
            "auto": True if ``steps`` is "auto" and the spacing is exponential.
        max_steps: maximum number of updates of ramps and trials together, at least those of the ramps and of three
            trials; the ramps count as if they did not diverge. Longer trials that would exceed it are left out. Updates
            of a run that a bad batch ended do not count. None: no limit.
        group: the ranks that make this call together. "auto": the default group, if torch.distributed is initialised.
            A process group: its ranks. None: this process alone; a model whose ranks wait for each other is refused.
        progress: ``progress(done, total, {"lr": ..., "loss": ...})``, called about every 10 steps and at the end, on
            the first rank only. ``total`` is the maximum number of updates; most calls with trials end far below it.
            True: a progress bar, if tqdm is installed.
        options, step_options: a ``StepOptions``, or its fields as keywords: accumulate, autocast, scaler, clip_norm,
            graph and snapshot_device. An update that is skipped is repeated at the same rate with the next batch.
    Returns:
        The curve. ``loss[i]`` is the loss after the update with ``lr[i]``, so a ramp takes one batch more than updates.
        ``update_steps`` and ``extra_forward_passes`` count what the call did.
    Raises:
        TypeError: a keyword is unknown.
        ValueError: an argument is wrong, the model has no trainable parameters, the loader is empty or used up before
            the end of the ramp, or the first loss is not finite.
        RankError: on all ranks, if one failed or cannot be reached; the message names the rank and its error. Errors of
            one class on all ranks are raised unchanged. If a forward pass fails on one rank of a model whose ranks wait
            for each other, the others may learn of it only when that rank ends or the group's timeout has passed.

    Momentum has no such test, because it would show no optimum; ``find_momentum`` compares constant values.

    Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    ramp: dict[str, Any] = {
        "min_lr": min_lr,
        "steps": steps,
        "spacing": spacing,
        "repeats": repeats,
        "stop_factor": stop_factor,
        "trials": trials,
        "max_steps": max_steps,
    }
    with resolve_group(group).end_together() as ranks:
        options = resolve_options(options, step_options, "range_test", RangeTestKeywords.__optional_keys__)
        task = resolve_task(model, loss_fn, loader, compute_loss)
        _warn_of_iterator(task.train_loader)
        plan = plan_ramps(min_lr, max_lr, steps, spacing, repeats)
        require_divergence_limits(0.0, stop_factor)
        with_trials = _resolve_trials(trials, max_steps, steps, plan)
        val_loader = _resolve_val_loader(val_loader, task, metric, val_every)
        experiment = Experiment(task, options, optimizer=optimizer, ranks=ranks)
        if ranks.world_size == 1:
            require_not_distributed(task.model)
        ranks.require_same(
            "arguments",
            **ramp,
            max_lr=max_lr,
            val_every=val_every,
            val_loader=val_loader is not None,
            accumulate=options.accumulate,
            clip_norm=options.clip_norm,
            autocast=str(options.autocast),
            scaler=options.scaler is not None,
        )
        shown = show_progress(ranks.progress_on_first(progress), "range test", reaches_total=False)
        with shown as show, experiment.batches(val_loader) as batches:
            validation = None
            if val_loader is not None:
                steps_each, custom_batches = plan.total_steps // repeats, task.loss_fn is None
                validation = Validation(
                    val_loader,
                    metric,
                    steps_each,
                    val_every,
                    custom_batches=custom_batches,
                    ranks=ranks,
                    cost=experiment.cost,
                )
            trial_runs = None
            if with_trials:
                thorough = with_trials == "thorough"
                trial_runs = TrialRuns(experiment, batches, max_lr=max_lr, max_steps=max_steps, thorough=thorough)
            curve = _measure(experiment, plan, batches, stop_factor, validation, trial_runs, show)
    cost = experiment.cost
    return replace(
        curve,
        update_steps=cost.update_steps,
        extra_forward_passes=cost.extra_forward_passes,
        _range_test=partial(range_test, **ramp),
    )


def _warn_of_iterator(loader: Any) -> None:
    """Warn if ``loader`` is an iterator, which yields its batches only once."""
    if isinstance(loader, Iterator) and iter(loader) is loader:
        warn_user(
            f"loader: got a {type(loader).__name__}, which is an iterator, so training with it misses the batches "
            "that the range test takes; give an iterable that starts again, for example a DataLoader or a list"
        )


def _measure(
    experiment: Experiment,
    plan: RampPlan,
    batches: Iterator[Any],
    stop_factor: float,
    validation: Validation | None,
    trial_runs: TrialRuns | None,
    progress: Progress | None,
) -> LRCurve:
    """Run the ramps of ``plan`` and the trials, if there are any, and return the curve of all."""
    probes, total = None, plan.total_steps
    if trial_runs is not None:
        batches, probes, total = trial_runs.ramp_batches, trial_runs.ramp_probes, trial_runs.max_total_steps(total)
    run = partial(experiment.run, batches=batches, validation=validation, progress=progress)
    curves = measure_curves(plan, run, stop_factor, total, probes)
    name = "" if validation is None else validation.metric_name
    first, *others = (replace(curve, metric_name=name, momentum=experiment.momentum) for curve in curves)
    curve = replace(first, repeats=tuple(others))
    if trial_runs is None:
        return curve
    trials = trial_runs.run(curve, plan.total_steps, total, progress)
    return replace(curve, trials=trials, prior_lr=experiment.prior_lr)


def _resolve_trials(trials: Any, max_steps: Any, steps: Any, plan: RampPlan) -> bool | Literal["thorough"]:
    """Return whether trials follow the ramps of ``plan``, or "thorough".

    Raises:
        ValueError: ``trials`` or ``max_steps`` is wrong.
    """
    if not (isinstance(trials, bool) or trials in ("auto", "thorough")):
        raise ValueError(f"trials: got {trials!r}; give True, False, 'thorough' or 'auto'")
    if trials == "auto":
        trials = steps == "auto" and isinstance(plan.single.lr, Exponential)
    least, of_what = plan.total_steps, "the ramps"
    if trials:
        least, of_what = least + MIN_STEPS, "the ramps and three trials, or trials=False"
    if max_steps is not None and (not is_whole(max_steps) or max_steps < least):
        raise ValueError(
            f"max_steps: got {max_steps!r}; give a whole number, at least the {least} updates of {of_what}"
        )
    return trials


def _resolve_val_loader(
    val_loader: Iterable[Any] | None, task: Task, metric: Metric | None, val_every: int | None
) -> Iterable[Any] | None:
    """Return the validation data: those of the call, or those of the task if ``metric`` or ``val_every`` needs them."""
    for name, given in (("metric", metric), ("val_every", val_every)):
        if val_loader is None and given is not None:
            val_loader = task.val_loader
            if val_loader is None:
                raise ValueError(
                    f"{name}: got {given!r} and no val_loader; give the held-out batches too, or leave it out"
                )
    return val_loader
