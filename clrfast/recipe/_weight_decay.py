"""``find_weight_decay``: a grid of trials, judged by their final validation loss, then a bisection of the exponent."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .._progress import Progress, show_progress
from ..finder._suggestion import NoSuggestionError
from ..schedules._policies import Momentum
from ..tasks import Task
from ..training import StepOptions
from ..training._losses import ComputeLoss
from ..training._step_options import StepKeywords
from ._arguments import checked_values, require_repeats, resolve_arguments
from ._deadline import OutOfTimeError, parse_deadline
from ._optimizers import OPTIMIZERS, OptimizerName, require_optimizer_name
from ._setting_trials import SettingSuggestion, SettingTrials
from ._shared_trials import Group, joined_ranks
from ._trial_runner import DEFAULT_REPEATS, DEFAULT_STEPS, TrialRunner
from ._trials import FinishedTrials, Repeats, SaveTrials

if TYPE_CHECKING:
    from typing_extensions import Unpack

GRID = (1e-3, 1e-4, 1e-5, 0.0)
"""Smith's grid for a task about which nothing is known."""

DEFAULT_WEIGHT_DECAY = 1e-4
"""Weight decay if none was measured or trials are inconclusive: in the middle of ``GRID``."""

MAX_NEIGHBOR_RATIO = 4.0
"""Ratio of neighbouring values above which they are bisected: 1e-3 and 1e-4 are, 1e-3 and 3e-4 are not."""

MAX_ROUNDS = 4
"""Maximum number of refinement rounds: enough to get from 1e-3 to 0.1 if the largest value stays as good as any."""

VALUES_PER_ROUND = 2
"""Maximum number of new values in a refinement round. The progress expects one such round."""


@dataclass(frozen=True, eq=False)
class WeightDecayTrials(SettingTrials):
    """The results of trials with several weight decays; see ``SettingTrials``.

    Attributes:
        values: float64 ``[k]``, ascending: the weight decays.
        optimizer: name of the optimizer.
    """

    optimizer: str = "sgd"

    def suggest(self) -> SettingSuggestion:
        """Return the best weight decay, or the default if trials are inconclusive: 1e-4 of SGD, 0.01 of AdamW.

        The cost of weight decay shows at once, but its benefit only when a training overfits. So trials in which no
        decay beats the smallest one do not show what a longer training needs. The suggestion is then the default, or
        the value nearest to it that is as good as the best.

        Raises:
            NoSuggestionError: the validation loss fell in no trial.
        """
        best, low, high, reason = self.best_range()
        chosen, least, most = (float(self.values[index]) for index in (best, low, high))
        if self.is_inconclusive:
            default = OPTIMIZERS[self.optimizer].scaled(DEFAULT_WEIGHT_DECAY)
            chosen = min(max(default, least), most)
            usual = "the usual value" if chosen == default else "the nearest to the usual one"
            reason += f"; so they do not tell what a longer training needs, and {chosen:g}, {usual}, is taken"
        elif low < high:
            reason += "; with less the loss is higher, so decay does gain something, and the best is taken"
        if chosen == self.values[-1]:
            reason += f"; {chosen:g} is the largest that was tried, and a larger one may be better"
        return SettingSuggestion(chosen, least, most, reason)

    @property
    def is_inconclusive(self) -> bool:
        """Whether the smallest value, among others, is as good as the best."""
        _, low, high, _ = self.best_range()
        return low == 0 < high

    @property
    def refinement_center(self) -> float:
        """The value to refine around: the best, or the largest that is as good if trials are inconclusive."""
        best, _, high, _ = self.best_range()
        return float(self.values[high if self.is_inconclusive else best])


def find_weight_decay(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any] | None = None,
    grid: Sequence[float] | None = None,
    optimizer: OptimizerName = "sgd",
    max_lr: float | None = None,
    momentum: Momentum = (0.95, 0.85),
    steps: int = DEFAULT_STEPS,
    repeats: int = DEFAULT_REPEATS,
    refine: bool = True,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    group: Group = None,
    finished: FinishedTrials | None = None,
    save: SaveTrials | None = None,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> WeightDecayTrials:
    """Run short 1cycles with several weight decays, and judge them by the validation loss after them.

    All trials start from the current model with the same random numbers and batches. Afterwards everything is
    restored, as after ``range_test``. Weight decay applies to all trainable parameters. Its effect grows with
    ``lr * weight_decay * steps``, so a trial much shorter than a tenth of the training shows little.

    Smith's advice for the grid: a shallow network, or few and simple data, need more decay, ``(1e-2, 1e-3, 1e-4)``; a
    deep network on complex data needs less, ``(1e-4, 1e-5, 1e-6, 0)``. Cycling the weight decay does not help. The rate
    regularises too, so the range test may suggest another rate with another weight decay.

    Args:
        model, loss_fn, loader, compute_loss: see ``range_test``; ``model`` may be a ``Task``. The loader can be
            iterated repeatedly.
        val_loader: samples that are not in ``loader``; None: the task's. The first batches are used, at most one for
            every ten steps of a trial. The last validation loss of a trial counts; the lowest one would hide
            overfitting, as early stopping does.
        grid: weight decays to try, >= 0, at least 2. None: 1e-3, 1e-4, 1e-5 and 0 for SGD, and 100 times as much for
            AdamW.
        optimizer: name of the optimizer of all runs: "sgd" or "adamw". The momentum is beta1 of AdamW.
        max_lr: highest rate of the 1cycles, > 0; None: the suggestion of ``range_test``.
        momentum: (upper, lower) to cycle it against the rate, or a number.
        steps: length of each trial, >= 20.
        repeats: number of trials for each value, >= 2, each on the batches after those of the one before. They show
            the noise.
        refine: whether to bisect the exponent around the best value to one significant digit (around 1e-4 between 1e-3
            and 1e-5 also 3e-4 and 3e-5). If the largest value is as good as the best, refinement continues above it,
            for at most 4 rounds.
        max_steps: limit on the steps of all trials together, at which refinement ends; the grid is always tried. None:
            no limit.
        max_seconds: time limit, > 0: no trial starts that is expected to end after it, and values without trials are
            left out. None: no limit.
        group: a ``torch.distributed`` process group with gloo, whose ranks all make this call with the same model, data
            and random numbers. Each runs a part of the trials, and all return the same results. The models of the
            ranks train independently, so do not wrap them in DistributedDataParallel. None: this process runs all
            trials by itself.
        finished: trials of an earlier call with the same arguments, by ``(momentum, weight_decay, repeat)``; they do
            not run again.
        save: ``save(finished, started_steps)`` is called before trials start, with all finished ones and the steps of
            those that start. Only the first rank of a group calls it.
        progress: ``progress(done, total, shown)``; the total includes one round of refinement, and grows with more.
            True shows a bar with tqdm. Only the first rank of a group calls it.
        options, step_options: see ``range_test``.
    Returns:
        The results of all trials; ``suggest()`` returns the weight decay to train with.
    Raises:
        TypeError: a keyword is unknown.
        ValueError: an argument is wrong, the validation data are visibly in the training data, or the ranks differ in
            model or data.
        NoSuggestionError: ``max_lr`` is None, and the range test has no valid answer.
        OutOfTimeError: ``max_seconds`` was too short for two values.
        RankError: another rank of the group failed or has ended.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.4 and 5.
    """
    require_optimizer_name(optimizer)
    tried = default_grid(optimizer) if grid is None else grid
    values = checked_values(tried, name="grid", below=math.inf, example=GRID)
    require_repeats(repeats)
    deadline = parse_deadline(max_seconds)
    upcoming = VALUES_PER_ROUND if refine else 0
    with joined_ranks(group) as ranks, show_progress(ranks.progress_on_first(progress), "weight decay") as show:
        task, options = resolve_arguments(
            model, loss_fn, loader, compute_loss, val_loader, options, step_options, "find_weight_decay"
        )
        runner = TrialRunner(
            task,
            options,
            max_lr=max_lr,
            steps=steps,
            repeats=repeats,
            planned_settings=len(values) + upcoming,
            progress=show,
            ranks=ranks,
            deadline=deadline,
            finished=finished,
            save=save,
            optimizer=optimizer,
        )
        histories = dict(zip(values, runner.run([(momentum, x) for x in values], upcoming=upcoming), strict=False))
        if len(histories) < 2:
            raise OutOfTimeError(
                f"max_seconds: {max_seconds:.3g} sufficed for {len(histories)} of {len(values)} weight decays"
            )
        if refine:
            _refine(runner, histories, momentum, math.inf if max_steps is None else max_steps // (repeats * steps))
        runner.finish()
    return _results(histories, runner)


def default_grid(optimizer: str, grid: Sequence[float] = GRID) -> tuple[float, ...]:
    """Return the weight decays of ``grid`` for an optimizer."""
    return tuple(map(OPTIMIZERS[optimizer].scaled, grid))


def _refine(runner: TrialRunner, histories: dict[float, Repeats], momentum: Momentum, max_values: float) -> None:
    """Add the trials of refinement to ``histories``, up to ``max_values`` values in all."""
    for _ in range(MAX_ROUNDS):
        try:
            center = _results(histories, runner).refinement_center
        except NoSuggestionError:
            return
        new = refined_values(histories, center)
        if not new or len(histories) + len(new) > max_values:
            return
        results = runner.run([(momentum, value) for value in new])
        histories |= zip(new, results, strict=False)
        if len(results) < len(new):
            return


def refined_values(tried: Collection[float], center: float) -> list[float]:
    """Return the weight decays to try next, of the form 1e-n or 3e-n.

    They lie half way, in the exponent, between ``center`` and each neighbour that differs by more than a factor of 4.
    Past the ends of ``tried`` the neighbour is a factor of 10 away. There is no value between 0 and its neighbour.

    >>> refined_values([1e-3, 1e-4, 1e-5, 0], 1e-4)
    [3e-05, 0.0003]
    >>> refined_values([1e-3, 1e-4, 1e-5, 0], 1e-3)
    [0.0003, 0.003]
    >>> refined_values([1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 0], 1e-4)
    []
    """
    if center == 0:
        return []
    below = max((value for value in tried if value < center), default=center / 10)
    above = min((value for value in tried if value > center), default=center * 10)
    intervals = ((below, center), (center, above))
    return [_half_way(low, high) for low, high in intervals if 0 < low < high / MAX_NEIGHBOR_RATIO]


def _half_way(low: float, high: float) -> float:
    half_decades = round(math.log10(low) + math.log10(high))
    return float(f"{10 ** (half_decades / 2):.0e}")


def _results(histories: dict[float, Repeats], runner: TrialRunner) -> WeightDecayTrials:
    values = sorted(histories)
    repeats = tuple(histories[value] for value in values)
    return WeightDecayTrials(np.array(values), repeats, runner.max_lr, optimizer=runner.optimizer)
