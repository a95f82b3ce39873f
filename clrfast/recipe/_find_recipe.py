"""``find_recipe``: checks the arguments of a search for a recipe, joins its study, and works on it."""

from __future__ import annotations

import contextlib
import logging
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from .._checks import is_whole
from .._digest import digest
from .._progress import Progress, show_progress
from ..batch_size._find_batch_size import checked_loader
from ..diagnosis import History
from ..tasks import Task
from ..training import StepOptions
from ..training._preservation import preserve_rng_and_loaders
from ..training._step_options import StepKeywords, resolve_options
from ._optimizers import OPTIMIZERS, OptimizerName, require_optimizer_name
from ._plan import (
    MIN_BUDGET,
    MIN_TRIAL_STEPS,
    due_trials,
    is_complete,
    require_enough_time,
    within_deadline,
)
from ._recipe import Recipe, conclude
from ._setting_trials import SMALL_GRID_TRIALS
from ._stacked_trials import MAX_COPIES
from ._storage import Claim, TrialStore, require_optuna
from ._study import SearchSettings, Study, TrialSpec, range_test_key
from ._trial_runner import TrialRunner

if TYPE_CHECKING:
    import optuna
    from typing_extensions import Unpack

logger = logging.getLogger("clrfast.recipe")

POLL_SECONDS = 0.2
"""Interval at which a worker reads the study while other workers run all trials that are due."""

DEFAULT_PLANNED_STEPS = 10_000
"""Length of the planned training if the caller gives none: typical of small networks."""

DEFAULT_BUDGET_DIVISOR = 10
"""Divisor of the planned training that gives the default budget."""


def find_recipe(
    task: Task,
    budget: int | timedelta | None = None,
    *,
    planned_steps: int | None = None,
    optimizers: OptimizerName | Sequence[OptimizerName] = "sgd",
    batch_sizes: bool = False,
    storage: Any = None,
    study_name: str = "recipe",
    sampler: optuna.samplers.BaseSampler | None = None,
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
    0.85. A budget of about twice ``planned_steps`` for each optimizer goes into at least eight long trials, whose end
    predicts that of the training; see ``find_pair``. With a budget of eight trainings and 112 steps, these trials are
    as long as the training. A larger budget adds trials.

    If the ramps of the first range test show no rate, they are repeated with trials of the finder. These few hundred
    steps count in the budget; a very small one is then exceeded.

    All trials start from the current model. Afterwards everything is restored, as after ``range_test``.

    The search is a study of Optuna, and every range test and training is a trial of it. Any number of processes may
    make the same call with the same ``storage``, at any time, on any machine: each is a worker, and all return the same
    recipe. A worker that ends loses its running trial only. Another takes it over: at once if an exception or Ctrl-C
    ended the worker, and within about a minute of a kill. So a later call with the same ``storage`` continues a search.
    The random numbers of a trial depend on the search alone, so its result does not depend on the worker. A search by
    one worker is reproducible; several workers place their pairs by the trials that have ended by then.

    Args:
        task: a task with validation data that are not in its training data. All workers make it with the same weights
            and data.
        budget: limit on the steps of the search, >= 464 for each optimizer, without those of the batch sizes. None: a
            tenth of ``planned_steps``, at least that. Or a time, ``datetime.timedelta(minutes=5)``: the first range
            test measures how many steps fit, and no trial starts that is expected to end later. Range tests, batch
            sizes and the first three pairs are not interrupted.
        planned_steps: length of the training that the recipe is for, >= 1; None: 10,000. A trial much shorter than a
            tenth of the training shows little. Short trials are at most that long (or 200 steps), long ones at least a
            quarter of the training.
        optimizers: name of the optimizer that the recipe is for, "sgd" or "adamw"; or several to choose from by the
            validation loss, ``("sgd", "adamw")``, which share the budget. The momentum is beta1 of AdamW, and its
            weight decays are 100 times those of SGD, so that 1e-4 becomes 0.01.
        batch_sizes: whether to look for a faster batch size, up to a 20th of the samples. The ``train_loader`` is then
            a DataLoader over a map-style dataset, and all free memory is used.
        storage: where the study is kept: the path of a journal file, the URL of a database, or a storage of Optuna.
            None: in the memory of this process. ``optuna-dashboard PATH`` shows a journal file.
        study_name: name of the study in the storage.
        sampler: a sampler of Optuna that places the pairs in place of a Gaussian process over rate and weight decay.
        progress: ``progress(done, total, shown)`` with the budget as the total, which need not be reached. True shows a
            bar with tqdm. The log "clrfast.recipe" gets the result of each trial of this worker.
        options, step_options: see ``range_test``.
    Returns:
        The recipe; train with ``recipe.optimizer(model, total_steps)``.
    Raises:
        ModuleNotFoundError: Optuna is not installed.
        TypeError: a keyword is unknown.
        ValueError: an argument is wrong; the task has no validation data, or they are visibly in the training data; the
            budget is too small (if it is a time, this shows after the first range test); the study was begun with other
            arguments, another model or other data.
        NoSuggestionError: the first range test has no valid answer.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", section 5.
    """
    if not isinstance(task, Task):
        raise ValueError(
            f"task: got {type(task).__name__}; give clrfast.Task(model, loss_fn, train_loader, val_loader)"
        )
    names = _checked_names(optimizers)
    steps, seconds, planned_steps = _checked_budget(budget, planned_steps, len(names))
    options = resolve_options(options, step_options, "find_recipe")
    runner = TrialRunner(task, options)
    if batch_sizes:
        _require_resizable(task.train_loader)
    require_optuna()
    _require_sampler(sampler)
    if not isinstance(study_name, str) or not study_name:
        raise ValueError(f"study_name: got {study_name!r}; give a text")
    store = TrialStore(storage, study_name, sampler)
    with (
        preserve_rng_and_loaders(task.train_loader, task.val_loader),
        show_progress(progress, "recipe", reaches_total=False) as show,
    ):
        settings = SearchSettings(
            planned_steps=planned_steps,
            optimizers=names,
            find_batch_size=bool(batch_sizes),
            budget=steps,
            seconds=seconds,
            deadline=None if seconds is None else time.time() + seconds,
            sampler=None if sampler is None else type(sampler).__name__,
            model=_describe(task.model),
            batch_size=getattr(task.train_loader, "batch_size", None),
            seed=int(digest(torch.get_rng_state())[:8], 16),
            digests={},
        )
        if storage is not None:
            settings = replace(settings, digests=_digests(task, options, settings.seed))
        joined = store.join(settings)
        if joined.seed != settings.seed:
            settings = replace(settings, digests=_digests(task, options, joined.seed))
        _require_same_search(settings, joined)
        return conclude(_Worker(store, runner, show).work())


class OtherSearchError(ValueError):
    """The study was begun with other arguments, another model or other data.

    Args:
        begun: with what.
        names: of the arguments that differ.
    """

    def __init__(self, begun: str, names: Sequence[str] = ()):
        self.names = names
        super().__init__(f"study_name: its search was begun with {begun}")


class _Worker:
    """Runs the trials of a search that are due, until none is left.

    Args:
        store: the study, which this worker has joined.
        runner: runs the trials.
        progress: receives the steps of the search.
    """

    def __init__(self, store: TrialStore, runner: TrialRunner, progress: Progress | None):
        self._store, self._runner, self._progress = store, runner, progress

    def work(self) -> Study:
        """Return the study once no trial is left, those of other workers included."""
        self._extend_deadline()
        has_run = waits = False
        while True:
            study, running = self._store.read()
            require_enough_time(study)
            due = due_trials(study, running)
            taken = {spec.key for spec in running}
            free = within_deadline(study, [spec for spec in due if spec.key not in taken], time.time())
            if free:
                self._run(study, self._choose(free))
                has_run, waits = True, False
            elif others := taken.intersection(spec.key for spec in due):
                if not waits:
                    logger.info("waiting for other workers: %s", ", ".join(sorted(others)))
                waits = True
                time.sleep(POLL_SECONDS)
            elif has_run or not self._extend_deadline():  # a killed worker's trial may have hidden that time was up
                return study

    def _extend_deadline(self) -> bool:
        """Give an interrupted search, whose time is up, the same time again; return whether it needed that."""
        study, running = self._store.read()
        deadline, seconds = study.settings.deadline, study.settings.seconds
        if deadline is None or seconds is None or running or time.time() <= deadline or is_complete(study):
            return False
        self._store.set_deadline(time.time() + seconds)
        return True

    def _choose(self, free: list[TrialSpec]) -> list[TrialSpec]:
        """Return the trial to run, or those to run at once. Workers prefer different ones."""
        first = free[self._store.ordinal % len(free)]
        if not self._runner.stacks or first.stage not in ("weight decay", "momentum"):
            return [first]
        return [spec for spec in free if _shared_part(spec) == _shared_part(first)][:MAX_COPIES]

    def _run(self, study: Study, specs: list[TrialSpec]) -> None:
        with contextlib.ExitStack() as stack:
            claims = [stack.enter_context(claim) for spec in specs if (claim := self._store.claim(spec)) is not None]
            if claims and specs[0].stage == "pair":
                claims = self._place(study, claims[0])
            if not claims:
                return
            with _seeded(study.settings.seed):
                self._measure(study, claims)

    def _place(self, study: Study, claim: Claim) -> list[Claim]:
        """Let the sampler choose the settings of a pair; return no claim if it expects no improvement."""
        from optuna.exceptions import UpdateFinishedTrialError

        from ._optuna_sampler import NoPairError, PairSampler, suggest_pair

        if study.settings.sampler is None:
            self._store.study.sampler = PairSampler(self._store)
        while not claim.earlier_pairs_are_placed():
            time.sleep(POLL_SECONDS / 10)
        try:
            point = suggest_pair(claim, self._store.study, study)
            claim.place(replace(claim.spec, **vars(point)))
        except (NoPairError, UpdateFinishedTrialError):  # the latter if another worker took the trial over
            return []
        return [claim]

    def _measure(self, study: Study, claims: list[Claim]) -> None:
        specs, show = [claim.spec for claim in claims], self._progress
        total = max(study.budget, MIN_BUDGET)
        report = None if show is None else lambda done, _, shown: show(study.steps + done, total, shown)
        started = time.perf_counter()
        results = self._runner.run(specs, report)
        seconds = time.perf_counter() - started
        for claim, result in zip(claims, results, strict=True):
            per_step = None
            if study.settings.seconds is not None and isinstance(result, History):
                per_step = seconds / sum(spec.steps for spec in specs)
            elif study.settings.seconds is not None and claim.spec.key == range_test_key(claim.spec.optimizer):
                per_step = self._runner.seconds_per_step(claim.spec)
            trial = claim.finish(result, per_step)
            if trial is not None:
                logger.info("%s", trial)
                if show is not None:
                    show(study.steps + trial.steps, total, {})


def _shared_part(spec: TrialSpec) -> TrialSpec:
    """Return what trials that run at once have in common."""
    return replace(spec, key="", momentum=None, weight_decay=0.0)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed all random numbers for a block, and restore their states."""
    with preserve_rng_and_loaders():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        yield


def _describe(model: torch.nn.Module) -> str:
    params = list(model.parameters())
    return f"{type(model).__name__}, {sum(param.numel() for param in params)} elements in {len(params)} tensors"


def _digests(task: Task, options: StepOptions, seed: int) -> dict[str, str]:
    """Return hashes of what must be equal for all workers, by name."""
    loss = task.loss_fn if task.compute_loss is None else task.compute_loss
    state = loss.state_dict() if isinstance(loss, torch.nn.Module) else getattr(loss, "__qualname__", "")
    found = {"model": digest(task.model.state_dict()), "loss": digest([type(loss).__name__, state])}
    loaders: dict[str, Any] = {"training data": task.train_loader, "validation data": task.val_loader}
    for name, loader in loaders.items():
        with preserve_rng_and_loaders(loader), _seeded(seed):
            found[name] = digest([len(loader) if hasattr(loader, "__len__") else None, next(iter(loader), None)])
    found["set of options"] = digest([options.accumulate, options.clip_norm, str(options.autocast)])
    return found


def _require_same_search(mine: SearchSettings, theirs: SearchSettings) -> None:
    """Raise ValueError if the study was begun with other arguments, another model or other data."""
    here, there = _described(mine), _described(theirs)
    names = [name for name in here if here[name] != there[name]]
    if names:
        begun, now = (", ".join(f"{name} {values[name]}" for name in names) for values in (there, here))
        raise OtherSearchError(f"{begun}, and this call has {now}; give the same, or another study_name", names)
    differ = [name for name, found in mine.digests.items() if found != theirs.digests.get(name)]
    if differ:
        raise OtherSearchError(
            f"another {', another '.join(differ)}, so trials could not be "
            "compared; make the task with the same seed in every process (torch.manual_seed), each over all of the "
            "data (no DistributedSampler), or give another study_name"
        )


def _described(settings: SearchSettings) -> dict[str, str]:
    """Return what all workers must have in common, in words, by the names of the arguments."""
    budget = f"{settings.budget} steps" if settings.seconds is None else f"{settings.seconds:g} s"
    return {
        "budget": budget,
        "planned_steps": str(settings.planned_steps),
        "optimizers": " and ".join(settings.optimizers),
        "batch_sizes": str(settings.find_batch_size),
        "sampler": str(settings.sampler),
        "model": settings.model,
        "loader's batch size": str(settings.batch_size),
    }


def _checked_names(optimizers: Any) -> tuple[OptimizerName, ...]:
    names = (optimizers,) if isinstance(optimizers, str) else optimizers
    if not isinstance(names, Sequence) or not names or any(name in names[:i] for i, name in enumerate(names)):
        raise ValueError(
            f"optimizers: got {optimizers!r}; give {', '.join(map(repr, OPTIMIZERS))} or several of them, each once"
        )
    for name in names:
        require_optimizer_name(name)
    return tuple(names)


def _checked_budget(budget: Any, planned_steps: Any, n_optimizers: int) -> tuple[int | None, float | None, int]:
    """Return the budget in steps or in seconds, and the length of the planned training."""
    if isinstance(budget, str):
        raise ValueError(
            f"budget: got {budget!r}; give updates, as 600, or a time as datetime.timedelta(minutes=5) or (seconds=90)"
        )
    planned_steps = DEFAULT_PLANNED_STEPS if planned_steps is None else planned_steps
    _require_steps("planned_steps", planned_steps, 1, "the updates of the training")
    planned_steps, least = int(planned_steps), n_optimizers * MIN_BUDGET
    if budget is None and planned_steps < least:
        warnings.warn(
            f"planned_steps: got {planned_steps}, and the search itself needs {least} updates, more than the "
            f"training; give budget={least} to search all the same, or call range_test, which needs about 100",
            stacklevel=3,
        )
    if isinstance(budget, timedelta):
        if budget <= timedelta(0):
            raise ValueError(f"budget: got {budget!r}; give a time above 0, as datetime.timedelta(minutes=5)")
        return None, budget.total_seconds(), planned_steps
    steps = max(planned_steps // DEFAULT_BUDGET_DIVISOR, least) if budget is None else budget
    trials = n_optimizers * SMALL_GRID_TRIALS
    reason = f"range tests and {trials} trials of {MIN_TRIAL_STEPS} updates; fewer show nothing"
    _require_steps("budget", steps, least, reason)
    return int(steps), None, planned_steps


def _require_sampler(sampler: Any) -> None:
    from optuna.samplers import BaseSampler

    if sampler is not None and not isinstance(sampler, BaseSampler):
        raise ValueError(f"sampler: got {type(sampler).__name__}; give a sampler of Optuna, or None for the default")


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
