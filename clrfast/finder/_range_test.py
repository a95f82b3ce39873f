"""The learning-rate range test: train for a while with a rising rate, and record the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._progress import Progress, showing
from .._ranks import GroupOption, ranks_of
from ..optim._control import require_divergence_limits
from ..schedules._policies import Spacing
from ..training._batches import ComputeLoss
from ..training._joined_optimizer import Optimizers
from ..training._sharded import require_alone
from ._curve import LRCurve
from ._experiment import Bench
from ._metrics import Metric
from ._ramp_curves import measure_curves
from ._ramp_plan import plan_ramps
from ._validation import Validation


def range_test(
    model: nn.Module,
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
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    clip_norm: float | None = None,
    stop_factor: float = 4.0,
    snapshot_device: torch.device | str | None = None,
    graph: Literal["auto", False] = "auto",
    group: GroupOption = "auto",
    progress: Progress | bool | None = None,
) -> LRCurve:
    """Train ``model`` while the rate rises from ``min_lr`` to ``max_lr``, and record the loss.

    Afterwards the model, its buffers, plain attributes, gradients and train/eval flags, the loss if it has modules, the
    optimizer, the scaler, the order of the loaders' next batches (see ``order_restored``) and all random states are
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
            (then submodules in eval mode stay there). Batches are moved to its device.
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
        accumulate: batches for one update; the loss is their mean.
        autocast: torch.float16 or torch.bfloat16 for the forward pass.
        scaler: a GradScaler; an update that it skips is tried again at the same rate, with the next batch.
        clip_norm: the largest norm of the gradients.
        stop_factor: see ``divergence``; a sweep stops where the loss has diverged or is not finite.
        snapshot_device: where the copy of parameters, buffers and optimizer state is kept meanwhile, for example
            "cpu"; None: where they are, which takes their size in memory once more.
        graph: "auto": on a CUDA device the steps are replays of a CUDA graph where that can be, with the same results;
            see ``clrfast.training.TrainStep``. False: never.
        group: the ranks that make this call together. "auto": all of the default group, where torch.distributed is
            initialised. A process group: its ranks. None: this process alone; models whose ranks wait for each other
            are refused then.
        progress: ``progress(done, total, {"lr": ..., "loss": ...})``, called about every 10 steps and at the end; True
            for a bar, if tqdm is installed. On several ranks only the first one tells.
    Returns:
        The curve; ``loss[i]`` is the loss after the update with ``lr[i]``, so each sweep uses one batch more than it
        makes updates.
    Raises:
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
    with ranks_of(group).alike() as ranks:
        plan = plan_ramps(min_lr, max_lr, steps, spacing, repeats)
        require_divergence_limits(0.0, stop_factor)
        for name, given in (("metric", metric), ("val_every", val_every)):
            if val_loader is None and given is not None:
                raise ValueError(
                    f"{name}: got {given!r} and no val_loader; give the held-out batches too, or leave it out"
                )
        bench = Bench(
            model,
            loss_fn,
            loader,
            compute_loss=compute_loss,
            optimizer=optimizer,
            accumulate=accumulate,
            autocast=autocast,
            scaler=scaler,
            clip_norm=clip_norm,
            snapshot_device=snapshot_device,
            graph=graph,
            ranks=ranks,
        )
        if ranks.count == 1:
            require_alone(model)
        ranks.require_same(
            "arguments",
            **ramp,
            max_lr=max_lr,
            val_every=val_every,
            accumulate=accumulate,
            clip_norm=clip_norm,
            autocast=str(autocast),
            scaler=scaler is not None,
            val_loader=val_loader is not None,
        )
        with showing(ranks.only_first(progress), "range test") as show, bench.at_work(val_loader) as batches:
            held_out = None
            if val_loader is not None:
                steps_each, own = plan.total_steps // repeats, loss_fn is None
                held_out = Validation(val_loader, metric, steps_each, val_every, custom_batches=own, ranks=ranks)
            run = partial(bench.run, batches=batches, validation=held_out, progress=show)
            curves = measure_curves(plan, run, stop_factor)
    name = "" if held_out is None else held_out.metric_name
    first, *others = (replace(curve, metric_name=name, momentum=bench.momentum) for curve in curves)
    return replace(first, repeats=tuple(others), _range_test=partial(range_test, **ramp))
