"""The momentum: short runs with constant values, and the range in which to cycle it."""

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
from ._deadline import TimeIsUp, deadline
from ._distributed import Group, together
from ._runner import REPEATS, STEPS, Runner, checked_values, require_repeats, resolve_arguments
from ._short_runs import Choice, Keep, Made, Runs, ShortRuns, final_losses

if TYPE_CHECKING:
    from typing_extensions import Unpack

VALUES = (0.9, 0.95, 0.97, 0.99)
"""The report's."""

USUAL_MOMENTUM = (0.95, 0.85)
"""The report's cycle, for where no momentum was measured; it found the result almost independent of the lower bound."""

LOWER, LOWER_OF_SMALL = 0.85, 0.8
"""Of the cycle, for a maximum from 0.9 on and below; the report found the result almost independent of it."""


@dataclass(frozen=True, eq=False)
class Momenta(ShortRuns):
    """What short runs with several constant momenta measured; see ``ShortRuns`` for the rest.

    Attributes:
        values: float64 ``[k]``, ascending: the momenta.
        cyclical: the runs in which the chosen momentum cycled against the rate; none where there was no choice.
    """

    cyclical: Runs = field(default=(), repr=False)

    @property
    def cycle(self) -> tuple[float, float]:
        """(upper, lower) for ``one_cycle(..., momentum=...)``: from the suggested value down to 0.85 at the highest
        rate, to 0.8 where that value is below 0.9, and constant where it is below that.

        Raises:
            NoSuggestionError: see ``suggest``.
        """
        return _cycle_of(self.suggest().value)

    def suggest(self) -> Choice:
        """The best constant momentum; of several that are as good the nearest to the usual 0.95.

        The larger ones of those need longer runs to show what they do, and a rate of their own.

        Raises:
            NoSuggestionError: the validation loss fell in no run.
        """
        _, low, high, told = self.as_good()
        alike = self.values[low : high + 1]
        value = float(alike[np.abs(alike - USUAL_MOMENTUM[0]).argmin()])
        if low < high:
            told += f"; {value:g}, of these the nearest to the usual {USUAL_MOMENTUM[0]:g}, is taken"
        upper, lower = _cycle_of(value)
        if self.cyclical and upper > lower:
            told += f"; cycling from {upper:g} to {lower:g} it ends at {final_losses(self.cyclical).mean():.4g}"
        return Choice(value, float(alike[0]), float(alike[-1]), told)


def find_momentum(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any] | None = None,
    values: Sequence[float] = VALUES,
    max_lr: float | None = None,
    weight_decay: float = 0.0,
    steps: int = STEPS,
    repeats: int = REPEATS,
    max_seconds: float | None = None,
    group: Group = None,
    found: Made | None = None,
    keep: Keep | None = None,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> Momenta:
    """Short runs, one for each constant momentum and repeat, judged by the validation loss after them.

    There is no momentum range test here, and it would be of no use: in a run whose momentum rises, the loss goes on
    falling up to the largest values, and shows no optimum (section 4.3 of the report). Runs with constant momenta
    tell it. Here they are 1cycles of the rate with the same ``max_lr`` for all, so a larger momentum takes larger
    effective steps, ``lr / (1 - momentum)``: the answer belongs to that rate. Then the chosen momentum is tried as the
    upper bound of a cycle against the rate, which by the report is as good as the best constant, and steadier.

    All start from the model as it is now, with the same random numbers and batches; afterwards all is as before, as
    after ``range_test``.

    Args:
        model, loss_fn, loader, compute_loss, val_loader, max_lr, repeats, max_seconds, group, found, keep,
            progress, options, step_options: as of ``find_weight_decay``.
        values: momenta in [0, 1), at least 2.
        weight_decay: of all runs, >= 0.
        steps: of each run, at least 20. A momentum needs several times ``1 / (1 - momentum)`` steps to show what it
            does: 200 are few for 0.99.
    Returns:
        The runs of all values; ``suggest()`` tells the best constant, ``cycle`` the range to cycle in.
    Raises:
        TypeError, ValueError, NoSuggestionError, TimeIsUp, RankError: as of ``find_weight_decay``.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.3 and 5.
    """
    tried = checked_values(values, name="values", below=1.0, example=VALUES)
    require_repeats(repeats)
    require_finite(weight_decay=weight_decay)
    if weight_decay < 0:
        raise ValueError(f"weight_decay: got {weight_decay!r}; give a number of at least 0")
    until = deadline(max_seconds)
    with together(group) as ranks, show_progress(ranks.progress_on_first(progress), "momentum") as show:
        task, options = resolve_arguments(
            model, loss_fn, loader, compute_loss, val_loader, options, step_options, "find_momentum"
        )
        runner = Runner(
            task,
            options,
            max_lr=max_lr,
            steps=steps,
            repeats=repeats,
            planned=len(tried) + 1,
            progress=show,
            ranks=ranks,
            deadline=until,
            found=found,
            keep=keep,
        )
        runs = runner([(value, weight_decay) for value in tried], later=1)
        if len(runs) < 2:
            raise TimeIsUp(f"max_seconds: {max_seconds:.3g} sufficed for {len(runs)} of {len(tried)} momenta")
        momenta = Momenta(np.array(tried[: len(runs)]), runs, runner.max_lr)
        try:
            cycle = momenta.cycle
        except NoSuggestionError:
            runner.end()
            return momenta
        return Momenta(momenta.values, momenta.runs, momenta.max_lr, *runner([(cycle, weight_decay)]))


def _cycle_of(upper: float) -> tuple[float, float]:
    return upper, LOWER if upper >= 0.9 else min(LOWER_OF_SMALL, upper)
