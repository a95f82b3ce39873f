"""The search for a recipe: its parts in the report's order, within a budget, and on from where it was interrupted."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from .._checks import is_whole
from .._errors import NotWrittenError
from .._progress import Progress
from .._ranks import Ranks
from ..finder import LRCurve, range_test
from ..finder._experiment import DEFAULT_MOMENTUM
from ..optim import SGD
from ..tasks import Task
from ..training import StepOptions
from ..training._loss_modules import find_loss_modules, trainable_parameters
from ..training._step_options import StepKeywords, resolve_options
from ._batch_size import checked_loader, find_batch_size
from ._deadline import TimeIsUp
from ._disjoint import require_apart
from ._distributed import Group, require_alike, require_unwrapped, together
from ._measurements import Parts
from ._momentum import USUAL_MOMENTUM, VALUES, find_momentum
from ._pair_search import LEAST_RUNS, Pairs, find_pair
from ._recipe import (
    GRID_RUNS,
    MOMENTUM_RUNS,
    MOMENTUM_STEPS,
    RANGE_STEPS,
    Recipe,
    concluded,
    left,
    momentum_is_affordable,
    pair_steps,
    rate_is_due,
)
from ._runner import REPEATS, STEPS
from ._short_runs import Begun, Made, Runs
from ._time_budget import TimeBudget
from ._weight_decay import GRID, find_weight_decay

if TYPE_CHECKING:
    from typing_extensions import Unpack

PLANNED_STEPS = 10_000
"""Of the training, where nobody says: what small networks take."""

LEAST_STEPS = 40
"""Of each run with a weight decay: the fewest in which its validation loss is looked at often enough."""

SMALL_GRID = (1e-3, 1e-4, 0.0)
"""For budgets that do not allow the report's grid."""

MIN_BUDGET = 2 * RANGE_STEPS + len(SMALL_GRID) * REPEATS * LEAST_STEPS
"""464 steps: two range tests and the small grid."""

LEAST_BATCHES = 20
"""Of an epoch: larger batches than this allows would leave too few updates, and too little of their noise."""

logger = logging.getLogger(__name__)


def find_recipe(
    task: Task,
    budget: int | timedelta | None = None,
    *,
    planned_steps: int | None = None,
    batch_sizes: bool = False,
    saved: str | os.PathLike[str] | None = None,
    group: Group = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> Recipe:
    """Find rate, batch size, weight decay and momentum by short runs, in the order of Smith's report.

    (The package of the parts has the name ``clrfast.recipe``, so the call has another.)

        range test -> batch size, range test anew -> weight decay, range test anew from 1e-3 on -> momentum
        range test -> batch size, range test anew -> rate and weight decay together, where the budget is large

    The budget decides how long the short runs are: for each range test 112 steps are set aside, the weight decays get
    the rest, or, where this allows runs of 100 steps, 12 parts of 22, and the momenta what they leave. What such runs
    cannot tell apart gets its usual value. From about twice ``planned_steps`` on, runs are long enough to show what a
    training ends with, and all of the budget goes into at least eight of those, see ``find_pair``: as long as the
    training from a budget of eight trainings and 112 steps on, and then more of them. Where momenta are not tested, the
    usual cycle 0.95 to 0.85 is taken. All parts start from the model as it is now, and afterwards all is as before, as
    after ``range_test``.

    Args:
        task: with validation data, which must not be in the training data.
        budget: the most updates that the search makes, at least 464; the batch sizes, if asked for, come on top. None:
            a tenth of ``planned_steps``, or 464 if that is more. Or a time, as ``datetime.timedelta(minutes=5)``, from
            the call on: the first range test tells how many updates it is enough for, and no run begins that would
            not end in it as far as those before tell; a range test or the batch sizes are not cut short.
        planned_steps: of the training that the recipe is for, >= 1; None: 10,000. Runs much shorter than a tenth of a
            training tell little; longer ones than that (or 200 steps) are made of a quarter of it and more, or not.
        batch_sizes: whether to look for a faster batch size, up to a 20th of the samples; the ``train_loader`` is then
            a DataLoader over a map-style dataset, and all memory that is free is tried.
        saved: a JSON file that gets what is found as it comes, after each run. A call that was interrupted goes on from
            it: what it holds is not measured again, whatever the other arguments are. After a kill, which leaves no
            time to write, the updates of the run that it ended count in the budget in full: they are taken from what
            has not begun. (The first range test, before which there is no file, does not count; nor does a run that an
            exception ended, as Ctrl-C does.)
        group: of ``torch.distributed``, whose ranks all make this call, see ``find_weight_decay``. Range tests, batch
            sizes, long runs and the clock are the first rank's. Only there is the file written and the progress told.
        progress: ``progress(done, total, shown)``, with the budget as total, which need not be used up; True for a
            bar for each part, with tqdm. What each part found goes to the log "clrfast.recipe", too.
        options, step_options: as of ``range_test``.
    Returns:
        The recipe; ``recipe.optimizer(model, total_steps)`` is what to train with.
    Raises:
        TypeError: an unknown keyword.
        ValueError: bad arguments; a task without validation data, or with some that are in the training data; a
            budget too small to say anything (of a time this shows after the first range test, which is kept in
            ``saved``); a file of another model or batch size; ranks that differ in model or data.
        NoSuggestionError: the first range test has no valid answer.
        RankError: another rank of the group failed or has ended; what was found until then is in ``saved``.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", section 5.
    """
    if not isinstance(task, Task):
        raise ValueError(
            f"task: got {type(task).__name__}; give clrfast.Task(model, loss_fn, train_loader, val_loader)"
        )
    if "optimizer" in step_options:
        raise ValueError("optimizer: the recipe is one for clrfast.SGD; leave it out")
    if isinstance(budget, str):
        raise ValueError(
            f"budget: got {budget!r}; give updates, as 600, or a time as datetime.timedelta(minutes=5) or (seconds=90)"
        )
    planned_steps = _whole("planned_steps", planned_steps, PLANNED_STEPS, 1, "the updates of the training")
    if budget is None and planned_steps < MIN_BUDGET:
        warnings.warn(
            f"planned_steps: got {planned_steps}, and the search itself needs {MIN_BUDGET} updates, more than the "
            f"training; give budget={MIN_BUDGET} to make it all the same, or call range_test, which needs about 100",
            stacklevel=2,
        )
    least = f"two range tests and {len(SMALL_GRID) * REPEATS} runs of {LEAST_STEPS} updates; fewer say nothing"
    time = None
    if isinstance(budget, timedelta):
        time, budget = TimeBudget(budget, len(SMALL_GRID) * REPEATS, LEAST_STEPS), MIN_BUDGET
    budget = _whole("budget", budget, max(planned_steps // 10, MIN_BUDGET), MIN_BUDGET, least)
    with together(group) as ranks:
        options = resolve_options(options, step_options, "find_recipe")
        require_apart(task.train_loader, task.val_loader)
        require_unwrapped(task.model)
        if batch_sizes:
            _require_sizable(task.train_loader)
        require_alike(ranks, task.model, train_loader=task.train_loader, val_loader=task.val_loader)
        path = None if saved is None else Path(saved)
        search = _Search(task, ranks.progress_on_first(progress), options, path, ranks, time)
        search.begin(budget, planned_steps)
        with search.under_way():
            search.rate()
            if batch_sizes or search.parts.batch_sizes is not None:
                search.batch_size()
            search.pair()
            if not search.parts.pairs_ended:
                search.weight_decay()
                search.momentum()
    return concluded(search.parts)


def _whole(name: str, value: Any, default: int, least: int, why: str) -> int:
    if value is None:
        return default
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}: got {value!r}; give a whole number of steps, at least {least}: {why}")
    return int(value)


@dataclass
class _Search:
    """A search on its way: each part is passed over if it is in ``parts`` already."""

    task: Task
    progress: Progress | bool | None
    options: StepOptions
    saved: Path | None
    ranks: Ranks
    time: TimeBudget | None
    parts: Parts = field(init=False)
    written: Parts | None = field(default=None, init=False)
    """What is in ``saved``, where this process has written it."""

    def begin(self, budget: int, planned_steps: int) -> None:
        self.parts = self.ranks.compute_on_first("the saved file", lambda: self._begun(budget, planned_steps))
        if self.parts.batch_sizes is not None:
            self._change_batch_size(self.parts.batch_sizes.fastest)

    def _begun(self, budget: int, planned_steps: int) -> Parts:
        model, batch_size = _told(self.task.model), getattr(self.task.train_loader, "batch_size", None)
        parts = Parts(budget, planned_steps, 0, model, batch_size)
        if self.saved is not None:
            if not self.saved.parent.is_dir():
                raise ValueError(f"saved: {self.saved.parent} is no folder; make it first")
            if self.saved.exists():
                found = Parts.read(self.saved)
                for what, of, this in (("model", found.model, model), ("batch size", found.batch_size, batch_size)):
                    if of != this:
                        raise ValueError(
                            f"saved: {self.saved} is of another {what} ({of}; this is {this}); give another path, or "
                            "delete the file to begin anew"
                        )
                if found.under_way:
                    logger.info("%d steps that a kill has lost count in the budget", found.under_way)
                steps = found.steps + found.under_way
                budget = max(budget, steps)
                parts = replace(found, budget=budget, planned_steps=planned_steps, steps=steps, under_way=0)
        return parts

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """A block in which runs are made; an exception that ends one, unlike a kill, costs the budget nothing."""
        try:
            yield
        except BaseException:
            for _ in range(
                2
            ):  # a second Ctrl-C, or torchrun's SIGTERM beside a rank's failure, may break off the first
                with contextlib.suppress(KeyboardInterrupt, NotWrittenError):
                    self._charge_nothing()
            raise

    def _charge_nothing(self) -> None:
        if self.written is not None and self.written.under_way:
            self._save(replace(self.written, under_way=0))

    def rate(self) -> None:
        # Without its pace, a search for a time cannot go on from one for a number of steps.
        if self.parts.rate is None or (self.time is not None and self.parts.seconds_per_update is None):
            curve = self._range_test()
            curve.suggest()  # where it has no valid answer there is nothing to go on from, nor to keep
            self._keep(RANGE_STEPS, "learning rate", rate=curve)
        else:
            self._count_anew()
        if self.time is not None and self.parts.weight_decays is None and self.parts.pairs is None:
            self.time.require(self._pace, self.ranks.world_size, self._kept)

    def batch_size(self) -> None:
        if self.parts.batch_sizes is None:
            loader: Any = self.task.train_loader
            most = len(loader.dataset) // LEAST_BATCHES
            most = max(most, self.parts.batch_size or 1)
            sizes = self.ranks.compute_on_first(
                "the batch sizes", lambda: find_batch_size(self.task, max_batch_size=most, options=self.options)
            )
            self._keep(0, "batch size", batch_sizes=sizes)
            self._change_batch_size(sizes.fastest)
        assert self.parts.batch_sizes is not None
        moved = self.parts.batch_sizes.fastest != self.parts.batch_size
        # It must leave enough for the small grid and the range test after it.
        if moved and self.parts.rate_after_batch_size is None and left(self.parts) >= MIN_BUDGET:
            self._keep(RANGE_STEPS, "learning rate", rate_after_batch_size=self._range_test())

    def pair(self) -> None:
        """On the first rank alone: each of these runs follows from those before it."""
        before, time, budget = self.parts.pairs, self.time, left(self.parts)
        if self.parts.pairs_ended or self.parts.weight_decays is not None or self.parts.begun is not None:
            return
        if time is not None:
            budget = self.ranks.compute_on_first("the time", lambda: time.updates(self._pace, 1))
        if before is None:
            steps, max_lr, done = pair_steps(replace(self.parts, budget=self.parts.steps + budget)), self._max_lr, 0
        else:
            steps, max_lr, done = before.steps, float(before.max_lr[0]), _updates([before.runs])
        if not steps:
            return
        if before is not None and done + budget < LEAST_RUNS * steps:  # less than when they were begun
            self._keep(0, "weight decay", pairs_ended=True)
            return

        def keep(pairs: Pairs) -> None:
            made = self.parts.steps - done + _updates([pairs.runs])
            self._save(replace(self.parts, steps=made, pairs=pairs, under_way=steps))

        self._begin(steps)
        made = partial(
            find_pair,
            **self._given(done),
            max_lr=max_lr,
            momentum=USUAL_MOMENTUM,
            steps=steps,
            max_steps=done + budget,
            max_seconds=None if time is None else time.left,
            found=before,
            keep=keep,
        )
        found = self.ranks.compute_on_first("rate and weight decay", made)
        self._keep(_updates([found.runs]) - done, "weight decay", pairs=found, pairs_ended=True)

    def weight_decay(self) -> None:
        if self.parts.weight_decays is None:
            begun, room = self.parts.begun, left(self.parts) - RANGE_STEPS
            if begun is None:
                grid, steps, refine = _runs_within(room, self.parts.planned_steps)
                begun = Begun(grid, steps, self._max_lr, refine)
            try:
                found = find_weight_decay(
                    **self._given(begun.updates),
                    **self._of_begun(begun),
                    grid=begun.values,
                    momentum=USUAL_MOMENTUM,
                    refine=begun.refine,
                    max_steps=min(GRID_RUNS * begun.steps, begun.updates + room),
                )
            except TimeIsUp as error:
                raise ValueError(
                    f"budget: the time is up, earlier than the first range test told ({error}){self._kept}"
                ) from None
            made = _updates(found.runs) - begun.updates
            self._keep(made, "weight decay", weight_decays=found, begun=None)
        if rate_is_due(self.parts):
            again = self._range_test(concluded(self.parts).weight_decay)
            self._keep(RANGE_STEPS, "learning rate", rate_after_weight_decay=again)

    def momentum(self) -> None:
        begun = self.parts.begun
        if self.parts.momenta is not None or (begun is None and not momentum_is_affordable(self.parts)):
            return
        if begun is None:
            steps = min(left(self.parts) // MOMENTUM_RUNS, _longest(self.parts.planned_steps))
            # A momentum shows what it does in several times 1 / (1 - momentum) steps.
            values = (value for value in VALUES if 3 / (1 - value) <= max(steps, MOMENTUM_STEPS) + 1e-6)
            begun = Begun(tuple(values), steps, self._max_lr)
        try:
            found = find_momentum(
                **self._given(begun.updates),
                **self._of_begun(begun),
                values=begun.values,
                weight_decay=concluded(self.parts).weight_decay,
            )
        except TimeIsUp:
            self._keep(0, "momentum", begun=None)  # that it was not tested, for too little is left
            return
        made = _updates((*found.runs, found.cyclical)) - begun.updates
        self._keep(made, "momentum", momenta=found, begun=None)

    @property
    def _max_lr(self) -> float:
        return concluded(self.parts).max_lr

    def _of_begun(self, begun: Begun) -> dict[str, Any]:
        """What short runs are given besides."""

        def keep(made: Made, updates: int) -> None:
            ended = begun.with_runs(made)
            steps = self.parts.steps + ended.updates - begun.updates
            self._save(replace(self.parts, steps=steps, begun=ended, under_way=updates))

        return {
            "group": self.ranks,
            "max_seconds": None if self.time is None else self.time.left,
            "max_lr": begun.max_lr,
            "steps": begun.steps,
            "found": begun.made,
            "keep": keep,
        }

    def _begin(self, updates: int) -> None:
        """Write down that so many updates begin now; before the first answer there is no file."""
        if self.ranks.rank == 0 and self.parts.curves:
            self._save(replace(self.parts, under_way=updates))

    def _given(self, counted: int = 0) -> dict[str, Any]:
        """What all parts are given, with the progress counted on from what was done, but for what the part counts."""
        done, progress = self.parts.steps - counted, self.progress
        if callable(progress):
            tell: Callable[..., None] = progress
            progress = lambda n, _, shown: tell(done + n, self.parts.budget, shown)  # noqa: E731
        return {"model": self.task, "options": self.options, "progress": progress}

    def _range_test(self, weight_decay: float = 0.0) -> LRCurve:
        optimizer = None
        if weight_decay:
            params = trainable_parameters(
                self.task.model, *find_loss_modules(self.task.loss_fn, self.task.compute_loss)
            )
            optimizer = SGD(params, lr=1.0, momentum=DEFAULT_MOMENTUM, weight_decay=weight_decay)
        given = {"optimizer": optimizer, "group": None, **self._given()}
        self._begin(RANGE_STEPS)
        if self.time is None:
            return self.ranks.compute_on_first("a range test", lambda: range_test(**given))
        timed = partial(self.time.range_test, **given)
        curve, pace = self.ranks.compute_on_first("a range test", timed)
        self.parts = replace(self.parts, seconds_per_update=pace)
        return curve

    @property
    def _kept(self) -> str:
        """For messages: where that is which was found."""
        return "" if self.saved is None else f" (what was found is in {self.saved}; the next call goes on from there)"

    def _keep(self, steps: int, name: str, **found: Any) -> None:
        self.parts = replace(self.parts, steps=self.parts.steps + steps, **found)
        self._count_anew()
        if self.ranks.rank > 0:
            return
        recipe = self._save(self.parts)
        logger.info("%s: %s; %s", name, recipe.settings[name], recipe.evidence[name])

    def _save(self, parts: Parts) -> Recipe:
        recipe = concluded(parts)
        if self.saved is not None:
            recipe.save(self.saved)
            self.written = parts
        return recipe

    @property
    def _pace(self) -> float:
        assert self.parts.seconds_per_update is not None  # `rate` has seen to it
        return self.parts.seconds_per_update

    def _count_anew(self) -> None:
        """The budget in updates, where it is a time: those made, and those that the rest of it is enough for."""
        if (time := self.time) is not None:
            more = self.ranks.compute_on_first("the time", lambda: time.updates(self._pace, self.ranks.world_size))
            self.parts = replace(self.parts, budget=self.parts.steps + more)

    def _change_batch_size(self, batch_size: int) -> None:
        """Go on with a loader of other batches; the user's task keeps its own."""
        loader = self.task.train_loader
        if not isinstance(loader, DataLoader) or loader.batch_size == batch_size:
            return
        names = ("dataset", "sampler", "num_workers", "collate_fn", "pin_memory", "drop_last", "generator")
        given = {name: getattr(loader, name) for name in (*names, "worker_init_fn", "multiprocessing_context")}
        self.task = replace(self.task, train_loader=DataLoader(batch_size=batch_size, **given))


def _require_sizable(loader: Any) -> None:
    """Raises ValueError unless batches of another size can be drawn from it."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        raise ValueError(
            f"train_loader: got {type(loader).__name__}, whose batches are made already; batch_sizes needs a "
            "DataLoader with a batch_size, over a map-style dataset; give one, or leave batch_sizes out"
        )
    checked_loader(loader)


def _updates(runs: Iterable[Runs]) -> int:
    return sum(np.size(history.train_loss) for repeats in runs for history in repeats)


def _told(model: nn.Module) -> str:
    params = list(model.parameters())
    return f"{type(model).__name__}, {sum(param.numel() for param in params)} elements in {len(params)} tensors"


def _runs_within(steps: int, planned_steps: int) -> tuple[tuple[float, ...], int, bool]:
    """The grid of weight decays, the steps of each run, and whether to bisect, within so many steps."""
    if steps < GRID_RUNS * LEAST_STEPS:
        return SMALL_GRID, steps // (len(SMALL_GRID) * REPEATS), False
    with_momentum = steps // (GRID_RUNS + MOMENTUM_RUNS)
    each = with_momentum if with_momentum >= MOMENTUM_STEPS else steps // GRID_RUNS
    return GRID, min(each, _longest(planned_steps)), True


def _longest(planned_steps: int) -> int:
    return max(STEPS, planned_steps // 10)
