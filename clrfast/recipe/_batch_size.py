"""The batch size: the largest that the memory takes, and how fast each is."""

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
from ..training._batches import ComputeLoss
from ..training._eager_step import EagerStep
from ..training._step_options import resolve_options
from ..training._task_argument import resolve_task
from ._memory import Budget, CudaMeter, DoesNotFit, Meter, in_words, is_out_of_memory, release

if TYPE_CHECKING:
    from typing_extensions import Unpack

PARTS = 8
"""Between two powers of two, sizes are tried in steps of such a part of the lower one."""

MIN_TIMED, MAX_TIMED, TIMED_SECONDS = 4, 20, 0.2
"""Steps that are timed for each size: at least and at most so many, else as many as take so long."""

MAX_SKIPPED = 30
"""Updates that a scaler may skip at first: it halves its scale at each, from 65,536 as a rule."""

LimitedBy = Literal["memory", "dataset", "max_batch_size"]


@dataclass(frozen=True)
class StepCost:
    """What a training step on one batch costs.

    Attributes:
        batch_size: samples.
        seconds: of one step, the shortest of several, for other programs only make them longer; moving the batch
            to the device is in it, loading it is not.
        peak_bytes: the most that was held at once beyond what was held before: batch, activations, gradients and
            optimizer state, but not the parameters.
        kept_bytes: what of these is held from step to step.
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
    """Which batch sizes fit, and what they cost; ``print`` shows it as a table.

    Attributes:
        largest: the largest batch that fits.
        fastest: the batch with the most samples per second; often smaller, and then a larger one gains nothing.
        limited_by: what ended the search for larger ones: "memory", "dataset" (its length) or "max_batch_size".
        reason: one sentence on that.
        costs: one StepCost for each size that was tried and fits, in rising order.
    """

    largest: int
    fastest: int
    limited_by: LimitedBy
    reason: str
    costs: tuple[StepCost, ...] = field(repr=False)

    def __str__(self) -> str:
        rows = [
            f"{cost.batch_size:>10}  {cost.samples_per_second:>11.4g}  {1000 * cost.seconds:>7.4g}  "
            f"{in_words(cost.peak_bytes):>10}"
            for cost in self.costs
        ]
        header = f"{'batch size':>10}  {'samples / s':>11}  {'ms':>7}  {'peak':>10}"
        return "\n".join([header, *rows, f"largest: {self.largest} ({self.reason}); fastest: {self.fastest}"])


class PrecisionKeywords(TypedDict, total=False):
    """The options of a step that change what it costs."""

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
    """Train ``model`` for a few steps on ever larger batches, and tell the largest that fits and what each costs.

    The sizes double; then those between the last that fits and the next power of two are tried, in steps of an
    eighth of the former (of 1 below 16). Each begins anew from the model as it is now, and is measured with forward,
    backward and the optimizer's state in memory. On a CUDA device a size fits unless the device runs out of memory.
    Elsewhere a size is tried only if what the sizes before it took lets expect that it stays within ``memory``, on a
    parabola, and a step that exceeds it all the same is ended there. Afterwards all is as before, as after
    ``range_test``; on a CUDA device, the statistics of its peak memory begin anew.

    The largest size leaves nothing to spare: train with a little less where other programs use the same memory, or
    where samples differ in size.

    Args:
        model, loss_fn, compute_loss, optimizer: as of ``range_test``. Or a ``Task``, whose ``train_loader`` is then a
            DataLoader and takes the place of ``dataset``.
        dataset: map-style (with ``__len__`` and ``__getitem__``), in an order of its own shuffled with a fixed seed;
            or a DataLoader over one, whose sampler and ``collate_fn`` are used, not its workers. No sample is in a
            batch twice unless the sampler gives it twice.
        max_batch_size: no larger size is tried; at least 1.
        memory: bytes that batch, activations, gradients and optimizer state may take together, above 0. The
            process of a model on the CPU may grow by more, up to 1.6 times as much, for it keeps some of the memory
            that is freed. None: on a CUDA device what it has; elsewhere 80 % of what the machine has free, within the
            limits of the process's control groups, and there the growth of the process counts (on Linux).
        options, step_options: a ``StepOptions``, of which autocast, scaler and clip_norm count; or these three as
            keywords. Each step takes one batch, runs eagerly and is undone from a copy in the CPU's memory.
    Returns:
        The sizes; begins with 1, or with 2 where the model or the loss fails on a single sample, as batch
        normalisation may.
    Raises:
        TypeError: an unknown keyword.
        ValueError: bad arguments; a dataset that is empty or has no length; the smallest batch does not fit.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", section 4.2.
    """
    if max_batch_size is not None and (not is_whole(max_batch_size) or max_batch_size < 1):
        raise ValueError(f"max_batch_size: got {max_batch_size!r}; give a whole number of samples, at least 1, or None")
    if memory is not None and (not is_whole(memory) or memory <= 0):
        raise ValueError(f"memory: got {memory!r}; give a whole number of bytes above 0, as 8 * 2**30, or None")
    options = resolve_options(options, step_options, "find_batch_size", PrecisionKeywords.__optional_keys__)
    task = resolve_task(model, loss_fn, dataset, compute_loss, loader_name="dataset")
    loader = checked_loader(task.train_loader)
    # The memory of graphs would not be counted; that of the copy, which a training does not have, must not be.
    options = replace(options, accumulate=1, graph=False, snapshot_device="cpu")
    experiment = Experiment(replace(task, train_loader=loader), options, optimizer=optimizer)
    device = experiment.step().device
    with experiment.at_work():
        indices = list(islice(loader.sampler, None if max_batch_size is None else int(max_batch_size)))
        if not indices:
            raise ValueError("dataset: it is empty; give at least one sample")
        budget = Budget.of(device, memory)
        costs, reason = _search(partial(_cost, experiment, loader, indices, budget), len(indices), budget.limit)
    release(device)
    limited_by: LimitedBy = "memory"
    if reason is None:
        limited_by = "max_batch_size" if len(indices) == max_batch_size else "dataset"
        reason = {"dataset": "the whole dataset fits", "max_batch_size": "max_batch_size fits"}[limited_by]
    fastest = max(costs, key=lambda cost: cost.samples_per_second)
    return BatchSizes(costs[-1].batch_size, fastest.batch_size, limited_by, reason, tuple(costs))


def checked_loader(dataset: Any) -> DataLoader[Any]:
    """A loader with the samples, how to collate them, and their order."""
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


def _search(measure: Callable[[int], StepCost], limit: int, max_bytes: float) -> tuple[list[StepCost], str | None]:
    """The costs up to the largest size that fits, and why no larger one does; None where that is ``limit``."""
    costs = [_smallest(measure, limit)]
    too_large, why = limit + 1, ""
    while costs[-1].batch_size < limit:
        low = costs[-1].batch_size
        step = max(1, 2 ** (low.bit_length() - 1) // PARTS)
        top = min(2 * low, limit)
        sizes = [size for size in (*range(low + step, top, step), top) if size < too_large]
        if not sizes:
            return costs, why
        trusted = [size for size in sizes if _predicted(costs, size) <= max_bytes]
        if not trusted:
            expected = in_words(_predicted(costs, sizes[0]))
            return costs, f"a batch of {sizes[0]} would take about {expected} of {in_words(max_bytes)}"
        size = trusted[-1] if too_large > limit else trusted[len(trusted) // 2]
        try:
            costs.append(measure(size))
        except DoesNotFit as error:
            too_large, why = size, f"a batch of {size} does not fit: {error}"
    return costs, None


def _smallest(measure: Callable[[int], StepCost], limit: int) -> StepCost:
    try:
        try:
            return measure(1)
        except DoesNotFit:
            raise
        except Exception:
            if limit == 1:
                raise
        return measure(2)  # batch normalisation, for one, has no use for a single sample; another error comes again
    except DoesNotFit as error:
        raise ValueError(
            f"model: the smallest batch does not fit: {error}; give more memory, a smaller model, an optimizer with "
            "less state, or autocast=torch.bfloat16"
        ) from None


def _predicted(costs: list[StepCost], size: int) -> float:
    """Peak bytes of a ``size`` above all in ``costs``: on the line through the last two, or the parabola through the
    last three if that is higher. A batch of 0 is taken to need what is kept from step to step.

        y2 + (x - x2) * (slope + bend * (x - x1)),  bend = max(0, change of the slope / (x2 - x0))
    """
    points = [(0, costs[0].kept_bytes), *((cost.batch_size, cost.peak_bytes) for cost in costs)]
    (x1, y1), (x2, y2) = points[-2:]
    slope, bend = (y2 - y1) / (x2 - x1), 0.0
    if len(points) > 2:
        x0, y0 = points[-3]
        bend = max(0.0, (slope - (y1 - y0) / (x1 - x0)) / (x2 - x0))
    return y2 + (size - x2) * (slope + bend * (size - x1))


def _cost(experiment: Experiment, loader: DataLoader[Any], indices: list[Any], budget: Budget, size: int) -> StepCost:
    """Raises DoesNotFit, with all memory freed that the attempt took."""
    batches = DataLoader(loader.dataset, size, sampler=indices[:size], collate_fn=loader.collate_fn)
    with experiment.training() as step:
        try:
            return _measured(step, batches, size, budget)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            why = str(error).partition("\n")[0].partition(". ")[0]
            traceback.clear_frames(error.__traceback__)  # their variables hold what did not fit
        release(step.device)  # before parameters are put back, which takes some too
        raise DoesNotFit(why)


def _measured(step: EagerStep, batches: DataLoader[Any], size: int, budget: Budget) -> StepCost:
    with CudaMeter(step.device, budget) if step.device.type == "cuda" else Meter(budget) as meter:
        (batch,) = batches
        _first_update(step, batch)
        step(batch)  # now with the optimizer's state in memory from the beginning
    kept = meter.kept  # it goes on telling what of this is held
    seconds: list[float] = []
    while len(seconds) < MIN_TIMED or (len(seconds) < MAX_TIMED and sum(seconds) < TIMED_SECONDS):
        seconds.append(_timed(step, batch))
    return StepCost(size, min(seconds), meter.peak, kept)


def _first_update(step: EagerStep, batch: Any) -> None:
    """As many steps as it takes until a scaler skips no more: a skipped update makes no optimizer state."""
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
