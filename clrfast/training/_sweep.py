"""``sweep``: the copies made, the way to train them chosen, and the results of both ways."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .._progress import Progress, show_progress
from ..optim._control import require_divergence_limits
from ..schedules import Schedule
from . import _graph_cache as graphs
from ._batches import cycle_loader, require_iterable
from ._loss_modules import find_loss_modules
from ._losses import ComputeLoss, resolve_loss
from ._prefetch import prefetch
from ._preserve import preserve_rng_and_loaders
from ._stacked_step import StackedStep, SweepSetup
from ._train_step import TrainStep

Vectorize = bool | Literal["auto"]

TIMED_STEPS = 1
"""Steps of both ways that are timed for "auto" to choose the faster one; those before them load, tune and capture."""


@dataclass(frozen=True, eq=False)
class SweepResult:
    """What the runs of a ``sweep`` ended with, in the order of its schedules.

    Attributes:
        losses: float32 ``[K, total_steps]`` on the CPU: the loss before each update; NaN after a run has stopped.
        steps: int64 ``[K]``: applied updates.
        stopped: bool ``[K]``: whether the run diverged or had a loss that is not finite.
        models: K trained models, in training mode.
        sequential_reason: one sentence that says why the runs were made one after the other; None where they were made
            together.
    """

    losses: Tensor
    steps: Tensor
    stopped: Tensor
    models: list[nn.Module]
    sequential_reason: str | None


def sweep(
    make_model: Callable[[], nn.Module],
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    schedules: Sequence[Schedule] = (),
    *,
    compute_loss: ComputeLoss | None = None,
    seeds: int | Sequence[int] = 0,
    momentum: float = 0.9,
    smoothing: float = 0.98,
    stop_factor: float = 4.0,
    vectorize: Vectorize = "auto",
    progress: Progress | bool | None = None,
) -> SweepResult:
    """Train a copy of a model by each of ``schedules``, all on the same batches, together where that is faster.

    Vectorize means: parameters stacked, one forward and backward pass of all by ``torch.func.vmap``, and for each copy
    a ``clrfast.SGD`` on its part of them, with its own schedule. A device that a small model leaves idle then takes
    little longer for K copies than for one. A copy that diverges stops, and the others go on. The host never waits for
    a step. Results are those of K runs in sequence up to rounding, except for models that draw random numbers
    (dropout).

    Args:
        make_model: called once per copy, right after seeding torch with the copy's seed.
        loss_fn, loader, compute_loss: as of ``range_test``.
        schedules: K of them, one parameter group each, with one ``total_steps``.
        seeds: of the initial weights: one for all copies, or K of them.
        momentum: for schedules that leave it to the optimizer. Weight decay is 0 for those that have none.
        smoothing, stop_factor: when a run has diverged; see ``StepControl.watch_divergence``.
        vectorize: True, False, or "auto": some steps are made one way, the next ones the other, and the rest the faster
            way.
        progress: ``progress(done, total, {})``; True for a bar, if tqdm is installed.
    Raises:
        ValueError: bad arguments; ``vectorize=True`` for a model that ``vmap`` cannot run, with its reason.
    """
    if own := find_loss_modules(loss_fn, compute_loss):
        raise ValueError(
            f"loss_fn, compute_loss: got a loss with parameters of its own ({type(own[0]).__name__}), which all copies "
            "would share; make_model must return them within the model"
        )
    compute_loss = resolve_loss(loss_fn, compute_loss)
    require_iterable(loader)
    assert loader is not None
    total_steps = _total_steps(schedules)
    require_divergence_limits(smoothing, stop_factor)
    if vectorize not in (True, False, "auto"):
        raise ValueError(f"vectorize: got {vectorize!r}; give True, False or 'auto'")
    models = _made(make_model, seeds, len(schedules))
    runs = SweepSetup(models, compute_loss, schedules, momentum, smoothing, stop_factor)
    begun = _choose_way(runs, loader, total_steps, vectorize)
    if vectorize is True and begun.sequential_reason is not None:
        raise ValueError(f"vectorize: got True, and {begun.sequential_reason}; give 'auto' or False")
    with show_progress(progress, f"{len(models)} replicas") as show:
        finish = _train_sequentially if begun.stacked is None else _train_stacked
        return finish(runs, begun, loader, total_steps, show)


def _total_steps(schedules: Any) -> int:
    if not isinstance(schedules, Sequence) or not schedules:
        raise ValueError(f"schedules: got {schedules!r}; give a list of schedules, one for each copy")
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedules: got {schedule!r} among them; give clrfast.Schedule, for example one_cycle()")
        if schedule.n_groups > 1:
            raise ValueError("schedules: got one with several groups; the copies have one parameter group each")
    lengths = {schedule.total_steps for schedule in schedules}
    if len(lengths) > 1 or None in lengths:
        raise ValueError(f"schedules: got total_steps of {sorted(map(str, lengths))}; give all the same number")
    (total_steps,) = lengths
    assert total_steps is not None
    return total_steps


def _made(make_model: Any, seeds: Any, n: int) -> list[nn.Module]:
    if not callable(make_model) or isinstance(make_model, nn.Module):
        raise ValueError(f"make_model: got {type(make_model).__name__}; give a function that returns a new model")
    each = [seeds] * n if isinstance(seeds, int) else list(seeds)
    if len(each) != n:
        raise ValueError(f"seeds: got {len(each)} for {n} schedules; give one number, or one for each")
    models = []
    with preserve_rng_and_loaders():
        for seed in each:
            torch.manual_seed(seed)
            models.append(make_model())
    for model in models:
        if not isinstance(model, nn.Module):
            raise ValueError(f"make_model: it returned {type(model).__name__}; return a torch.nn.Module")
        if any(isinstance(param, UninitializedParameter) for param in model.parameters()):
            raise ValueError("make_model: it returned lazy modules; run one batch through the model first")
        if not any(param.requires_grad for param in model.parameters()):
            raise ValueError("make_model: it returned a model without trainable parameters")
        model.train()
    _require_apart(models)
    return models


def _require_apart(models: Sequence[nn.Module]) -> None:
    """Raises ValueError if two of ``models`` would train the same parameters."""
    if len({id(model) for model in models}) < len(models):
        raise ValueError("make_model: it returned the same model again; it must make a new one at every call")
    trained = [id(param) for model in models for param in model.parameters() if param.requires_grad]
    if len(set(trained)) < len(trained):
        raise ValueError("make_model: it returned models that share parameters; it must make new ones at every call")


def _train_sequentially(
    runs: SweepSetup, begun: _PartialSweep, loader: Iterable[Any], total_steps: int, show: Progress | None
) -> SweepResult:
    n = len(runs.models)
    steps = begun.steps or runs.steps()
    for index, step in enumerate(steps):
        last = index == n - 1
        # Every run sees the same batches; only the last leaves its mark on the loader.
        with preserve_rng_and_loaders(*([] if last else [loader])):
            for done, batch in begun.rest(loader, total_steps, step.device):
                step(batch)
                if show is not None:
                    show(index * total_steps + done + 1, n * total_steps, {})
    for model in runs.models:
        model.zero_grad(set_to_none=True)
    return _ended(runs, [step.optimizer for step in steps], begun.sequential_reason)


def _train_stacked(
    runs: SweepSetup, begun: _PartialSweep, loader: Iterable[Any], total_steps: int, show: Progress | None
) -> SweepResult:
    stacked = begun.stacked
    assert stacked is not None
    with _slow_rules_accepted():
        for done, batch in begun.rest(loader, total_steps, stacked.device):
            stacked.train(batch)
            if show is not None:
                show(done + 1, total_steps, {})
    stacked.copy_to_models()
    return _ended(runs, stacked.optimizers, None)


def _ended(runs: SweepSetup, optimizers: Sequence[Any], sequential_reason: str | None) -> SweepResult:
    controls = [optimizer.control for optimizer in optimizers]
    losses, steps, stopped = (
        torch.stack([getattr(control, name) for control in controls]).cpu() for name in ("losses", "step", "stop")
    )
    return SweepResult(losses, steps, stopped, runs.models, sequential_reason)


@contextlib.contextmanager
def _slow_rules_accepted() -> Iterator[None]:
    """A block in which torch does not warn of operations that vmap loops over: what they cost is measured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


@dataclass
class _PartialSweep:
    """SweepSetup whose first ``done`` steps are made, to go on by ``stacked``, or by ``steps`` where it is None."""

    sequential_reason: str | None
    stacked: StackedStep | None = None
    steps: list[TrainStep] | None = None
    done: int = 0

    def rest(self, loader: Iterable[Any], total_steps: int, device: torch.device) -> Iterator[tuple[int, Any]]:
        """The numbers and the batches of the steps that are left."""
        batches = islice(cycle_loader(loader), self.done, None)
        return zip(range(self.done, total_steps), prefetch(batches, device), strict=False)


def _choose_way(runs: SweepSetup, loader: Iterable[Any], total_steps: int, vectorize: Vectorize) -> _PartialSweep:
    """Choose the way to train by making the first steps, for "auto" one by one and then together; they all count, for
    one way takes over from the other. The loader's order and random numbers are as before."""
    if vectorize is False:
        return _PartialSweep("vectorize=False was given")
    if vectorize == "auto" and len(runs.models) == 1:
        return _PartialSweep("there is only one copy")
    device = next(runs.models[0].parameters()).device
    untimed = graphs.WARM_UP_CALLS + 1 if graphs.reason_against_graphs(device) is None else 1
    each = untimed + TIMED_STEPS
    if vectorize == "auto" and total_steps <= 2 * each:
        return _PartialSweep(f"{total_steps} steps are too few to try which way is faster")
    n_alone, n_together = (each, each) if vectorize == "auto" else (0, 1)
    steps = runs.steps() if n_alone else []

    def one_by_one(batch: Any) -> None:
        for step in steps:
            step(batch)

    with preserve_rng_and_loaders(loader), _slow_rules_accepted():
        batches, load_s = _loaded(loader, n_alone + n_together)
        one_by_one_s = _seconds(one_by_one, batches[:n_alone], untimed, device)
        one_by_one_s += (len(steps) - 1) * load_s  # each run loads its batches anew
        try:
            stacked = StackedStep(runs)
            for taking, step in zip(stacked.optimizers, steps, strict=False):
                taking.load_state_dict(step.optimizer.state_dict())
            at_once_s = _seconds(stacked.train, batches[n_alone:], untimed, device)
        except Exception as error:
            why = f"torch.func.vmap cannot run this model or loss ({type(error).__name__}: {_first_line(error)})"
            return _PartialSweep(why, steps=steps, done=n_alone)
    if one_by_one_s >= at_once_s:
        return _PartialSweep(None, stacked, done=len(batches))
    stacked.copy_to_models()
    for giving, step in zip(stacked.optimizers, steps, strict=True):
        step.optimizer.load_state_dict(giving.state_dict())
        step.reset()
    why = f"one after the other is {at_once_s / one_by_one_s:.1f} times as fast as vectorized here"
    return _PartialSweep(why, steps=steps, done=len(batches))


def _loaded(loader: Iterable[Any], n: int) -> tuple[list[Any], float]:
    """The first batches, and the seconds that one takes."""
    source, batches, seconds = cycle_loader(loader), [], []
    for _ in range(n):
        begin = time.perf_counter()
        batches.append(next(source))
        seconds.append(time.perf_counter() - begin)
    return batches, statistics.median(seconds)


def _seconds(train: Callable[[Any], None], batches: list[Any], untimed: int, device: torch.device) -> float:
    """The fastest step past the first ``untimed`` ones, waited for; all are made. Inf for fewer."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def timed(batch: Any) -> float:
        wait()
        begin = time.perf_counter()
        train(batch)
        wait()
        return time.perf_counter() - begin

    return min([timed(batch) for batch in batches][untimed:], default=math.inf)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
