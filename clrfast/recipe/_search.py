"""``Search``: a search for a recipe, with its study and the file, budget, ranks and progress that stages share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from .._distributed import Ranks
from .._progress import Progress
from ..finder import LRCurve, range_test
from ..optim import FusedOptimizer
from ..tasks import Task
from ..training import StepOptions
from ._optimizers import OptimizerName, trial_optimizer
from ._recipe import conclude
from ._step_allocation import RANGE_TEST_STEPS
from ._step_budget import Budget
from ._study import Study
from ._study_file import StudyFile
from ._trials import FinishedTrials, PendingTrials

logger = logging.getLogger("clrfast.recipe")

T = TypeVar("T")


@dataclass
class Search:
    """A search in progress.

    Attributes:
        task: the task, with the batch size that was found.
        options: the options of every step.
        progress: the user's progress.
        budget: the limit, in steps or in time.
        ranks: the ranks that search together.
        file: the file of the study.
        study: all measurements so far; equal on all ranks.
    """

    task: Task
    options: StepOptions
    progress: Progress | bool | None
    budget: Budget
    ranks: Ranks
    file: StudyFile
    study: Study = field(init=False)

    def open_study(self, budget: int, planned_steps: int, optimizer: OptimizerName) -> None:
        """Start a study, or continue the one in the file."""
        self.study = self.on_first_rank(
            "the saved file", lambda: self.file.open(self.task, budget, planned_steps, optimizer)
        )
        if self.study.batch_sizes is not None:
            self.set_batch_size(self.study.batch_sizes.fastest)
        if not self.budget.needs_timing(self.study):
            self._update_budget()

    @property
    def max_lr(self) -> float:
        """The best rate so far."""
        return conclude(self.study).max_lr

    def on_first_rank(self, what: str, call: Callable[[], T]) -> T:
        """Call on the first rank and return its result on all; ``what`` names the call in errors."""
        return self.ranks.compute_on_first(what, call)

    def remaining_steps(self, n_ranks: int) -> int:
        """Return how many steps the budget leaves to ``n_ranks`` that share them."""
        return self.on_first_rank("the time", lambda: self.budget.remaining_steps(self.study, n_ranks))

    def require_enough(self) -> None:
        """Raise ValueError if the budget is too small for any trial, unless trials have finished already."""
        if self.study.weight_decay_trials is None and self.study.pair_trials is None:
            self.budget.require_enough(self.study, self.ranks.world_size, self.file.hint)

    def keep(self, setting: str, steps: int, measured: dict[str, Any]) -> None:
        """Add the measurements of a stage, which took ``steps``, to the study; save it, and log the new setting."""
        self.study = replace(self.study, steps=self.study.steps + steps, **measured)
        self._update_budget()
        if self.ranks.rank == 0:
            recipe = self.file.save(self.study)
            logger.info("%s: %s; %s", setting, recipe.settings[setting], recipe.evidence[setting])

    def _update_budget(self) -> None:
        self.study = replace(self.study, budget=self.study.steps + self.remaining_steps(self.ranks.world_size))

    def note_start(self, steps: int) -> None:
        """Save that ``steps`` start now. Before the first range test there is no file."""
        if self.ranks.rank == 0 and self.study.range_tests:
            self.file.save(replace(self.study, started_steps=steps))

    def arguments(self, counted_steps: int = 0) -> dict[str, Any]:
        """Return the arguments that all measurements share: model, options and progress.

        Args:
            counted_steps: the steps of the study that the measurement counts in its own progress.
        """
        done, show = self.study.steps - counted_steps, self.progress

        def show_all(n: int, _: int, shown: dict[str, float]) -> None:
            assert callable(show)
            show(done + n, self.study.budget, shown)

        return {"model": self.task, "options": self.options, "progress": show_all if callable(show) else show}

    def trial_arguments(self, pending: PendingTrials) -> dict[str, Any]:
        """Return the arguments of trials with one setting, which continue ``pending`` and are saved as they finish."""

        def save(finished: FinishedTrials, started_steps: int) -> None:
            now = pending.with_finished(finished)
            steps = self.study.steps + now.finished_steps - pending.finished_steps
            self.file.save(replace(self.study, steps=steps, pending_trials=now, started_steps=started_steps))

        return {
            **self.arguments(pending.finished_steps),
            "optimizer": self.study.optimizer,
            "group": self.ranks,
            "max_seconds": self.budget.remaining_seconds,
            "max_lr": pending.max_lr,
            "steps": pending.steps,
            "finished": pending.finished,
            "save": save,
        }

    def range_test(self, weight_decay: float = 0.0) -> LRCurve:
        """Run a range test on the first rank; a budget of time also measures the time of a step."""
        task = self.task
        optimizer = trial_optimizer(self.study.optimizer, task, weight_decay)
        self.note_start(RANGE_TEST_STEPS)
        progress = self.arguments()["progress"]
        run = partial(_range_test, task, self.options, optimizer)
        timed = partial(self.budget.run_range_test, run, task, self.options, progress)
        curve, seconds = self.on_first_rank("a range test", timed)
        if seconds is not None:
            self.study = replace(self.study, seconds_per_step=seconds)
        return curve

    def set_batch_size(self, batch_size: int) -> None:
        """Continue with a loader of another batch size; the user's task is not changed."""
        loader = self.task.train_loader
        if not isinstance(loader, DataLoader) or loader.batch_size == batch_size:
            return
        names = ("dataset", "sampler", "num_workers", "collate_fn", "pin_memory", "drop_last", "generator")
        given = {name: getattr(loader, name) for name in (*names, "worker_init_fn", "multiprocessing_context")}
        self.task = replace(self.task, train_loader=DataLoader(batch_size=batch_size, **given))


def _range_test(
    task: Task, options: StepOptions, optimizer: FusedOptimizer | None, progress: Progress | bool | None
) -> LRCurve:
    return range_test(model=task, options=options, optimizer=optimizer, trials=False, group=None, progress=progress)
