"""The learning-rate range test: train for a while with a rising rate, and record the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from .._progress import Progress, show_progress
from .._ranks import GroupOption, resolve_group
from ..optim._control import require_divergence_limits
from ..schedules._policies import Spacing
from ..tasks import Task
from ..training import StepOptions
from ..training._distributed_model import require_not_distributed
from ..training._joined_optimizer import Optimizers
from ..training._losses import ComputeLoss
from ..training._step_options import StepKeywords, resolve_options
from ..training._task_argument import resolve_task
from ._curve import LRCurve
from ._experiment import Experiment
from ._metrics import Metric
from ._ramp_curves import measure_curves
from ._ramp_plan import plan_ramps
from ._validation import Validation

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RampKeywords(StepKeywords, total=False):
    """Keyword arguments of ``range_test`` that describe its ramps and steps."""

    optimizer: Optimizers | None
    min_lr: float
    max_lr: float | None
    steps: int | Literal["auto"]
    spacing: Spacing
    repeats: int
    stop_factor: float


class RangeTestKeywords(RampKeywords, total=False):
    """All keyword arguments of ``range_test``."""

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
    group: GroupOption = "auto",
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> LRCurve:
    """Train ``model`` while the rate rises from ``min_lr`` to ``max_lr``, and record the loss.

    Afterwards the model, its buffers, plain attributes, gradients and train/eval flags, the loss if it has modules, the
    optimizer, the scaler, the order of the loaders' next batches (see ``save_loader_order``) and all random states are
    exactly as before, also after an exception or Ctrl-C. A warning names an attribute that hangs on the autograd graph
    or grows. Losses stay on the device; the host looks at a copy of them every 10 steps, without waiting for a CUDA
    device (with ``scaler`` it waits then, and at every step for other optimizers than ours).

    Where a loss is not finite, its batch is evaluated on the initial weights. If its loss is not finite there either,
    and that of other batches is, a warning names the batch, and the sweep is made again without it; see ``BadBatches``.

    On several ranks of torch.distributed all make this call, each with its own shard of the data, and all get the same
    curve: losses and held-out measures are means over the ranks, and one decision ends a sweep everywhere. Losses are
    summed on the device about every 10 steps (with ``scaler`` at every step), and no step is part of a CUDA graph.
    ``DistributedDataParallel`` and ``fully_shard`` (FSDP2) models are given as they are; a model that does not average
    its gradients is one run for each rank. A rank with fewer batches than the others starts again at its end.

    Args:
        model: any module with trainable parameters; put into training mode, unless it is in that mode already
            (then submodules in eval mode stay there). Batches are moved to its device. Or a ``Task``, which has all
            of model, loss_fn, loader and compute_loss; its validation data are used if ``metric`` or ``val_every`` asks
            for some.
        loss_fn: ``loss_fn(model(inputs), targets) -> loss`` for a loader of ``(inputs, targets)``. Without it and
            ``compute_loss``, batches are dicts and the model returns its own loss: ``model(**batch).loss``.
        loader: an iterable of batches; one that is shorter than the sweep starts again. An iterator is used up.
        compute_loss: ``compute_loss(model, batch) -> loss`` instead of ``loss_fn``, for every other kind of batch.
        optimizer: its kind, groups and state are used, its rates replaced (the groups keep their ratios). A list of
            optimizers, as a GAN has them, is stepped together, on one loss; the ratios of all their groups are kept,
            and the curve's rate is the highest. None: ``clrfast.SGD`` with momentum 0.9, over the trainable parameters
            of the model and of the loss (see ``clrfast.training._loss_modules.loss_modules``).
        min_lr, max_lr, spacing: the ramp, end points included; see ``lr_ramp``. ``max_lr`` None: 10, and with
            "auto" higher, up to 10,000, until the loss diverges.
        steps: updates of the sweep. "auto": for exponential sweeps over more than a factor of 750, a coarse one of
            38 steps, then one of 60 from a 500th to 1.5 times the rate at which it diverged, from the same initial
            state; it may begin below ``min_lr``. The curve has the fine points, and the coarse ones below them. For
            other sweeps 98 steps.
        repeats: so many sweeps, of "auto" the fine one, on other batches each; the curve holds the others as
            ``repeats``, and its suggestion is over all.
        val_loader: held-out batches that are looked at on the way; see ``HeldOut`` for how many and how often.
        metric: what is measured on them: None for the loss, "accuracy", or a function, ``metric(outputs, targets)``
            or, with ``compute_loss`` or dict batches, ``metric(model, batch)``.
        val_every: steps between two looks; None: such that they take no more forward passes than the training.
        stop_factor: see ``divergence``; a sweep stops where the loss has diverged or is not finite.
        group: the ranks that make this call together. "auto": all of the default group, where torch.distributed is
            initialised. A process group: its ranks. None: this process alone; models whose ranks wait for each other
            are refused then.
        progress: ``progress(done, total, {"lr": ..., "loss": ...})``, called about every 10 steps and at the end; True
            for a bar, if tqdm is installed. On several ranks only the first one tells.
        options, step_options: a ``StepOptions``, or its fields as keywords: accumulate, autocast, scaler, clip_norm,
            graph and snapshot_device. An update that the scaler skips is tried again at the same rate, with the next
            batch.
    Returns:
        The curve; ``loss[i]`` is the loss after the update with ``lr[i]``, so each sweep uses one batch more than it
        makes updates.
    Raises:
        TypeError: an unknown keyword.
        ValueError: bad arguments; a model without trainable parameters; a loader that is empty, or used up before
            the sweep ends; a first loss that is not finite.
        RankError: on all ranks, where one of them failed or cannot be reached; it names what failed where. An error of
            one class on all ranks is raised as it is. What fails within the model, where its ranks
            wait for each other, may reach the others only when that rank ends, or after the group's timeout.

    There is no such test of the momentum, which would show no optimum: ``find_momentum`` compares constant ones.

    Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    ramp: dict[str, Any] = {
        "min_lr": min_lr,
        "steps": steps,
        "spacing": spacing,
        "repeats": repeats,
        "stop_factor": stop_factor,
    }
    with resolve_group(group).end_together() as ranks:
        options = resolve_options(options, step_options, "range_test", RangeTestKeywords.__optional_keys__)
        task = resolve_task(model, loss_fn, loader, compute_loss)
        if val_loader is None and (metric is not None or val_every is not None):
            val_loader = task.val_loader
        plan = plan_ramps(min_lr, max_lr, steps, spacing, repeats)
        require_divergence_limits(0.0, stop_factor)
        for name, given in (("metric", metric), ("val_every", val_every)):
            if val_loader is None and given is not None:
                raise ValueError(
                    f"{name}: got {given!r} and no val_loader; give the held-out batches too, or leave it out"
                )
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
        with (
            show_progress(ranks.progress_on_first(progress), "range test") as show,
            experiment.batches(val_loader) as batches,
        ):
            held_out = None
            if val_loader is not None:
                steps_each, own = plan.total_steps // repeats, task.loss_fn is None
                held_out = Validation(val_loader, metric, steps_each, val_every, custom_batches=own, ranks=ranks)
            run = partial(experiment.run, batches=batches, validation=held_out, progress=show)
            curves = measure_curves(plan, run, stop_factor)
    name = "" if held_out is None else held_out.metric_name
    first, *others = (replace(curve, metric_name=name, momentum=experiment.momentum) for curve in curves)
    return replace(first, repeats=tuple(others), _range_test=partial(range_test, **ramp))
