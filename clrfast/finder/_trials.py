"""Short 1cycles at a few rates: slower than a sweep, and nearer to what the training that follows will do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .._checks import is_whole
from .._progress import Progress, show_progress
from .._ranks import GroupOption, resolve_group
from ..schedules import one_cycle
from ..tasks import Task
from ..training import StepOptions
from ..training._step_options import STEP_OPTIONS, resolve_options
from ..training._task_argument import resolve_task
from ._curve import LRCurve
from ._experiment import Experiment
from ._noise import Floats
from ._range_test import RampKeywords, range_test
from ._suggestion import NoSuggestionError, Suggestion
from ._validation import MIN_VALIDATIONS, Validation, mean_over_ranks

if TYPE_CHECKING:
    from typing_extensions import Unpack

TRIAL_STEPS, N_TRIALS, FACTOR = 80, 6, 2.0
"""Length, number and spacing of the trials: with the sweep before them at most 600 batches in training."""

TOLERANCE = 0.1
"""Rates are as good as the best whose loss has come this near to its, as a part of the fall from the untrained loss."""

LONGER_FRACTION = 1.2
"""A longer run wants a slightly lower rate than a trial. Chosen on the development tasks of
benchmarks/finder_quality."""

MOST_ABOVE = 1.2
"""So far above the sweep's suggestion trials are believed: what a short run bears, a longer one may not."""


HELD_FRAC = 0.15
"""Of the batches of a short loader."""


@dataclass(frozen=True, eq=False)
class Trials:
    """What short 1cycles ended with.

    Attributes:
        lr: float64 ``[n]``, ascending: their highest rates.
        loss: float64 ``[n]``, on held-out batches after them; inf for one that diverged.
        initial_loss: on these batches, before training.
        curve: the range test that told where to try.
    """

    lr: Floats
    loss: Floats
    initial_loss: float
    curve: LRCurve

    def suggest(self) -> Suggestion:
        """The middle, in log lr, of the rates that are as good as the best, divided by 1.2 for a longer run; at most
        1.2 times the sweep's suggestion, because a longer run bears less.

            good where loss <= best + 0.1 * (initial_loss - best); between two trials the loss is taken as linear in
            log lr, and half way to a trial that diverged it is taken to diverge

        Raises:
            NoSuggestionError: no trial has a lower loss than the untrained model.
        """
        best = int(self.loss.argmin())
        if not self.loss[best] < self.initial_loss:
            raise NoSuggestionError(
                f"none of {len(self.lr)} short runs, at {self.lr[0]:.3g} to {self.lr[-1]:.3g}, ended with a lower "
                f"held-out loss than the {self.initial_loss:.4g} before them: take more steps, or look at the data"
            )
        limit = float(self.loss[best] + TOLERANCE * (self.initial_loss - self.loss[best]))
        low, high = (self._good_until(best, side, limit) for side in (-1, 1))
        swept = self.curve.suggest()
        middle, most = math.sqrt(low * high) / LONGER_FRACTION, MOST_ABOVE * swept.max_lr
        reason = (
            f"short 1cycles were best at {self.lr[best]:.3g} (held-out loss {self.loss[best]:.4g}) and as good from "
            f"{low:.3g} to {high:.3g}; their middle, divided by {LONGER_FRACTION} for a longer run"
        )
        if middle > most:
            reason += f", would be {middle:.3g}, and {MOST_ABOVE} times the sweep's suggestion is the most"
        max_lr = min(middle, most)
        base_lr = min(swept.base_lr, max_lr / 4)
        low, high = (rate / LONGER_FRACTION for rate in (low, high))
        return Suggestion(max_lr, base_lr, min(low, max_lr), max(high, max_lr), "trials", reason)

    def _good_until(self, best: int, side: int, limit: float) -> float:
        """The rate below (side -1) or above (1) the best trial at which the loss passes the limit."""
        inside = best
        while 0 <= inside + side < len(self.lr) and self.loss[inside + side] <= limit:
            inside += side
        outside = inside + side
        if not 0 <= outside < len(self.lr):
            return float(self.lr[inside])
        rise = self.loss[outside] - self.loss[inside]
        share = (limit - self.loss[inside]) / rise if math.isfinite(rise) else 0.5
        return float(self.lr[inside] * (self.lr[outside] / self.lr[inside]) ** share)


def trial_cycles(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    compute_loss: Callable[[nn.Module, Any], Tensor] | None = None,
    val_loader: Iterable[Any] | None = None,
    trial_steps: int = TRIAL_STEPS,
    n_trials: int = N_TRIALS,
    group: GroupOption = "auto",
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **keywords: Unpack[RampKeywords],
) -> Trials:
    """The thorough finder: a range test, then short 1cycles around its suggestion, judged on held-out batches.

    Each run starts from the model as it is now; afterwards all is as before, as after ``range_test``. Three trials
    lie around the suggestion, a factor of 2 apart; each further one goes to the side on which the best of them has
    the fewer neighbours.

    Args:
        model, loss_fn, loader, compute_loss: as of ``range_test``, or a ``Task``, whose validation data are used where
            ``val_loader`` is None.
        val_loader: what the trials are judged on: its first batches, a tenth as many as a trial has steps. None: as
            many batches of the loader. No trial trains on them; but passes over a long loader go on from trial to
            trial, so that a later one may meet some of their samples once. A loader with fewer batches than that and
            a trial together take is kept in memory meanwhile, and 15 % of it held out; a loader of a single batch is
            judged on that.
        trial_steps: updates of each trial, at least 10.
        n_trials: at least 3.
        group, progress: as of ``range_test``. On several ranks the trials, too, are made together, and judged by the
            mean over what all ranks hold out.
        options: a ``StepOptions``; or its fields as keywords.
        keywords: further arguments of ``range_test``; ``steps``, ``repeats`` and the like are for that alone.
    Returns:
        The trials; ``suggest()`` tells the rate.
    Raises:
        NoSuggestionError: the range test has no valid answer.
        TypeError, ValueError, RankError: as of ``range_test``.
    """
    with resolve_group(group).end_together() as ranks:
        _require_trials(trial_steps, n_trials, keywords)
        options = resolve_options(options, keywords, "trial_cycles", RampKeywords.__optional_keys__)
        of_ramp: Any = {name: value for name, value in keywords.items() if name not in STEP_OPTIONS}
        task = resolve_task(model, loss_fn, loader, compute_loss, val_loader)
        val_loader, optimizer = task.val_loader, keywords.get("optimizer")
        ranks.require_same("arguments", trial_steps=trial_steps, n_trials=n_trials)
        swept, trying = 0, n_trials * trial_steps
        with show_progress(ranks.progress_on_first(progress), "short runs") as show:

            def of_sweep(done: int, total: int, shown: dict[str, float]) -> None:
                nonlocal swept
                swept = total
                if show is not None:
                    show(done, total + trying, shown)

            curve = range_test(task, group=group, progress=of_sweep, options=options, **of_ramp)
            around = curve.suggest().max_lr
            experiment = Experiment(task, options, optimizer=optimizer, ranks=ranks)
            with experiment.batches(val_loader) as batches:
                held, batches = _split(batches, task.train_loader, val_loader, trial_steps, options.accumulate)
                own = task.loss_fn is None
                held_out = Validation(held, None, trial_steps, trial_steps, custom_batches=own, ranks=ranks)
                run = partial(experiment.run, batches=batches, stop_factor=math.inf, validation=held_out, progress=show)
                losses: dict[int, float] = {}
                while len(losses) < n_trials:
                    place = _next(losses)
                    max_lr = around * FACTOR**place
                    # A momentum of the user's own choice stays; ours cycles against the rate, as it will in training.
                    own = optimizer is not None
                    schedule = one_cycle(max_lr, trial_steps, momentum=None) if own else one_cycle(max_lr, trial_steps)
                    recorded = run(schedule, done=swept + len(losses) * trial_steps, total=swept + trying)
                    loss = math.inf if recorded.diverged else float(recorded.validations[trial_steps])
                    losses[place] = loss if math.isfinite(loss) else math.inf
                with experiment.training() as step:
                    initial_loss = float(mean_over_ranks(ranks, held_out.total(step)))
    places = sorted(losses)
    return Trials(
        around * FACTOR ** np.array(places, dtype=np.float64),
        np.array([losses[place] for place in places]),
        initial_loss,
        curve,
    )


def _require_trials(trial_steps: int, n_trials: int, keywords: Mapping[str, Any]) -> None:
    if not is_whole(trial_steps) or trial_steps < 10:
        raise ValueError(f"trial_steps: got {trial_steps!r}; give a whole number of updates, at least 10")
    if not is_whole(n_trials) or n_trials < 3:
        raise ValueError(f"n_trials: got {n_trials!r}; give a whole number of runs, at least 3")
    for name in ("metric", "val_every"):
        if keywords.get(name) is not None:
            raise ValueError(
                f"{name}: got {keywords[name]!r}; trials are judged by the loss on val_loader, after their last step; "
                "leave it out"
            )


def _next(losses: dict[int, float]) -> int:
    """The place of the next trial, in factors from the middle."""
    for place in (0, -1, 1):
        if place not in losses:
            return place
    best = min(losses, key=lambda place: losses[place])
    return max(losses) + 1 if max(losses) - best < best - min(losses) else min(losses) - 1


def _split(
    batches: Iterator[Any], loader: Any, val_loader: Iterable[Any] | None, trial_steps: int, accumulate: int
) -> tuple[Iterable[Any], Iterator[Any]]:
    """Held-out batches, and the others to train on."""
    if val_loader is not None:
        return val_loader, batches
    n_held = trial_steps // MIN_VALIDATIONS
    n_batches: float
    try:
        n_batches = len(loader)
    except TypeError:  # it has no length, so it is taken to be long
        n_batches = math.inf
    if n_batches >= n_held + (trial_steps + 1) * accumulate:
        # The first trial goes on in the pass that they come from; a later one meets a sample of theirs once at most.
        return list(islice(batches, n_held)), batches
    one_pass = list(loader)
    if len(one_pass) == 1:  # the whole data in one batch: there is nothing to hold out
        return one_pass, cycle(one_pass)
    n_held = max(1, min(n_held, round(HELD_FRAC * len(one_pass))))
    return one_pass[:n_held], cycle(one_pass[n_held:])
