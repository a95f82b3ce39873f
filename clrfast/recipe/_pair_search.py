"""Rate and weight decay together: runs as long as the training, or nearly, each where most improvement is expected."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .._checks import is_whole, require_positive
from .._progress import Progress, show_progress
from ..finder._noise import Floats
from ..finder._suggestion import NoSuggestionError
from ..plot import pairs
from ..schedules._policies import Momentum
from ..tasks import Task
from ..training import StepOptions
from ..training._losses import ComputeLoss
from ..training._step_options import StepKeywords
from ._deadline import Deadline, deadline
from ._gaussian_process import GaussianProcess, log_regret
from ._history import History
from ._runner import LOOKS, Runner, resolve_arguments
from ._short_runs import final_losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Unpack

RATE_STEP = math.sqrt(10)
"""Between neighbouring rates: 1cycle bears half and twice the best one."""

RATES = range(-6, 5)
"""Where rates are looked for, in steps from the first: three decades below, where a network overfits, two above."""

DECAYS = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Weight decays. Below 1e-3 they do little in a training, and differ by less."""

LARGE = 0.1
"""Larger ones are tried where this is the best at a rate. With those each of the 15 tasks of
``benchmarks.recipe_quality`` that were looked at ended higher, at any rate; a linear model on few samples may want
them."""

FIRST_DECAY = 1e-3
"""At the first rate: in the middle."""

LEAST_RUNS = 3
"""Fewer say nothing."""

MIN_IMPROVEMENT = 0.01
"""Smallest expected improvement of the log regret for which another run is made."""


@dataclass(frozen=True)
class Pair:
    """The rate and the weight decay to train with, and why."""

    max_lr: float
    weight_decay: float
    reason: str


@dataclass(frozen=True, eq=False)
class Pairs:
    """What runs with ``n`` pairs of a rate and a weight decay ended with, in the order in which they were made.

    Attributes:
        max_lr: float64 ``[n]``, the highest rate of each.
        weight_decay: float64 ``[n]``.
        steps: the length of their schedules.
        runs: a ``History`` each; one that diverged ends with inf.
    """

    max_lr: Floats
    weight_decay: Floats
    steps: int
    runs: tuple[History, ...] = field(repr=False)

    @property
    def loss(self) -> Floats:
        """float64 ``[n]``: the validation loss after each run; inf where it is not finite."""
        return final_losses(self.runs)

    @property
    def initial_loss(self) -> float:
        """The validation loss before all of them; where it is not finite, the highest that is."""
        at_start = float(np.asarray(self.runs[0].val_loss)[0])
        if math.isfinite(at_start):
            return at_start
        return float(self.loss[np.isfinite(self.loss)].max(initial=-math.inf))

    @property
    def gaussian_process(self) -> GaussianProcess:
        """A Gaussian process through the log regret over ``[log10(max_lr), log10(weight_decay)]``.

        An artificial observation stands at the lowest rate and decay: no training, so the loss at the start.
        """
        rates = np.append(self.max_lr, self.max_lr[0] * RATE_STEP ** RATES[0])
        decays = np.append(self.weight_decay, DECAYS[0])
        losses = np.append(self.loss, self.initial_loss)
        return GaussianProcess(np.log10(np.stack([rates, decays], axis=1)), log_regret(losses, self.initial_loss))

    @property
    def failing_lr(self) -> Floats:
        """float64 ``[n]``: the lowest rate above that of each run at which another one failed, with any decay: it
        ended above the middle of the loss at the start and the lowest one. Where none did, the next rate above all that
        were tried, for nothing is known of that."""
        failed = self.max_lr[~(self.loss <= (self.initial_loss + self.loss.min()) / 2)]
        above = np.where(failed > self.max_lr[:, None], failed, math.inf)
        return above.min(axis=1, initial=self.max_lr.max() * RATE_STEP)

    @property
    def expected(self) -> Floats:
        """float64 ``[n]``: the loss to expect after each run with other random numbers.

            loss + chance * (loss at the start - loss) / 2,  chance = (max_lr / failing_lr)**4

        One run says what a rate gives where it is borne, and nothing of the next training's bearing it. The chance
        that this fails is by ``benchmarks.recipe_quality.stability_edge``: of the best pairs half a decade below a rate
        at which a run failed, 1 in 70 failed with another seed, a decade below none. It counts half, for a failure is
        noticed, and trained anew; all of it would turn down more good pairs than bad ones, by the tasks that the search
        was chosen on.
        """
        chance = (self.max_lr / self.failing_lr) ** 4
        return self.loss + chance * np.maximum(self.initial_loss - self.loss, 0.0) / 2

    @property
    def best(self) -> int:
        """The place of the lowest expected loss.

        Raises:
            NoSuggestionError: the validation loss fell in none of them.
        """
        best, initial = int(self.expected.argmin()), self.initial_loss
        if not self.loss[best] < initial:
            raise NoSuggestionError(
                f"in no run of {self.steps} steps, with rates from {self.max_lr.min():.3g} to {self.max_lr.max():.3g}, "
                f"the validation loss fell below its {initial:.4g} at the start: look at the data, or give another "
                "max_lr"
            )
        return best

    def suggest(self) -> Pair:
        """The best of what was tried.

        Raises:
            NoSuggestionError: see ``best``.
        """
        at, lowest = self.best, int(self.loss.argmin())
        told = f"ends with the lowest validation loss ({self.loss[at]:.4g})"
        if at != lowest:
            failing, most = self.failing_lr[lowest], self.max_lr.max()
            told = (
                f"is taken, with a validation loss of {self.loss[at]:.4g} at the end: with {self.max_lr[lowest]:.3g} "
                f"and {self.weight_decay[lowest]:g} it is {self.loss[lowest]:.4g}, but "
                + (f"a run failed at {failing:.3g}" if failing <= most else "no higher rate was tried")
                + ", and so another training may fail there"
            )
        reason = (
            f"of {len(self.runs)} runs of {self.steps} steps, with rates from {self.max_lr.min():.3g} to "
            f"{self.max_lr.max():.3g} and weight decays from {self.weight_decay.min():g} to "
            f"{self.weight_decay.max():g}, the one with {self.max_lr[at]:.3g} and {self.weight_decay[at]:g} {told}"
        )
        return Pair(float(self.max_lr[at]), float(self.weight_decay[at]), reason)

    def table(self) -> list[tuple[float, ...]]:
        """For each run: its rate, its weight decay and the loss after it."""
        columns = self.max_lr, self.weight_decay, self.loss
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the runs over rate and weight decay; see ``clrfast.plot.pairs``.

        The posterior mean of ``gaussian_process`` is shaded, unless the validation loss fell in no run.
        """
        best, process = None, None
        with contextlib.suppress(NoSuggestionError):
            best, process = self.best, self.gaussian_process
        predict = None if process is None else lambda points: process.posterior(points)[0]
        runs = self.max_lr, self.weight_decay, self.loss
        return pairs(*runs, ax, initial_loss=self.initial_loss, best=best, predict=predict)

    def __str__(self) -> str:
        rows = [f"{'rate':>8}  {'decay':>8}  {'loss after':>10}"]
        rows += [f"{lr:>8.3g}  {decay:>8g}  {loss:>10.5g}" for lr, decay, loss in self.table()]
        return "\n".join(rows)


def find_pair(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any] | None = None,
    max_lr: float,
    steps: int,
    max_steps: int,
    momentum: Momentum = (0.95, 0.85),
    max_seconds: float | None = None,
    found: Pairs | None = None,
    keep: Callable[[Pairs], None] | None = None,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> Pairs:
    """1cycles of the training's own length, or nearly, with pairs of a rate and a weight decay.

    Short runs tell neither the decay, for they do not overfit, nor the rate that is best with it, which is higher
    where the decay keeps a long training from overfitting. So these are few and long. The first is made at ``max_lr``
    and 1e-3, each of the next where a Gaussian process through the losses so far lets expect the largest improvement:
    on a lattice of half decades of the rate, and of the values 1e-n and from 1e-3 on 3e-n of the decay.
    ``Pairs.expected`` counts what a rate just below failure risks.

    All start from the model as it is now, with the same random numbers and batches; afterwards all is as before, as
    after ``range_test``.

    Args:
        model, loss_fn, loader, compute_loss, val_loader, momentum, progress, options, step_options: as of
            ``find_weight_decay``.
        max_lr: to begin with, as ``range_test`` suggests it.
        steps: of each run, at least 40; as near to those of the training as can be, at least a quarter.
        max_steps: no run begins that could go beyond so many updates of all together; at least 3 times ``steps``. 8
            times find a good pair as a rule; 16 times are by the mean of ``benchmarks.recipe_quality`` as good as a
            full grid with one seed. Less is used up where no more improvement is expected.
        max_seconds: after the first three runs, none begins that would not end in so much time, > 0, as far as those
            before it tell. None: no such end.
        found: runs of an earlier call with the same ``max_lr`` and ``steps``, to go on from; they count in
            ``max_steps``.
        keep: gets all runs so far after each.
    Returns:
        All runs; ``suggest()`` tells the pair to take.
    Raises:
        TypeError: an unknown keyword.
        ValueError: bad arguments; validation data that are in the training data, as far as the objects tell.
    """
    require_positive(max_lr=max_lr)
    if not is_whole(steps) or steps < 2 * LOOKS:
        raise ValueError(f"steps: got {steps!r}; give a whole number of updates for each run, at least {2 * LOOKS}")
    if not is_whole(max_steps) or max_steps < LEAST_RUNS * steps:
        raise ValueError(
            f"max_steps: got {max_steps!r}; give at least {LEAST_RUNS} times the {steps} steps of a run, for the first "
            f"{LEAST_RUNS}"
        )
    if found is not None and (found.max_lr[0], found.steps) != (max_lr, steps):
        raise ValueError(
            f"found: got runs of {found.steps} steps from a max_lr of {float(found.max_lr[0])!r} on, where these are "
            f"{steps} and {max_lr!r}; give the same, or leave it out to begin anew"
        )
    task, options = resolve_arguments(
        model, loss_fn, loader, compute_loss, val_loader, options, step_options, "find_pair"
    )
    search = _Search(max_lr, int(steps), int(max_steps), deadline(max_seconds), found)
    with show_progress(progress, "rate and weight decay") as show:

        def tell(done: int, _: int, shown: dict[str, float]) -> None:
            if show is not None:
                show(search.done + done, search.max_steps, shown)

        while (place := search.next()) is not None:
            lr, decay = search.pair(place)
            runner = Runner(
                task,
                options,
                max_lr=lr,
                steps=search.steps,
                repeats=1,
                planned=1,
                progress=tell,
            )
            ((search.runs[place],),) = runner([(momentum, decay)])
            if keep is not None:
                keep(search.pairs())
    return search.pairs()


Place = tuple[int, float]
"""Steps of the rate from the first, and a weight decay."""


class _Search:
    """The runs so far, each at its place, and where to make the next."""

    def __init__(
        self, max_lr: float, steps: int, max_steps: int, until: Deadline | None = None, found: Pairs | None = None
    ):
        self.max_lr, self.steps, self.max_steps, self.until = max_lr, steps, max_steps, until
        self.runs: dict[Place, History] = {}
        if found is not None:
            places = np.rint(np.log(found.max_lr / max_lr) / math.log(RATE_STEP)).astype(int).tolist()
            self.runs = dict(zip(zip(places, found.weight_decay.tolist(), strict=True), found.runs, strict=True))

    @property
    def done(self) -> int:
        """Updates of all runs; those that diverged ended early."""
        return sum(np.size(run.train_loss) for run in self.runs.values())

    def pair(self, place: Place) -> tuple[float, float]:
        return float(self.max_lr * RATE_STEP ** place[0]), place[1]

    def next(self) -> Place | None:
        """None where enough was tried, or no more is allowed."""
        in_time = self.until is None or self.until.allows_another()
        if len(self.runs) >= LEAST_RUNS and not (in_time and self.done + self.steps <= self.max_steps):
            return None
        if not self.runs:
            return 0, FIRST_DECAY
        made = self.pairs()
        if not made.loss.min() < made.initial_loss:
            return min(place for place, _ in self.runs) - 2, FIRST_DECAY  # a decade lower
        free = [place for place in product(RATES, self._decays(made.loss)) if place not in self.runs]
        if not free:
            return None
        improvement = made.gaussian_process.expected_improvement(np.log10([self.pair(place) for place in free]))
        if len(self.runs) >= LEAST_RUNS and improvement.max() < MIN_IMPROVEMENT:
            return None
        return free[improvement.argmax()]

    def _decays(self, losses: Floats) -> tuple[float, ...]:
        """Up to one above the best at any rate, where several were tried."""
        rows: dict[int, dict[float, float]] = {}
        for (place, decay), loss in zip(self.runs, losses.tolist(), strict=True):
            rows.setdefault(place, {})[decay] = loss
        best = max((min(row, key=row.__getitem__) for row in rows.values() if len(row) > 1), default=0.0)
        n_above = sum(lower <= best for lower in DECAYS if lower >= LARGE)
        return DECAYS[: DECAYS.index(LARGE) + 1 + n_above]

    def pairs(self) -> Pairs:
        rates, decays = zip(*map(self.pair, self.runs), strict=True)
        return Pairs(np.array(rates), np.array(decays), self.steps, tuple(self.runs.values()))
