"""``find_batch_size``: measures the largest batch size that fits into memory, and the speed of each size."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from .._checks import is_whole
from ..finder._experiment import Experiment
from ..tasks import Task
from ..training import StepOptions
from ..training._eager_step import EagerStep
from ..training._losses import ComputeLoss
from ..training._step_options import resolve_options
from ..training._task_argument import resolve_task
from ._memory_budget import (
    CudaMemoryMeter,
    DoesNotFitError,
    MemoryBudget,
    MemoryMeter,
    format_bytes,
    is_out_of_memory,
    release,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

SUBDIVISIONS = 8
"""Number of intervals between two powers of two, whose ends are the batch sizes to try."""

MIN_TIMED_STEPS, MAX_TIMED_STEPS, TIMED_SECONDS = 4, 20, 0.2
"""Bounds on the timed steps of a batch size: timing ends after ``TIMED_SECONDS``, within both numbers of steps."""

MAX_SKIPPED = 30
"""Maximum number of first updates that a scaler may skip. Each halves the scale, which usually starts at 65,536."""

LimitedBy = Literal["memory", "dataset", "max_batch_size"]


@dataclass(frozen=True)
class StepCost:
    """The time and the memory of a training step with one batch size.

    Attributes:
        batch_size: samples of a batch.
        seconds: time of one step, including the copy of the batch to the device, but not its loading. It is the
            shortest of several, because other programs only make steps longer.
        peak_bytes: the most memory held at once by the batch, activations, gradients and optimizer state. Parameters
            are not counted.
        kept_bytes: the part of it that is held between steps.
    """

    batch_size: int
    seconds: float
    peak_bytes: int
    kept_bytes: int

    @property
    def samples_per_second(self) -> float:
        return self.batch_size / self.seconds


@dataclass(frozen=True)
class BatchSizes:
    """The batch sizes that fit into memory, and the cost of each; ``print`` shows a table.

    Attributes:
        largest: the largest batch size that fits.
        fastest: the batch size with the most samples per second. It is often below ``largest``.
        limited_by: what ended the search for larger ones: "memory", "dataset" (its length) or "max_batch_size".
        reason: one sentence about the limit.
        costs: a StepCost for each size that was tried and fits, ascending.
    """

    largest: int
    fastest: int
    limited_by: LimitedBy
    reason: str
    costs: tuple[StepCost, ...] = field(repr=False)

    def __str__(self) -> str:
        rows = [
            f"{cost.batch_size:>10}  {cost.samples_per_second:>11.4g}  {1000 * cost.seconds:>7.4g}  "
            f"{format_bytes(cost.peak_bytes):>10}"
            for cost in self.costs
        ]
        header = f"{'batch size':>10}  {'samples / s':>11}  {'ms':>7}  {'peak':>10}"
        return "\n".join([header, *rows, f"largest: {self.largest} ({self.reason}); fastest: {self.fastest}"])


class PrecisionKeywords(TypedDict, total=False):
    """The options of a step that change its cost."""

    autocast: torch.dtype | None
    scaler: torch.amp.GradScaler | None
    clip_norm: float | None


def find_batch_size(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    dataset: Any = None,
    *,
    compute_loss: ComputeLoss | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    max_batch_size: int | None = None,
    memory: int | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[PrecisionKeywords],
) -> BatchSizes:
    """Train ``model`` for a few steps with increasing batch sizes; return the largest that fits and each one's cost.

    The size doubles until it does not fit. Then the sizes between the last two are tried, in steps of an eighth of the
    smaller one (of 1 below 16). Each size starts from the current model and is measured with forward pass, backward
    pass and optimizer state in memory. On a CUDA device a size fits unless the device runs out of memory. Elsewhere the
    peak memory is extrapolated as a parabola: only sizes that are expected to stay within ``memory`` are tried, and a
    step that exceeds it is interrupted. Afterwards everything is restored, as after ``range_test``, except the peak
    memory statistics of a CUDA device.

    The largest size leaves no memory to spare. Train with a little less if other programs use the same memory, or if
    samples differ in size.

    Args:
        model, loss_fn, compute_loss, optimizer: see ``range_test``. ``model`` may be a ``Task``, whose
            ``train_loader`` is then a DataLoader and takes the place of ``dataset``.
        dataset: a map-style dataset (with ``__len__`` and ``__getitem__``), which is shuffled with a fixed seed; or a
            DataLoader over one, whose sampler and ``collate_fn`` are used, but not its workers. A batch holds no
            sample twice unless the sampler repeats it.
        max_batch_size: the largest size to try, >= 1.
        memory: bytes that batch, activations, gradients and optimizer state may take together, > 0. On the CPU the
            process may grow by up to 1.6 times as much, because it keeps some freed memory. None: on a CUDA device all
            of its memory; elsewhere 80 % of the machine's free memory, within the limits of the process's control
            groups. There the growth of the whole process counts (on Linux).
        options, step_options: a ``StepOptions``, of which autocast, scaler and clip_norm are used; or these three as
            keywords. Each step takes one batch, runs eagerly, and is undone from a copy in the CPU's memory.
    Returns:
        The sizes that fit. They start with 1, or with 2 if the model or the loss fails on a single sample, as batch
        normalisation may.
    Raises:
        TypeError: a keyword is unknown.
        ValueError: an argument is wrong, the dataset is empty or has no length, or the smallest batch does not fit.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", section 4.2.
    """
    if max_batch_size is not None and (not is_whole(max_batch_size) or max_batch_size < 1):
        raise ValueError(f"max_batch_size: got {max_batch_size!r}; give a whole number of samples, at least 1, or None")
    if memory is not None and (not is_whole(memory) or memory <= 0):
        raise ValueError(f"memory: got {memory!r}; give a whole number of bytes above 0, as 8 * 2**30, or None")
    options = resolve_options(options, step_options, "find_batch_size", PrecisionKeywords.__optional_keys__)
    task = resolve_task(model, loss_fn, dataset, compute_loss, loader_name="dataset")
    if isinstance(model, Task) and not isinstance(task.train_loader, DataLoader):
        raise ValueError(
            f"train_loader: got {type(task.train_loader).__name__}, whose batches have a size already; give the Task a "
            "DataLoader over a dataset, or give model, loss_fn and dataset in place of the Task"
        )
    loader = checked_loader(task.train_loader)
    # The memory of graphs would not be counted; that of the copy, which a training does not have, must not be.
    options = replace(options, accumulate=1, graph=False, snapshot_device="cpu")
    experiment = Experiment(replace(task, train_loader=loader), options, optimizer=optimizer)
    device = experiment.make_step().device
    with experiment.batches():
        indices = list(islice(loader.sampler, None if max_batch_size is None else int(max_batch_size)))
        if not indices:
            raise ValueError("dataset: it is empty; give at least one sample")
        budget = MemoryBudget.of(device, memory)
        costs, reason = _try_sizes(partial(_cost, experiment, loader, indices, budget), len(indices), budget.limit)
    release(device)
    limited_by: LimitedBy = "memory"
    if reason is None:
        limited_by = "max_batch_size" if len(indices) == max_batch_size else "dataset"
        reason = {"dataset": "the whole dataset fits", "max_batch_size": "max_batch_size fits"}[limited_by]
    fastest = max(costs, key=lambda cost: cost.samples_per_second)
    return BatchSizes(costs[-1].batch_size, fastest.batch_size, limited_by, reason, tuple(costs))


def checked_loader(dataset: Any) -> DataLoader[Any]:
    """Return a loader with the samples, order and ``collate_fn`` of ``dataset``, a dataset or a loader.

    Raises:
        ValueError: the samples cannot be counted and picked, or the loader does not make the batches itself.
    """
    data = dataset.dataset if isinstance(dataset, DataLoader) else dataset
    if isinstance(data, IterableDataset) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ValueError(
            f"dataset: got {type(data).__name__}; batches of any size need samples that can be counted and picked: "
            "give a dataset with __len__ and __getitem__, or a DataLoader over one"
        )
    if isinstance(dataset, DataLoader):
        if dataset.batch_sampler is None:
            raise ValueError(
                "dataset: got a DataLoader with batch_size=None, whose dataset makes the batches itself; give a "
                "dataset of single samples, or a DataLoader that collates them"
            )
        return dataset
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0), device="cpu")
    return DataLoader(data, sampler=order.tolist())


def _try_sizes(measure: Callable[[int], StepCost], limit: int, max_bytes: float) -> tuple[list[StepCost], str | None]:
    """Return the costs up to the largest size that fits, and why no larger one fits: None if all up to ``limit`` do."""
    costs = [_smallest(measure, limit)]
    too_large, why = limit + 1, ""
    while costs[-1].batch_size < limit:
        low = costs[-1].batch_size
        step = max(1, 2 ** (low.bit_length() - 1) // SUBDIVISIONS)
        top = min(2 * low, limit)
        sizes = [size for size in (*range(low + step, top, step), top) if size < too_large]
        if not sizes:
            return costs, why
        trusted = [size for size in sizes if _predicted(costs, size) <= max_bytes]
        if not trusted:
            expected = format_bytes(_predicted(costs, sizes[0]))
            return costs, f"a batch of {sizes[0]} would take about {expected} of {format_bytes(max_bytes)}"
        size = trusted[-1] if too_large > limit else trusted[len(trusted) // 2]
        try:
            costs.append(measure(size))
        except DoesNotFitError as error:
            too_large, why = size, f"a batch of {size} does not fit: {error}"
    return costs, None


def _smallest(measure: Callable[[int], StepCost], limit: int) -> StepCost:
    try:
        try:
            return measure(1)
        except DoesNotFitError:
            raise
        except Exception:
            if limit == 1:
                raise
        return measure(2)  # batch normalisation, for one, fails on a single sample; any other error comes again
    except DoesNotFitError as error:
        raise ValueError(
            f"model: the smallest batch does not fit: {error}; give more memory, a smaller model, an optimizer with "
            "less state, or autocast=torch.bfloat16"
        ) from None


def _predicted(costs: list[StepCost], size: int) -> float:
    """Predict the peak bytes of a ``size`` above all in ``costs``.

    The prediction is on the line through the last two costs, or on the parabola through the last three if that is
    higher. A batch of 0 is assumed to need what is kept from step to step.

        y2 + (x - x2) * (slope + bend * (x - x1)),  bend = max(0, change of the slope / (x2 - x0))
    """
    points = [(0, costs[0].kept_bytes), *((cost.batch_size, cost.peak_bytes) for cost in costs)]
    (x1, y1), (x2, y2) = points[-2:]
    slope, bend = (y2 - y1) / (x2 - x1), 0.0
    if len(points) > 2:
        x0, y0 = points[-3]
        bend = max(0.0, (slope - (y1 - y0) / (x1 - x0)) / (x2 - x0))
    return y2 + (size - x2) * (slope + bend * (size - x1))


def _cost(
    experiment: Experiment, loader: DataLoader[Any], indices: list[Any], budget: MemoryBudget, size: int
) -> StepCost:
    """Measure a batch size. DoesNotFitError is raised after the memory of the attempt is freed."""
    batches = DataLoader(loader.dataset, size, sampler=indices[:size], collate_fn=loader.collate_fn)
    with experiment.training() as step:
        try:
            return _measured(step, batches, size, budget)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            why = str(error).partition("\n")[0].partition(". ")[0]
            traceback.clear_frames(error.__traceback__)  # their variables hold tensors
        release(step.device)  # before parameters are restored, which takes memory too
        raise DoesNotFitError(why)


def _measured(step: EagerStep, batches: DataLoader[Any], size: int, budget: MemoryBudget) -> StepCost:
    with CudaMemoryMeter(step.device, budget) if step.device.type == "cuda" else MemoryMeter(budget) as meter:
        (batch,) = batches
        _first_update(step, batch)
        step(batch)  # now the optimizer's state is in memory from the start of the step
    kept = meter.kept  # later steps change meter.kept
    seconds: list[float] = []
    while len(seconds) < MIN_TIMED_STEPS or (len(seconds) < MAX_TIMED_STEPS and sum(seconds) < TIMED_SECONDS):
        seconds.append(_timed(step, batch))
    return StepCost(size, min(seconds), meter.peak, kept)


def _first_update(step: EagerStep, batch: Any) -> None:
    """Train until a scaler no longer skips the update, because a skipped update makes no optimizer state."""
    for _ in range(MAX_SKIPPED):
        scale = 0.0 if step.scaler is None else step.scaler.get_scale()
        step(batch)
        if step.scaler is None or step.scaler.get_scale() >= scale:
            return


def _timed(step: EagerStep, batch: Any) -> float:
    start = time.perf_counter()
    step(batch)
    if step.device.type == "cuda":
        torch.cuda.synchronize(step.device)
    return time.perf_counter() - start
