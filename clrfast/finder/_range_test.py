"""The learning-rate range test: train for a while with a rising rate, and record the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .._checks import is_whole
from .._progress import Progress, showing
from .._ranks import GroupOption, ranks_of
from ..optim._control import require_divergence_limits
from ..schedules import Schedule, lr_ramp
from ..schedules._policies import Spacing
from ..training._batches import ComputeLoss
from ..training._joined_optimizer import Optimizers
from ..training._sharded import require_alone
from ._curve import LRCurve, StopReason
from ._experiment import Bench
from ._metrics import Metric
from ._noise import Floats
from ._rules import MIN_POINTS, REBOUND_FRAC, rebound_indices
from ._scheduled_run import RunRecord, rates_of
from ._suggestion import NoSuggestionError
from ._validation import Validation, per_update

COARSE_STEPS, FINE_STEPS, PLAIN_STEPS = 38, 60, 98
"""Of ``steps="auto"``: together, with the loss after each sweep, the 100 batches of an ordinary test; fewer where the
loss diverges on the way, and more where it does not up to 10."""

USUAL_MAX_LR, LARGEST_MAX_LR = 10.0, 1e4
"""Where a sweep without ``max_lr`` ends; a coarse one goes on to the second until it diverges."""

COARSE_DECADES = 8
"""Powers of ten over which the coarse sweep takes its steps; others in proportion."""

ABOVE_EDGE = 6.0
"""A loss that climbs without end, but not to divergence, is swept to so many times the rate of that climb."""

FINE_RANGE = (1 / 500, 1.5)
"""The fine sweep's rates, as fractions of the one at which the coarse one diverged. A sweep that rises more slowly
measures the edge better, down to about 20 steps for each factor of ten; beyond that the model learns too much on
the way."""

COARSE_PATIENCE = 4
"""So many times further must the coarse sweep climb: its leaps of the rate alone can lift a loss above the limit."""


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
        plan = _planned(min_lr, max_lr, steps, spacing, repeats)
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
                steps_each, own = plan.total // repeats, loss_fn is None
                held_out = Validation(val_loader, metric, steps_each, val_every, custom_batches=own, ranks=ranks)
            run = partial(bench.run, batches=batches, validation=held_out, progress=show)
            curves = _curves(plan, run, stop_factor)
    name = "" if held_out is None else held_out.metric_name
    first, *others = (
        replace(curve, metric_name=name, momentum=bench.momentum, stop_reason=_stop_reason(curve)) for curve in curves
    )
    return replace(first, repeats=tuple(others), _range_test=partial(range_test, **ramp))


@dataclass(frozen=True)
class _Plan:
    """The sweeps of a range test.

    Attributes:
        sweep: the only one, where there is no coarse one before it.
        coarse: the first one, where there is one.
        repeats: sweeps after the coarse one.
        total: steps of all of them.
    """

    sweep: Schedule
    coarse: Schedule | None
    repeats: int
    total: int


def _planned(min_lr: float, max_lr: float | None, steps: Any, spacing: Spacing, repeats: int) -> _Plan:
    steps = _checked_steps(steps)
    if not is_whole(repeats) or repeats < 1:
        raise ValueError(f"repeats: got {repeats!r}; give a whole number of sweeps, at least 1")
    if max_lr is None and isinstance(min_lr, float | int) and min_lr >= USUAL_MAX_LR:
        raise ValueError(
            f"min_lr: got {min_lr!r}, and max_lr is {USUAL_MAX_LR:g} where it is left out; give max_lr too"
        )
    usual_max_lr = USUAL_MAX_LR if max_lr is None else max_lr
    plain = PLAIN_STEPS if steps == "auto" else steps
    sweep = lr_ramp(min_lr, usual_max_lr, plain, spacing=spacing)
    if steps != "auto" or spacing != "exponential" or usual_max_lr / min_lr <= FINE_RANGE[1] / FINE_RANGE[0]:
        return _Plan(sweep, None, repeats, repeats * plain)
    top = LARGEST_MAX_LR if max_lr is None else max_lr
    coarse_steps = round(COARSE_STEPS * math.log10(top / min_lr) / COARSE_DECADES)
    return _Plan(sweep, lr_ramp(min_lr, top, coarse_steps), repeats, coarse_steps + repeats * FINE_STEPS)


def _curves(plan: _Plan, run: Callable[..., RunRecord], stop_factor: float) -> list[LRCurve]:
    if plan.coarse is not None:
        return _coarse_then_fine(run, plan.coarse, plan.repeats, stop_factor, plan.total)
    curves = []
    for repeat in range(plan.repeats):
        recorded = run(plan.sweep, stop_factor=stop_factor, done=repeat * plan.total // plan.repeats, total=plan.total)
        curves.append(_curve(plan.sweep, recorded))
    return curves


def _checked_steps(steps: Any) -> int | Literal["auto"]:
    if isinstance(steps, str) and steps == "auto":
        return "auto"
    if not is_whole(steps) or steps < 2:
        raise ValueError(f"steps: got {steps!r}; give a whole number of updates, at least 2, or 'auto'")
    return int(steps)


def _coarse_then_fine(
    run: Callable[..., RunRecord], coarse_sweep: Schedule, repeats: int, stop_factor: float, total: int
) -> list[LRCurve]:
    """Sweeps where it matters, each with the coarse one's points below them."""
    assert coarse_sweep.total_steps is not None
    max_lr = float(rates_of(coarse_sweep, coarse_sweep.total_steps)[-1])
    recorded = run(coarse_sweep, stop_factor=1 + COARSE_PATIENCE * (stop_factor - 1), done=0, total=total)
    coarse = _curve(coarse_sweep, recorded)
    low, high = FINE_RANGE
    if coarse.stopped != "completed":
        top = float(coarse.lr[-1])
    else:
        climb = coarse.divergence_lr or _collapse_lr(coarse)
        top = max_lr / high if climb is None else min(ABOVE_EDGE * climb, max_lr / high)
    fine_sweep = lr_ramp(top * low, min(top * high, max_lr), FINE_STEPS)
    curves = []
    for repeat in range(repeats):
        done = coarse_sweep.total_steps + repeat * FINE_STEPS
        fine = _curve(fine_sweep, run(fine_sweep, stop_factor=stop_factor, done=done, total=total))
        fitted = fine.fitted_from
        if fine.stopped != "completed" or coarse.stopped == "completed":
            curves.append(_joined(coarse, fine, len(fine.lr)))
        elif fitted is not None:
            reason = (
                f"fitted the data at {fine.lr[fitted]:.3g}, where its gradients vanish; above the rates that a first, "
                f"coarse sweep bore, the points are of that one: {coarse.stop_reason}"
            )
            n = int(np.searchsorted(fine.lr, _unborne_lr(coarse, fine.lr[fitted])))
            curves.append(replace(_joined(coarse, fine, n), stopped=coarse.stopped, stop_reason=reason))
        else:
            reason = (
                f"reached {fine.lr[-1]:.3g} without diverging, where a first, coarse sweep had diverged; steps=100 "
                "makes a single sweep over all rates"
            )
            curves.append(replace(_joined(coarse, fine, len(fine.lr)), stop_reason=reason))
    return curves


def _unborne_lr(coarse: LRCurve, fitted_lr: float) -> float:
    """The first rate above ``fitted_lr`` at which the coarse sweep's smoothed loss, fallen before, is high again."""
    high = ~(coarse.smoothed <= REBOUND_FRAC * coarse.initial_loss)
    had_fallen = np.maximum.accumulate(~high)
    return float(coarse.lr[high & had_fallen & (coarse.lr > fitted_lr)].min(initial=coarse.lr[-1]))


def _joined(coarse: LRCurve, fine: LRCurve, n: int) -> LRCurve:
    """The first ``n`` points of the fine sweep, with the coarse one's below them; above, too, if there are more."""
    end = fine.lr[n - 1] * (1 + 1e-9) if n < len(fine.lr) else math.inf
    below, above = coarse.lr < fine.lr[0] * (1 - 1e-9), coarse.lr > end

    def joined(of_coarse: Floats, of_fine: Floats) -> Floats:
        return np.concatenate((of_coarse[below], of_fine[:n], of_coarse[above]))

    metric = None
    if coarse.metric is not None and fine.metric is not None:
        metric = joined(coarse.metric, fine.metric)
    return replace(
        fine,
        lr=joined(coarse.lr, fine.lr),
        loss=joined(coarse.loss, fine.loss),
        initial_loss=coarse.initial_loss,
        metric=metric,
    )


def _collapse_lr(curve: LRCurve) -> float | None:
    """The rate from which on a part of the loss's fall is lost for good, short of divergence; None for none."""
    try:
        _, last = rebound_indices(curve.lr, curve.smoothed)
    except NoSuggestionError:
        return None
    return None if last is None else float(curve.lr[last])


def _stop_reason(curve: LRCurve) -> str:
    """``curve.stop_reason``, with the rate at which a picture shows the divergence."""
    at, end = (None if lr is None else f"{lr:.3g}" for lr in (curve.divergence_lr, curve.lr[-1]))
    if at is None or at == end:
        return curve.stop_reason
    if curve.stopped == "completed":
        return f"diverged at {at}, and reached the highest rate, {end}, short of the limit that ends a sweep"
    return f"diverged at {at}; {curve.stop_reason}"


def _curve(sweep: Schedule, recorded: RunRecord) -> LRCurve:
    """The record of a pass over ``sweep``."""
    initial, *after = recorded.losses.tolist()
    lr = rates_of(sweep, len(after))
    kind: StopReason
    if not math.isfinite(initial):
        raise ValueError(
            f"loader, loss: the very first loss is {initial}, before any update; check the data and the loss function"
        )
    if not recorded.diverged:
        kind = "completed"
        reason = (
            f"reached the highest rate, {lr[-1]:.3g}, without diverging; curve.extended({10 * lr[-1]:.2g}, model, "
            "loss_fn, loader) goes on higher"
        )
    elif math.isfinite(after[-1]):
        kind, reason = "diverged", f"stopped at {lr[-1]:.3g}, where the loss had diverged"
    else:
        kind, reason = "non-finite", f"the loss became {after[-1]} at {lr[-1]:.3g}"
    if recorded.diverged and len(after) < MIN_POINTS:
        reason += ", within the first points; start lower (min_lr)"
    metric = per_update(recorded.validations, len(after)) if recorded.validations else None
    return LRCurve(lr, np.array(after), initial, kind, reason, metric)
