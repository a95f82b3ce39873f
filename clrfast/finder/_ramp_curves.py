"""The curves of a range test: one for each ramp, or a coarse ramp combined with each fine one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..schedules import Schedule
from ._curve import LRCurve
from ._measured_curve import StopReason
from ._probes import Probes
from ._ramp_plan import FINE_RANGE, FINE_STEPS, RampPlan, make_fine_ramp
from ._scheduled_run import RunRecord, compute_rates
from ._smoothing import Floats
from ._suggestion import NoSuggestionError
from ._suggestion_rules import MIN_POINTS, REBOUND_FRAC, find_rebounds
from ._validation import align_with_updates

COARSE_STOP_MULTIPLIER = 4
"""Multiplier of the divergence threshold in the coarse ramp, whose large steps of the rate alone can lift a loss above
the usual threshold."""

REBOUND_MULTIPLIER = 6.0
"""Centre of the fine ramp if the coarse ramp does not diverge, as a multiple of the rate at which its loss rebounds."""


def measure_curves(
    plan: RampPlan, run: Callable[..., RunRecord], stop_factor: float, total: int, probes: Probes | None = None
) -> list[LRCurve]:
    """Train along the ramps of ``plan``, and return one curve per repeat.

    All ramps together make at most ``plan.total_steps`` updates. A fine ramp that is repeated is shortened for that.

    Args:
        run: ``run(ramp, stop_factor=..., done=..., total=...)`` trains along one ramp from the initial weights.
        stop_factor: see ``find_divergence``; > 1.
        total: maximum number of updates of the whole call, with those after the ramps.
        probes: measured during all ramps but the coarse one.
    Raises:
        ValueError: the first loss is not finite.
    """
    coarse, ramp, max_lr, update_steps = None, plan.single, math.inf, 0

    def measure(ramp: Schedule, **options: Any) -> LRCurve:
        nonlocal update_steps
        record = run(ramp, total=total, **options)
        update_steps += record.update_steps
        return _curve(ramp, record)

    if plan.coarse is not None:
        stop = 1 + COARSE_STOP_MULTIPLIER * (stop_factor - 1)
        coarse = measure(plan.coarse, stop_factor=stop, done=0)
        max_lr = float(compute_rates(plan.coarse, plan.coarse.total_steps or 0)[-1])
        ramp = make_fine_ramp(_fine_centre(coarse, max_lr), max_lr)
    curves = []
    for repeat in range(plan.repeats):
        end = plan.total_steps - (plan.repeats - repeat - 1) * plan.steps_each
        options = {"stop_factor": stop_factor, "done": end - plan.steps_each, "probes": probes}
        curve = measure(ramp, **options)
        if coarse is not None and curve.stopped != "completed" and len(curve.lr) < MIN_POINTS:
            # The coarse ramp, with its higher threshold, continued too far above the edge.
            ramp = make_fine_ramp(float(curve.lr[-1]), max_lr, min(FINE_STEPS, end - update_steps))
            curve = measure(ramp, **options)
        curves.append(curve if coarse is None else _combined(coarse, curve))
    return [replace(curve, stop_reason=_stop_reason(curve)) for curve in curves]


def _fine_centre(coarse: LRCurve, max_lr: float) -> float:
    """Choose the rate around which ``FINE_RANGE`` lies: the coarse ramp's divergence, or an estimate of it."""
    if coarse.stopped != "completed":
        return float(coarse.lr[-1])
    highest = max_lr / FINE_RANGE[1]
    rebound = coarse.divergence_lr or _last_rebound_lr(coarse)
    return highest if rebound is None else min(REBOUND_MULTIPLIER * rebound, highest)


def _last_rebound_lr(curve: LRCurve) -> float | None:
    """Find the rate of the last rebound, from which a part of the loss's fall stays lost; None without one."""
    try:
        _, last = find_rebounds(curve.lr, curve.smoothed)
    except NoSuggestionError:
        return None
    return None if last is None else float(curve.lr[last])


def _combined(coarse: LRCurve, fine: LRCurve) -> LRCurve:
    """Combine the points of the fine ramp with those of the coarse ramp below them, and explain the end."""
    if fine.stopped != "completed" or coarse.stopped == "completed":
        return _joined(coarse, fine, len(fine.lr))
    fitted = fine.fitted_from
    if fitted is None:
        reason = (
            f"reached {fine.lr[-1]:.3g} without diverging, where a first, coarse ramp had diverged; steps=100 "
            "runs a single ramp over all rates"
        )
        return replace(_joined(coarse, fine, len(fine.lr)), stop_reason=reason)
    reason = (
        f"fitted the data at {fine.lr[fitted]:.3g}, where its gradients vanish; above the rates at which a first, "
        f"coarse ramp was stable, the points are those of that ramp: {coarse.stop_reason}"
    )
    n = int(np.searchsorted(fine.lr, _unstable_lr(coarse, fine.lr[fitted])))
    return replace(_joined(coarse, fine, n), stopped=coarse.stopped, stop_reason=reason)


def _unstable_lr(coarse: LRCurve, fitted_lr: float) -> float:
    """Find the first rate above ``fitted_lr`` at which the coarse ramp's smoothed loss is high again after its fall."""
    high = ~(coarse.smoothed <= REBOUND_FRAC * coarse.initial_loss)
    had_fallen = np.maximum.accumulate(~high)
    return float(coarse.lr[high & had_fallen & (coarse.lr > fitted_lr)].min(initial=coarse.lr[-1]))


def _joined(coarse: LRCurve, fine: LRCurve, n: int) -> LRCurve:
    """Join the first ``n`` points of the fine ramp with the coarse points below them.

    If the fine ramp has more than ``n`` points, the coarse points above the first n replace the rest.
    """
    end = fine.lr[n - 1] * (1 + 1e-9) if n < len(fine.lr) else math.inf
    below, above = coarse.lr < fine.lr[0] * (1 - 1e-9), coarse.lr > end

    def joined(of_coarse: Floats, of_fine: Floats) -> Floats:
        return np.concatenate((of_coarse[below], of_fine[:n], of_coarse[above]))

    metric = probe_loss = None
    if coarse.metric is not None and fine.metric is not None:
        metric = joined(coarse.metric, fine.metric)
    if fine.probe_loss is not None:
        probe_loss = joined(np.full(len(coarse.lr), math.nan), fine.probe_loss)
    return replace(
        fine,
        lr=joined(coarse.lr, fine.lr),
        loss=joined(coarse.loss, fine.loss),
        initial_loss=coarse.initial_loss,
        metric=metric,
        probe_loss=probe_loss,
    )


def _curve(ramp: Schedule, record: RunRecord) -> LRCurve:
    """Make the curve of a run along ``ramp``."""
    initial, *after = record.losses.tolist()
    lr = compute_rates(ramp, len(after))
    kind: StopReason
    if not math.isfinite(initial):
        raise ValueError(
            f"loader, loss: the very first loss is {initial}, before any update; check the data and the loss function, "
            "also any state that it keeps between calls"
        )
    if not record.diverged:
        kind = "completed"
        reason = (
            f"reached the highest rate, {lr[-1]:.3g}, without diverging; curve.extended({10 * lr[-1]:.2g}, model, "
            "loss_fn, loader) continues to higher rates"
        )
    elif math.isfinite(after[-1]):
        kind, reason = "diverged", f"stopped at {lr[-1]:.3g}, where the loss had diverged"
    else:
        kind, reason = "non-finite", f"the loss became {after[-1]} at {lr[-1]:.3g}"
    if record.diverged and len(after) < MIN_POINTS:
        reason += ", within the first points; start lower (min_lr)"
    metric, probe_loss = (
        align_with_updates(measured, len(after)) if measured else None
        for measured in (record.validations, record.probe_losses)
    )
    return LRCurve(lr, np.array(after), initial, kind, reason, metric, probe_loss=probe_loss)


def _stop_reason(curve: LRCurve) -> str:
    """Add the rate of divergence that a plot marks to the reason of ``curve``."""
    at, end = (None if lr is None else f"{lr:.3g}" for lr in (curve.divergence_lr, curve.lr[-1]))
    if at is None or at == end:
        return curve.stop_reason
    if curve.stopped == "completed":
        return f"diverged at {at}; the ramp went on to its highest rate, {end}"
    return f"diverged at {at}; {curve.stop_reason}"
