"""``find_momentum``: trials with constant momenta, and the range in which to cycle the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .._checks import require_finite
from .._progress import Progress, show_progress
from ..finder._suggestion import NoSuggestionError
from ..tasks import Task
from ..training import StepOptions
from ..training._losses import ComputeLoss
from ..training._step_options import StepKeywords
from ._arguments import checked_values, require_repeats, resolve_arguments
from ._deadline import OutOfTimeError, parse_deadline
from ._optimizers import OptimizerName, require_optimizer_name
from ._setting_trials import SettingSuggestion, SettingTrials
from ._shared_trials import Group, joined_ranks
from ._trial_runner import DEFAULT_REPEATS, DEFAULT_STEPS, TrialRunner
from ._trials import FinishedTrials, Repeats, SaveTrials, final_losses

if TYPE_CHECKING:
    from typing_extensions import Unpack

MOMENTUM_VALUES = (0.9, 0.95, 0.97, 0.99)
"""Momenta to try, from Smith's report."""

DEFAULT_MOMENTUM_CYCLE = (0.95, 0.85)
"""Cycle of the momentum if none was measured, from Smith's report. The result depends little on the lower bound."""

LOWER_MOMENTUM, LOWER_MOMENTUM_OF_SMALL = 0.85, 0.8
"""Lower bounds of the cycle: for an upper bound of at least 0.9, and for a smaller one."""


@dataclass(frozen=True, eq=False)
class MomentumTrials(SettingTrials):
    """The results of trials with several constant momenta; see ``SettingTrials``.

    Attributes:
        values: float64 ``[k]``, ascending: the momenta.
        cyclical: histories of the trials in which the suggested momentum was cycled; empty without a suggestion.
    """

    cyclical: Repeats = field(default=(), repr=False)

    @property
    def cycle(self) -> tuple[float, float]:
        """(upper, lower) for ``one_cycle(..., momentum=...)``.

        Upper is the suggested value. Lower is 0.85 if upper is at least 0.9, else 0.8, and at most upper.

        Raises:
            NoSuggestionError: see ``suggest``.
        """
        return _cycle_below(self.suggest().value)

    def suggest(self) -> SettingSuggestion:
        """Return the best constant momentum; of several that are as good, the nearest to the default 0.95.

        A larger one needs a longer trial to show its effect, and a rate of its own.

        Raises:
            NoSuggestionError: the validation loss fell in no trial.
        """
        _, low, high, reason = self.best_range()
        good = self.values[low : high + 1]
        value = float(good[np.abs(good - DEFAULT_MOMENTUM_CYCLE[0]).argmin()])
        if low < high:
            reason += f"; {value:g}, of these the nearest to the usual {DEFAULT_MOMENTUM_CYCLE[0]:g}, is taken"
        upper, lower = _cycle_below(value)
        if self.cyclical and upper > lower:
            reason += f"; cycling from {upper:g} to {lower:g} it ends at {final_losses(self.cyclical).mean():.4g}"
        return SettingSuggestion(value, float(good[0]), float(good[-1]), reason)


def find_momentum(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any] | None = None,
    values: Sequence[float] = MOMENTUM_VALUES,
    max_lr: float | None = None,
    weight_decay: float = 0.0,
    optimizer: OptimizerName = "sgd",
    steps: int = DEFAULT_STEPS,
    repeats: int = DEFAULT_REPEATS,
    max_seconds: float | None = None,
    group: Group = None,
    finished: FinishedTrials | None = None,
    save: SaveTrials | None = None,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> MomentumTrials:
    """Run short 1cycles with several constant momenta, and judge them by the validation loss after them.

    A momentum range test would not help: if the momentum rises during a run, the loss falls up to the largest values
    and shows no optimum (section 4.3 of the report). Trials with constant momenta show it. All of them are 1cycles of
    the rate with the same ``max_lr``. A larger momentum takes larger effective steps, ``lr / (1 - momentum)``, so the
    result is valid for that rate only. Then the suggested momentum is cycled against the rate. According to the report,
    that is as good as the best constant value, and more stable.

    All trials start from the current model with the same random numbers and batches. Afterwards everything is
    restored, as after ``range_test``.

    Args:
        model, loss_fn, loader, compute_loss, val_loader, max_lr, optimizer, repeats, max_seconds, group, finished,
            save, progress, options, step_options: see ``find_weight_decay``.
        values: momenta to try, in [0, 1), at least 2.
        weight_decay: weight decay of all trials, >= 0.
        steps: length of each trial, >= 20. A momentum needs several times ``1 / (1 - momentum)`` steps to show its
            effect; 200 are few for 0.99.
    Returns:
        The results of all trials; ``suggest()`` returns the best constant value, ``cycle`` the range to cycle in.
    Raises:
        TypeError, ValueError, NoSuggestionError, OutOfTimeError, RankError: see ``find_weight_decay``.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.3 and 5.
    """
    require_optimizer_name(optimizer)
    tried = checked_values(values, name="values", below=1.0, example=MOMENTUM_VALUES)
    require_repeats(repeats)
    require_finite(weight_decay=weight_decay)
    if weight_decay < 0:
        raise ValueError(f"weight_decay: got {weight_decay!r}; give a number of at least 0")
    deadline = parse_deadline(max_seconds)
    with joined_ranks(group) as ranks, show_progress(ranks.progress_on_first(progress), "momentum") as show:
        task, options = resolve_arguments(
            model, loss_fn, loader, compute_loss, val_loader, options, step_options, "find_momentum"
        )
        runner = TrialRunner(
            task,
            options,
            max_lr=max_lr,
            steps=steps,
            repeats=repeats,
            planned_settings=len(tried) + 1,
            progress=show,
            ranks=ranks,
            deadline=deadline,
            finished=finished,
            save=save,
            optimizer=optimizer,
        )
        histories = runner.run([(value, weight_decay) for value in tried], upcoming=1)
        if len(histories) < 2:
            raise OutOfTimeError(
                f"max_seconds: {max_seconds:.3g} sufficed for {len(histories)} of {len(tried)} momenta"
            )
        constant = MomentumTrials(np.array(tried[: len(histories)]), histories, runner.max_lr)
        try:
            cycle = constant.cycle
        except NoSuggestionError:
            runner.finish()
            return constant
        return MomentumTrials(constant.values, histories, runner.max_lr, *runner.run([(cycle, weight_decay)]))


def _cycle_below(upper: float) -> tuple[float, float]:
    return upper, LOWER_MOMENTUM if upper >= 0.9 else min(LOWER_MOMENTUM_OF_SMALL, upper)
