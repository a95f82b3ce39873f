"""Several copies of a model trained in one job, each by its own schedule."""

from __future__ import annotations

import contextlib
import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.parameter import UninitializedParameter

from .batches import ComputeLoss, chosen_loss, endless, moved, one_element, require_iterable
from .finder.restore import surroundings_restored
from .graph import TrainStep, graphs, prefetched
from .optim import SGD
from .optim.control import require_divergence_limits
from .progress import Progress, showing
from .schedules import Schedule

Together = bool | Literal["auto"]

TIMED_STEPS = 2
"""Steps of both ways that are timed before "auto" chooses the faster one; those before them load, tune and capture."""


@dataclass(frozen=True, eq=False)
class Replicas:
    """What the runs of a ``sweep`` ended with, in the order of its schedules.

    Attributes:
        losses: float32 ``[K, total_steps]`` on the CPU: the loss before each update; NaN after a run has stopped.
        steps: int64 ``[K]``: applied updates.
        stopped: bool ``[K]``: whether the run diverged or had a loss that is not finite.
        models: K trained models, in training mode.
        why_sequential: one sentence that says why the runs were made one after the other; None where they were made
            together.
    """

    losses: Tensor
    steps: Tensor
    stopped: Tensor
    models: list[nn.Module]
    why_sequential: str | None


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
    together: Together = "auto",
    progress: Progress | bool | None = None,
) -> Replicas:
    """Train a copy of a model by each of ``schedules``, all on the same batches, together where that is faster.

    Together means: parameters stacked, one forward and backward pass of all by ``torch.func.vmap``, and one update
    that reads every copy's own row of its schedule. A device that a small model leaves idle then takes little longer
    for K copies than for one. A copy that diverges stops, and the others go on. The host never waits for a step.
    The update is that of ``clrfast.SGD``; results are those of K runs in sequence up to rounding, except for models
    that draw random numbers (dropout).

    Args:
        make_model: called once per copy, right after seeding torch with the copy's seed.
        loss_fn, loader, compute_loss: as of ``range_test``.
        schedules: K of them, one parameter group each, with one ``total_steps``.
        seeds: of the initial weights: one for all copies, or K of them.
        momentum: for schedules that leave it to the optimizer. Weight decay is 0 for those that have none.
        smoothing, stop_factor: when a run has diverged; see ``StepControl.watch_divergence``.
        together: True, False, or "auto": a few steps are tried both ways.
        progress: ``progress(done, total, {})``; True for a bar, if tqdm is installed.
    Raises:
        ValueError: bad arguments; ``together=True`` for a model that ``vmap`` cannot run, with its reason.
    """
    compute_loss = chosen_loss(loss_fn, compute_loss)
    require_iterable(loader)
    assert loader is not None
    total_steps = _total_steps(schedules)
    require_divergence_limits(smoothing, stop_factor)
    if together not in (True, False, "auto"):
        raise ValueError(f"together: got {together!r}; give True, False or 'auto'")
    models = _made(make_model, seeds, len(schedules))
    runs = _Runs(models, compute_loss, schedules, momentum, smoothing, stop_factor)
    why_sequential: str | None = "together=False was given"
    if together is not False:
        why_sequential = _why_sequential(runs, loader, together)
    if together is True and why_sequential is not None:
        raise ValueError(f"together: got True, and {why_sequential}; give 'auto' or False")
    with showing(progress, f"{len(models)} replicas") as show:
        how = _in_sequence if why_sequential is not None else _at_once
        return how(runs, loader, total_steps, show, why_sequential)


@dataclass
class _Runs:
    """Models at their initial weights, and all else that training them takes."""

    models: list[nn.Module]
    compute_loss: ComputeLoss
    schedules: Sequence[Schedule]
    momentum: float
    smoothing: float
    stop_factor: float

    def steps(self, models: list[nn.Module]) -> list[TrainStep]:
        """Ordinary training steps of these models, each by its own optimizer."""
        made = []
        for model, schedule in zip(models, self.schedules, strict=True):
            params = [param for param in model.parameters() if param.requires_grad]
            optimizer = SGD(params, momentum=self.momentum, schedule=schedule)
            assert optimizer.control is not None
            optimizer.control.watch_divergence(smoothing=self.smoothing, stop_factor=self.stop_factor)
            made.append(TrainStep(model, None, optimizer, compute_loss=self.compute_loss))
        return made


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
    with surroundings_restored():
        for seed in each:
            torch.manual_seed(seed)
            models.append(make_model())
    if len({id(model) for model in models}) < n:
        raise ValueError("make_model: it returned the same model again; it must make a new one at every call")
    for model in models:
        if not isinstance(model, nn.Module):
            raise ValueError(f"make_model: it returned {type(model).__name__}; return a torch.nn.Module")
        if any(isinstance(param, UninitializedParameter) for param in model.parameters()):
            raise ValueError("make_model: it returned lazy modules; run one batch through the model first")
        if not any(param.requires_grad for param in model.parameters()):
            raise ValueError("make_model: it returned a model without trainable parameters")
        model.train()
    return models


# --- one after the other ----------------------------------------------------------------------------------------------


def _in_sequence(
    runs: _Runs, loader: Iterable[Any], total_steps: int, show: Progress | None, why: str | None
) -> Replicas:
    losses, steps, stopped = [], [], []
    n = len(runs.models)
    for index, step in enumerate(runs.steps(runs.models)):
        control = step.optimizer.control  # type: ignore[attr-defined]
        last = index == n - 1
        # Every run sees the same batches; only the last leaves its mark on the loader.
        with surroundings_restored(*([] if last else [loader])):
            batches = prefetched(endless(loader), step.device)
            for done, batch in zip(range(total_steps), batches, strict=False):
                step(batch)
                if show is not None:
                    show(index * total_steps + done + 1, n * total_steps, {})
        losses.append(control.losses.cpu())
        steps.append(control.step.cpu())
        stopped.append(control.stop.cpu())
    for model in runs.models:
        model.zero_grad(set_to_none=True)
    return Replicas(torch.stack(losses), torch.stack(steps), torch.stack(stopped), runs.models, why)


# --- together ---------------------------------------------------------------------------------------------------------


class _WithLoss(nn.Module):
    """The loss as a module over the model, so that ``functional_call`` can exchange the parameters of both."""

    def __init__(self, model: nn.Module, compute_loss: ComputeLoss):
        super().__init__()
        self.model, self._compute_loss = model, compute_loss

    def forward(self, batch: Any) -> Tensor:
        return one_element(self._compute_loss(self.model, batch)).reshape(())


class _Stacked:
    """K models as one: their parameters, buffers and momentum stacked, and what ``StepControl`` has, K times.

    Update and control are those of ``clrfast.SGD`` and ``StepControl`` (see ``optim/reference.py``), with a leading
    dimension for the copies.
    """

    def __init__(self, runs: _Runs, total_steps: int):
        self._runs = runs
        wrapped = [_WithLoss(model, runs.compute_loss) for model in runs.models]
        params, self.buffers = stack_module_state(wrapped)
        trainable = {name for name, param in wrapped[0].named_parameters() if param.requires_grad}
        self.params = {name: param.detach() for name, param in params.items() if name in trainable}
        self.frozen = {name: param.detach() for name, param in params.items() if name not in trainable}
        self.momenta = {name: torch.zeros_like(param) for name, param in self.params.items()}
        base = copy.deepcopy(wrapped[0]).to("meta")

        def loss(params: dict[str, Tensor], others: dict[str, Tensor], batch: Any) -> Tensor:
            return functional_call(base, (params, others), (batch,))

        self._grads_and_losses = vmap(grad_and_value(loss), in_dims=(0, 0, None), randomness="different")
        self.device = next(iter(self.params.values())).device
        self._graphs = graphs.Graphs(self.device) if graphs.why_no_graphs(self.device) is None else None
        n = len(runs.models)
        tables = np.stack([_with_momentum(schedule, runs.momentum) for schedule in runs.schedules])
        self._tables = torch.from_numpy(tables).to(self.device)
        self._copies = torch.arange(n, device=self.device)
        self.step = torch.zeros(n, dtype=torch.int64, device=self.device)
        self.stop = torch.zeros(n, dtype=torch.bool, device=self.device)
        self.losses = torch.full((n, total_steps), float("nan"), device=self.device)
        self._average, self._weight = torch.zeros(2, n, device=self.device)
        self._best = torch.full((n,), float("inf"), device=self.device)

    def train(self, batch: Any) -> None:
        """One step of all copies."""
        if self._graphs is None:
            self._train(batch)
        else:
            self._graphs(self._train, (batch,))

    def _train(self, batch: Any) -> None:
        # All that a step keeps is written where it is: a CUDA graph knows no other place.
        grads, losses = self._grads_and_losses(self.params, {**self.frozen, **self.buffers}, moved(batch, self.device))
        apply = self._advance(losses.detach().float())
        rows = self._tables[self._copies, (self.step - apply.long()).clamp(max=self._tables.shape[1] - 1)]
        for name, param in self.params.items():
            shape = (-1,) + (1,) * (param.dim() - 1)
            lr, momentum, weight_decay = (rows[:, i].view(shape).to(param.dtype) for i in range(3))
            applied, buffer = apply.view(shape), self.momenta[name]
            moving = momentum * buffer + (grads[name] + weight_decay * param)
            # Where it stops nothing may change, and a gradient that is not finite times 0 would.
            buffer.copy_(torch.where(applied, moving, buffer))
            param.copy_(torch.where(applied, param - lr * moving, param))

    def _advance(self, loss: Tensor) -> Tensor:
        """``StepControl.advance`` for every copy; returns whose update is made."""
        live, finite = ~self.stop, torch.isfinite(loss)
        slot = self.step.clamp(max=self.losses.shape[1] - 1)
        self.losses[self._copies, slot] = torch.where(live, loss, self.losses[self._copies, slot])
        smoothing = float(np.float32(self._runs.smoothing))
        gain = float(np.float32(1) - np.float32(smoothing))
        average, weight = smoothing * self._average + gain * loss, smoothing * self._weight + gain
        smoothed = average / weight
        best = torch.minimum(self._best, smoothed)
        diverged = smoothed - best > (self._runs.stop_factor - 1) * best.abs()
        self.stop |= live & (~finite | diverged)
        enter = live & finite
        for kept, now in ((self._average, average), (self._weight, weight), (self._best, best)):
            kept.copy_(torch.where(enter, now, kept))
        apply = ~self.stop
        self.step += apply
        return apply

    def write_back(self, models: list[nn.Module]) -> None:
        """Copy each copy's parameters and buffers into its model."""
        with torch.no_grad():
            for index, model in enumerate(models):
                own = dict(model.named_parameters()) | dict(model.named_buffers())
                for name, stacked in {**self.params, **self.buffers}.items():
                    own[name.removeprefix("model.")].copy_(stacked[index])


def _at_once(runs: _Runs, loader: Iterable[Any], total_steps: int, show: Progress | None, why: str | None) -> Replicas:
    stacked = _Stacked(runs, total_steps)
    with _slow_rules_accepted():
        for done, batch in zip(range(total_steps), prefetched(endless(loader), stacked.device), strict=False):
            stacked.train(batch)
            if show is not None:
                show(done + 1, total_steps, {})
    stacked.write_back(runs.models)
    return Replicas(stacked.losses.cpu(), stacked.step.cpu(), stacked.stop.cpu(), runs.models, why)


@contextlib.contextmanager
def _slow_rules_accepted() -> Iterator[None]:
    """A block in which torch does not warn of operations that vmap loops over: what they cost is measured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def _with_momentum(schedule: Schedule, momentum: float) -> np.ndarray:
    """The table ``[total_steps, 3]``, with what the schedule leaves to the optimizer."""
    defaults = {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0}
    return schedule.bound_to([{**defaults, "params": []}]).table()[:, 0]


# --- the choice -------------------------------------------------------------------------------------------------------


def _why_sequential(runs: _Runs, loader: Iterable[Any], together: Together) -> str | None:
    """Why the copies cannot, or had better not, be trained together; None if they can.

    Tried on a few batches with copies of the models; the loader's order and random numbers are as before after it.
    """
    if len(runs.models) == 1:
        return None if together is True else "there is only one copy"
    trial = replace(runs, models=copy.deepcopy(runs.models))
    device = next(runs.models[0].parameters()).device
    untimed = graphs.WARM_UP + 1 if graphs.why_no_graphs(device) is None else 1
    with surroundings_restored(loader), _slow_rules_accepted():
        batches = list(islice(endless(loader), untimed + TIMED_STEPS))
        try:
            stacked = _Stacked(trial, len(batches))
            stacked.train(batches[0])
        except Exception as error:
            return f"torch.func.vmap cannot run this model or loss ({type(error).__name__}: {_first_line(error)})"
        if together is True:
            return None
        steps = trial.steps(trial.models)

        def one_by_one(batch: Any) -> None:
            for step in steps:
                step(batch)

        at_once_s, one_by_one_s = (_seconds(train, batches, untimed, device) for train in (stacked.train, one_by_one))
    if one_by_one_s < at_once_s:
        return f"one after the other is {at_once_s / one_by_one_s:.1f} times as fast as together here"
    return None


def _seconds(train: Callable[[Any], None], batches: list[Any], untimed: int, device: torch.device) -> float:
    """The fastest step past the first ``untimed`` ones, waited for."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def timed(batch: Any) -> float:
        wait()
        begin = time.perf_counter()
        train(batch)
        wait()
        return time.perf_counter() - begin

    return min([timed(batch) for batch in batches][untimed:])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
