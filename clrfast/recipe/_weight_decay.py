"""The weight decay: a grid of short runs, judged by the validation loss, then the exponent bisected."""

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
from ._deadline import TimeIsUp, deadline
from ._distributed import Group, together
from ._runner import REPEATS, STEPS, Runner, checked_values, require_repeats, resolve_arguments
from ._short_runs import Choice, Keep, Made, Runs, ShortRuns

if TYPE_CHECKING:
    from typing_extensions import Unpack

GRID = (1e-3, 1e-4, 1e-5, 0.0)
"""The report's, for a task of which nothing is known."""

USUAL_WEIGHT_DECAY = 1e-4
"""For where none was measured, or runs cannot tell: in the middle of the report's values."""

WIDE = 4.0
"""Neighbours further apart than by this factor are bisected: 1e-3 and 1e-4 are, 1e-3 and 3e-4 are not."""

MOST_ROUNDS = 4
"""Of refinement: enough to get from 1e-3 to 0.1, where the largest value stays as good as any."""

A_ROUND = 2
"""Values of a round of refinement, or fewer: the progress expects one such round."""


@dataclass(frozen=True, eq=False)
class WeightDecays(ShortRuns):
    """What short runs with several weight decays measured; see ``ShortRuns`` for the rest.

    Attributes:
        values: float64 ``[k]``, ascending: the weight decays.
    """

    def suggest(self) -> Choice:
        """The best weight decay; or the usual 1e-4, as far as it is as good, where the smallest is as good as well.

        Where short runs show no gain of any decay, they cannot tell what a longer training needs: what decay costs
        shows at once, and what it gains only when a training overfits. Then the usual value stands, or of those
        between which all is alike the nearest to it.

        Raises:
            NoSuggestionError: the validation loss fell in no run.
        """
        place, low, high, told = self.as_good()
        chosen, least, most = (float(self.values[at]) for at in (place, low, high))
        if self.gains_nothing:
            chosen = min(max(USUAL_WEIGHT_DECAY, least), most)
            usual = "the usual value" if chosen == USUAL_WEIGHT_DECAY else "the nearest to the usual one"
            told += f"; so they do not tell what a longer training needs, and {chosen:g}, {usual}, is taken"
        elif low < high:
            told += "; with less the loss is higher, so decay does gain something, and the best is taken"
        if chosen == self.values[-1]:
            told += f"; {chosen:g} is the largest that was tried, and a larger one may be better"
        return Choice(chosen, least, most, told)

    @property
    def gains_nothing(self) -> bool:
        """Whether the smallest value, among others, is as good as the best."""
        _, low, high, _ = self.as_good()
        return low == 0 < high

    @property
    def next_centre(self) -> float:
        """Where to look for better ones: at the best; or at the largest that is as good, for a gain may lie above."""
        place, _, high, _ = self.as_good()
        return float(self.values[high if self.gains_nothing else place])


def find_weight_decay(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any] | None = None,
    grid: Sequence[float] = GRID,
    max_lr: float | None = None,
    momentum: Momentum = (0.95, 0.85),
    steps: int = STEPS,
    repeats: int = REPEATS,
    refine: bool = True,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    group: Group = None,
    found: Made | None = None,
    keep: Keep | None = None,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> WeightDecays:
    """Short 1cycles, one for each weight decay and repeat, judged by the validation loss after them.

    All start from the model as it is now, with the same random numbers and batches; afterwards all is as before, as
    after ``range_test``. Decay works on all trainable parameters. Its effect grows with ``lr * weight_decay * steps``:
    a run much shorter than a tenth of the training tells little.

    The report's advice for the grid: a shallow network, or few and simple data, need more decay, ``(1e-2, 1e-3,
    1e-4)``; a deep one on complex data less, ``(1e-4, 1e-5, 1e-6, 0)``. Cycling the weight decay is of no use. The
    rate regularises too: with another weight decay the range test may suggest another rate.

    Args:
        model, loss_fn, loader, compute_loss: as of ``range_test``, or a ``Task``; the loader can be iterated anew.
        val_loader: samples that are not in ``loader``; None: the task's. The first batches, at most a tenth as many
            as a run has steps. The last loss of a run is what counts: its minimum is where early stopping would have
            ended it, and hides overfitting.
        grid: weight decays, >= 0, at least 2.
        max_lr: of the 1cycles; None: what ``range_test`` suggests.
        momentum: of the 1cycles: (upper, lower), which cycles against the rate, or a number.
        steps: of each run, at least 20.
        repeats: runs for each value, each on the batches after those of the last, at least 2: they tell the noise.
        refine: whether to bisect the exponent around the best to one significant figure (1e-4 between 1e-3 and 1e-5:
            also 3e-4 and 3e-5), and, where the largest value is as good, to go on above it, for at most 4 rounds.
        max_steps: refinement ends before all runs together take more updates than this; None: no such end.
        max_seconds: no run begins that would not end in so much time, > 0, as far as those before it tell; the values
            that it did not suffice for are left out. None: no such end.
        group: of ``torch.distributed``, with gloo, whose ranks all make this call, with the same model, data and random
            numbers: each makes a part of the runs, and all return the same. Their models are not trained together, so
            the model is not wrapped in DistributedDataParallel. None: this process makes all runs and waits for no
            other, for nobody can know here whether the other ranks make the call, too.
        found: runs of an earlier call with the same arguments, by ``(momentum, weight decay, repeat)``, which are not
            made again.
        keep: ``keep(runs, updates)`` gets all runs so far, in the form of ``found``, before the next begin, and the
            updates of those that begin now. Of a group, the first rank's.
        progress: ``progress(done, total, shown)``; the total expects one round of refinement, grows with more, and is
            what was done at the end. True for a bar, with tqdm. Of a group, the first rank's.
        options, step_options: as of ``range_test``.
    Returns:
        The runs of all values; ``suggest()`` tells the one to take.
    Raises:
        TypeError: an unknown keyword.
        ValueError: bad arguments; validation data that are in the training data, as far as the objects tell; ranks
            that differ in model or data.
        NoSuggestionError: no ``max_lr``, and the range test has no valid answer.
        TimeIsUp: ``max_seconds`` sufficed for fewer than two values.
        RankError: another rank of the group failed or has ended.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.4 and 5.
    """
    tried = checked_values(grid, name="grid", below=math.inf, example=GRID)
    require_repeats(repeats)
    until = deadline(max_seconds)
    to_come = A_ROUND if refine else 0
    with together(group) as ranks, show_progress(ranks.progress_on_first(progress), "weight decay") as show:
        task, options = resolve_arguments(
            model, loss_fn, loader, compute_loss, val_loader, options, step_options, "find_weight_decay"
        )
        runner = Runner(
            task,
            options,
            max_lr=max_lr,
            steps=steps,
            repeats=repeats,
            planned=len(tried) + to_come,
            progress=show,
            ranks=ranks,
            deadline=until,
            found=found,
            keep=keep,
        )
        runs = dict(zip(tried, runner([(momentum, value) for value in tried], later=to_come), strict=False))
        if len(runs) < 2:
            raise TimeIsUp(f"max_seconds: {max_seconds:.3g} sufficed for {len(runs)} of {len(tried)} weight decays")
        for _ in range(MOST_ROUNDS if refine else 0):
            try:
                chosen = _of(runs, runner.max_lr).next_centre
            except NoSuggestionError:
                break
            new = refinement(runs, chosen)
            if not new or (max_steps is not None and (len(runs) + len(new)) * repeats * steps > max_steps):
                break
            made = runner([(momentum, value) for value in new])
            runs |= zip(new, made, strict=False)
            if len(made) < len(new):
                break
        runner.end()
    return _of(runs, runner.max_lr)


def refinement(tried: Collection[float], chosen: float) -> list[float]:
    """The weight decays to try next, of the form 1e-n and 3e-n: half way, in the exponent, from ``chosen`` to both its
    neighbours, unless these are nearer than by a factor of 4. Past the ends a factor of 10 stands for the neighbour;
    0 has no exponent, so nothing lies between it and the next.

    >>> refinement([1e-3, 1e-4, 1e-5, 0], 1e-4)
    [3e-05, 0.0003]
    >>> refinement([1e-3, 1e-4, 1e-5, 0], 1e-3)
    [0.0003, 0.003]
    >>> refinement([1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 0], 1e-4)
    []
    """
    if chosen == 0:
        return []
    below = max((value for value in tried if value < chosen), default=chosen / 10)
    above = min((value for value in tried if value > chosen), default=chosen * 10)
    return [_half_way(low, high) for low, high in ((below, chosen), (chosen, above)) if 0 < low < high / WIDE]


def _half_way(low: float, high: float) -> float:
    return _of_half_decades(round(math.log10(low) + math.log10(high)))


def half_step(decay: float, side: int) -> float:
    """The next value of the form 1e-n and 3e-n above (side 1) or below (-1).

    >>> half_step(1e-3, 1), half_step(3e-3, 1), half_step(1e-3, -1)
    (0.003, 0.01, 0.0003)
    """
    return _of_half_decades(round(2 * math.log10(decay)) + side)


def _of_half_decades(n: int) -> float:
    return float(f"{10 ** (n / 2):.0e}")


def _of(runs: dict[float, Runs], max_lr: float) -> WeightDecays:
    values = sorted(runs)
    return WeightDecays(np.array(values), tuple(runs[value] for value in values), max_lr)
