"""Short trials: 1cycles at a few rates around the range test's suggestion, judged on validation batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .._checks import is_whole
from .._distributed import GroupOption, resolve_group
from .._progress import Progress, show_progress
from ..schedules import one_cycle
from ..tasks import Task
from ..training import StepOptions
from ..training._step_options import STEP_OPTIONS, resolve_options
from ..training._task_argument import resolve_task
from ._curve import LRCurve
from ._experiment import Experiment
from ._range_test import RampKeywords, range_test
from ._smoothing import Floats
from ._suggestion import NoSuggestionError, Suggestion
from ._validation import MIN_VALIDATIONS, Validation, average_over_ranks

if TYPE_CHECKING:
    from typing_extensions import Unpack

TRIAL_STEPS, N_TRIALS, RATE_FACTOR = 80, 6, 2.0
"""Number of updates of each trial, number of trials, and factor between neighbouring rates. Range test and trials
together take at most 600 training batches."""

TOLERANCE_FRAC = 0.1
"""Maximum excess of a good rate's loss over the best loss, as a fraction of the best trial's improvement over the
untrained model."""

LONGER_RUN_DIVISOR = 1.2
"""Divisor of the trials' best rate, because a longer training needs a lower rate. Chosen on the development tasks of
benchmarks/finder_quality."""

MAX_LR_MULTIPLIER = 1.2
"""Maximum suggestion of the trials, as a multiple of the range test's suggestion: a rate at which a short run is stable
may be too high for a longer one."""

HELD_OUT_FRAC = 0.15
"""Fraction of the batches of a short loader that are held out for validation."""


@dataclass(frozen=True, eq=False)
class Trials:
    """The results of short 1cycles.

    Attributes:
        lr: float64 ``[n]``, ascending: the highest rate of each trial.
        loss: float64 ``[n]``: the validation loss after each trial; inf if it diverged.
        initial_loss: the validation loss before training.
        curve: the curve of the range test before the trials.
    """

    lr: Floats
    loss: Floats
    initial_loss: float
    curve: LRCurve

    def suggest(self) -> Suggestion:
        """Suggest the middle, in log lr, of the rates that are as good as the best, lowered for a longer training.

        A rate is good where ``loss <= best + 0.1 * (initial_loss - best)``. Between two trials the loss is interpolated
        linearly in log lr. Half way to a trial that diverged, the loss is taken to diverge. The middle is divided by
        1.2 for a longer training, and is at most 1.2 times the suggestion of the range test.

        Raises:
            NoSuggestionError: no trial has a lower loss than the untrained model.
        """
        best = int(self.loss.argmin())
        if not self.loss[best] < self.initial_loss:
            raise NoSuggestionError(
                f"none of {len(self.lr)} short runs, at {self.lr[0]:.3g} to {self.lr[-1]:.3g}, ended with a lower "
                f"held-out loss than the {self.initial_loss:.4g} before them: take more steps, or look at the data"
            )
        limit = float(self.loss[best] + TOLERANCE_FRAC * (self.initial_loss - self.loss[best]))
        low, high = (self._good_until(best, side, limit) for side in (-1, 1))
        range_test_suggestion = self.curve.suggest()
        middle, most = math.sqrt(low * high) / LONGER_RUN_DIVISOR, MAX_LR_MULTIPLIER * range_test_suggestion.max_lr
        reason = (
            f"short 1cycles were best at {self.lr[best]:.3g} (held-out loss {self.loss[best]:.4g}) and as good from "
            f"{low:.3g} to {high:.3g}; their middle, divided by {LONGER_RUN_DIVISOR} for a longer run"
        )
        if middle > most:
            reason += f", would be {middle:.3g}, and {MAX_LR_MULTIPLIER} times the range test's suggestion is the most"
        max_lr = min(middle, most)
        base_lr = min(range_test_suggestion.base_lr, max_lr / 4)
        low, high = (rate / LONGER_RUN_DIVISOR for rate in (low, high))
        return Suggestion(max_lr, base_lr, min(low, max_lr), max(high, max_lr), "trials", reason)

    def _good_until(self, best: int, side: int, limit: float) -> float:
        """Find the rate below (side -1) or above (1) the best trial at which the loss exceeds the limit."""
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
    """Run a range test, then short 1cycles around its suggestion, and validate after each of them.

    Each trial starts from the model as it is now. Afterwards everything is as before, as after ``range_test``. Three
    trials lie around the suggestion, a factor of 2 apart. Each further trial is on the side on which the best one has
    fewer neighbours.

    Args:
        model, loss_fn, loader, compute_loss: as for ``range_test``. The validation data of a ``Task`` are used if
            ``val_loader`` is None.
        val_loader: validation batches; the first ones are used, one for every ten updates of a trial. None: the same
            number of batches of ``loader`` is held out. A long loader continues from trial to trial, so a later trial
            may train once on some of these samples. A loader with fewer batches than validation and one trial need is
            kept in memory, and 15 % of it is held out. A loader of a single batch is validated on that batch.
        trial_steps: number of updates of each trial, at least 10.
        n_trials: number of trials, at least 3.
        group, progress: as for ``range_test``. Several ranks make the trials together, and the validation loss is the
            mean over their batches.
        options: a ``StepOptions``, or its fields as keywords.
        keywords: further arguments of ``range_test``. ``steps``, ``repeats`` and other arguments of the ramp do not
            affect the trials.
    Returns:
        The trials; ``suggest()`` returns the rate.
    Raises:
        NoSuggestionError: the range test has no valid answer.
        TypeError, ValueError, RankError: as for ``range_test``.
    """
    with resolve_group(group).end_together() as ranks:
        _require_trials(trial_steps, n_trials, keywords)
        options = resolve_options(options, keywords, "trial_cycles", RampKeywords.__optional_keys__)
        ramp: Any = {name: value for name, value in keywords.items() if name not in STEP_OPTIONS}
        task = resolve_task(model, loss_fn, loader, compute_loss, val_loader)
        optimizer = keywords.get("optimizer")
        ranks.require_same("arguments", trial_steps=trial_steps, n_trials=n_trials)
        with show_progress(ranks.progress_on_first(progress), "short runs") as show:
            counted = _ProgressBeforeTrials(show, n_trials * trial_steps)
            curve = range_test(task, group=group, progress=counted, options=options, **ramp)
            middle_lr = curve.suggest().max_lr
            experiment = Experiment(task, options, optimizer=optimizer, ranks=ranks)
            with experiment.batches(task.val_loader) as batches:
                held_out, batches = _hold_out(batches, task, trial_steps, options.accumulate)
                validation = Validation(
                    held_out, None, trial_steps, trial_steps, custom_batches=task.loss_fn is None, ranks=ranks
                )

                def loss_after(max_lr: float, n_before: int) -> float:
                    schedule = one_cycle(max_lr, trial_steps)  # its momentum cycles against the rate
                    if optimizer is not None:  # the user's choice of a momentum is kept
                        schedule = one_cycle(max_lr, trial_steps, momentum=None)
                    record = experiment.run(
                        schedule,
                        batches=batches,
                        stop_factor=math.inf,
                        validation=validation,
                        progress=show,
                        done=counted.steps + n_before * trial_steps,
                        total=counted.steps + n_trials * trial_steps,
                    )
                    return math.inf if record.diverged else float(record.validations[trial_steps])

                losses = _search(loss_after, middle_lr, n_trials)
                with experiment.training() as step:
                    initial_loss = float(average_over_ranks(ranks, validation.total(step)))
    places = sorted(losses)
    rates = middle_lr * RATE_FACTOR ** np.array(places, dtype=np.float64)
    return Trials(rates, np.array([losses[place] for place in places]), initial_loss, curve)


class _ProgressBeforeTrials:
    """The progress of the range test, whose total includes the trials after it.

    Attributes:
        steps: number of updates of the range test.
    """

    def __init__(self, show: Progress | None, trial_steps: int):
        self._show, self._trial_steps, self.steps = show, trial_steps, 0

    def __call__(self, done: int, total: int, shown: dict[str, float]) -> None:
        self.steps = total
        if self._show is not None:
            self._show(done, total + self._trial_steps, shown)


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


def _search(loss_after: Callable[[float, int], float], middle_lr: float, n_trials: int) -> dict[int, float]:
    """Run ``n_trials`` trials; return their losses by their places, which count factors from ``middle_lr``.

    Args:
        loss_after: the validation loss after a trial at a rate; gets the number of trials before it as well.
    """
    losses: dict[int, float] = {}
    while len(losses) < n_trials:
        place = _next_place(losses)
        loss = loss_after(middle_lr * RATE_FACTOR**place, len(losses))
        losses[place] = loss if math.isfinite(loss) else math.inf
    return losses


def _next_place(losses: dict[int, float]) -> int:
    """Choose the place of the next trial: first around the middle, then where the best has fewer neighbours."""
    for place in (0, -1, 1):
        if place not in losses:
            return place
    best = min(losses, key=lambda place: losses[place])
    return max(losses) + 1 if max(losses) - best < best - min(losses) else min(losses) - 1


def _hold_out(
    batches: Iterator[Any], task: Task, trial_steps: int, accumulate: int
) -> tuple[Iterable[Any], Iterator[Any]]:
    """Return validation batches, and the batches to train on."""
    if task.val_loader is not None:
        return task.val_loader, batches
    loader: Any = task.train_loader
    n_held = trial_steps // MIN_VALIDATIONS
    n_batches: float
    try:
        n_batches = len(loader)
    except TypeError:  # a loader without a length counts as long
        n_batches = math.inf
    if n_batches >= n_held + (trial_steps + 1) * accumulate:
        # The first trial continues after these batches. A later trial trains on each of their samples at most once.
        return list(islice(batches, n_held)), batches
    one_pass = list(loader)
    if len(one_pass) == 1:  # all data are in one batch: none can be held out
        return one_pass, cycle(one_pass)
    n_held = max(1, min(n_held, round(HELD_OUT_FRAC * len(one_pass))))
    return one_pass[:n_held], cycle(one_pass[n_held:])
