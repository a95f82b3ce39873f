"""``find_recipe``: checks the arguments of a search for a recipe, and runs its stages."""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from .._checks import is_whole
from .._progress import Progress
from ..tasks import Task
from ..training import StepOptions
from ..training._step_options import StepKeywords, resolve_options
from ._batch_size import checked_loader
from ._data_overlap import require_disjoint
from ._optimizers import OptimizerName, require_optimizer_name
from ._recipe import Recipe, conclude
from ._search import Search
from ._shared_trials import Group, joined_ranks, require_no_ddp, require_same_start
from ._stages import run_stages
from ._step_allocation import MIN_BUDGET, MIN_TRIAL_STEPS, SMALL_GRID_TRIALS
from ._step_budget import Budget, StepBudget
from ._study_file import StudyFile
from ._time_budget import TimeBudget

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_PLANNED_STEPS = 10_000
"""Length of the planned training if the caller gives none: typical of small networks."""

DEFAULT_BUDGET_DIVISOR = 10
"""Divisor of the planned training that gives the default budget."""


def find_recipe(
    task: Task,
    budget: int | timedelta | None = None,
    *,
    planned_steps: int | None = None,
    optimizer: OptimizerName = "sgd",
    batch_sizes: bool = False,
    saved: str | os.PathLike[str] | None = None,
    group: Group = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> Recipe:
    """Find learning rate, batch size, weight decay and momentum by short trials, in the order of Smith's report.

        small budget: range test -> batch size, range test -> weight decay, range test if it is large -> momentum
        large budget: range test -> batch size, range test -> rate and weight decay together

    The budget decides the length of the trials. Each range test takes at most 112 steps, and the weight-decay trials
    get the rest. If that also allows momentum trials of 100 steps, the weight decays get 12/22 of it and the momenta
    10/22. A setting that such trials cannot decide keeps its default; that of the momentum is the cycle from 0.95 to
    0.85. A budget of about twice ``planned_steps`` or more goes into at least eight long trials, whose end predicts the
    end of the training; see ``find_pair``. With a budget of eight trainings and 112 steps, these trials are as long as
    the training. A larger budget adds trials.

    All trials start from the current model. Afterwards everything is restored, as after ``range_test``.

    Args:
        task: a task with validation data that are not in its training data.
        budget: limit on the steps of the search, >= 464, without those of the batch sizes. None: a tenth of
            ``planned_steps``, at least 464. Or a time that starts now, ``datetime.timedelta(minutes=5)``: the first
            range test measures how many steps fit, and no trial starts that is expected to end later. Range tests and
            batch sizes are not interrupted.
        planned_steps: length of the training that the recipe is for, >= 1; None: 10,000. A trial much shorter than a
            tenth of the training shows little. Short trials are at most that long (or 200 steps), long ones at least a
            quarter of the training.
        optimizer: name of the optimizer that the recipe is for: "sgd" or "adamw". The momentum is beta1 of AdamW, and
            its weight decays are 100 times those of SGD, so that 1e-4 becomes 0.01.
        batch_sizes: whether to look for a faster batch size, up to a 20th of the samples. The ``train_loader`` is then
            a DataLoader over a map-style dataset, and all free memory is used.
        saved: path of a JSON file to which all results are written as they arrive. A later call continues from the
            file and does not measure its results again, regardless of the other arguments. After a kill, the steps of
            the trial that was running count as used, because a killed process cannot write. Trials that an exception
            such as Ctrl-C ends do not count, nor does the first range test, before which there is no file.
        group: a ``torch.distributed`` process group whose ranks all make this call, see ``find_weight_decay``. The
            first rank alone makes range tests, batch sizes and long trials, reads the clock, writes the file and
            reports progress.
        progress: ``progress(done, total, shown)`` with the budget as the total, which need not be reached. True shows a
            bar for each stage with tqdm. The log "clrfast.recipe" gets the result of each stage.
        options, step_options: see ``range_test``.
    Returns:
        The recipe; train with ``recipe.optimizer(model, total_steps)``.
    Raises:
        TypeError: a keyword is unknown.
        ValueError: an argument is wrong; the task has no validation data, or they are visibly in the training data; the
            budget is too small (if it is a time, this shows after the first range test, which ``saved`` keeps); the
            file is of another model, batch size or optimizer; the ranks differ in model or data.
        NoSuggestionError: the first range test has no valid answer.
        RankError: another rank of the group failed or has ended; ``saved`` has the results until then.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", section 5.
    """
    if not isinstance(task, Task):
        raise ValueError(
            f"task: got {type(task).__name__}; give clrfast.Task(model, loss_fn, train_loader, val_loader)"
        )
    require_optimizer_name(optimizer)
    limit, budget_steps, planned_steps = _checked_budget(budget, planned_steps)
    with joined_ranks(group) as ranks:
        options = resolve_options(options, step_options, "find_recipe")
        require_disjoint(task.train_loader, task.val_loader)
        require_no_ddp(task.model)
        if batch_sizes:
            _require_resizable(task.train_loader)
        require_same_start(ranks, task.model, train_loader=task.train_loader, val_loader=task.val_loader)
        file = StudyFile(None if saved is None else Path(saved))
        search = Search(task, options, ranks.progress_on_first(progress), limit, ranks, file)
        search.open_study(budget_steps, planned_steps, optimizer)
        with file.refunding():
            study = run_stages(search, batch_sizes=batch_sizes)
    return conclude(study)


def _checked_budget(budget: Any, planned_steps: Any) -> tuple[Budget, int, int]:
    """Return the budget, its steps (the minimum for a budget of time), and the length of the planned training."""
    if isinstance(budget, str):
        raise ValueError(
            f"budget: got {budget!r}; give updates, as 600, or a time as datetime.timedelta(minutes=5) or (seconds=90)"
        )
    planned_steps = DEFAULT_PLANNED_STEPS if planned_steps is None else planned_steps
    _require_steps("planned_steps", planned_steps, 1, "the updates of the training")
    planned_steps = int(planned_steps)
    if budget is None and planned_steps < MIN_BUDGET:
        warnings.warn(
            f"planned_steps: got {planned_steps}, and the search itself needs {MIN_BUDGET} updates, more than the "
            f"training; give budget={MIN_BUDGET} to make it all the same, or call range_test, which needs about 100",
            stacklevel=3,
        )
    if isinstance(budget, timedelta):
        return TimeBudget(budget), MIN_BUDGET, planned_steps
    steps = max(planned_steps // DEFAULT_BUDGET_DIVISOR, MIN_BUDGET) if budget is None else budget
    reason = f"two range tests and {SMALL_GRID_TRIALS} runs of {MIN_TRIAL_STEPS} updates; fewer say nothing"
    _require_steps("budget", steps, MIN_BUDGET, reason)
    return StepBudget(), int(steps), planned_steps


def _require_steps(name: str, value: Any, least: int, reason: str) -> None:
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}: got {value!r}; give a whole number of steps, at least {least}: {reason}")


def _require_resizable(loader: Any) -> None:
    """Raise ValueError unless the loader can be replaced by one with another batch size."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        raise ValueError(
            f"train_loader: got {type(loader).__name__}, whose batches are made already; batch_sizes needs a "
            "DataLoader with a batch_size, over a map-style dataset; give one, or leave batch_sizes out"
        )
    checked_loader(loader)
