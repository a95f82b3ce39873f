"""The published headline: ResNet-56 on CIFAR-10 with one 1cycle of 9,310 steps at batch 512.

    python -m benchmarks.speed.headline --cifar10 .cifar10 --limit-s 150 --results benchmarks/results
    python -m benchmarks.speed.headline --tiny --device cpu    random images, few steps: checks that it runs

Smith 2018 (arXiv:1803.09820) reports 91.5 % for rates from 0.08 to 0.8 and momentum from 0.95 to 0.80. Here every step
replays one CUDA graph: forward and backward pass under bfloat16 autocast, weights in channels_last, batches gathered,
cropped and mirrored on the device. The folder holds the published files, or the JPEGs of ``cifar10_jpeg``.

A run stops at the time limit, and its row holds what it reached. Spare time goes to the same network at the rate that
the range test suggests, over as many epochs as fit, then to three weight decays in one sweep.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import clrfast
from clrfast import NoSuggestionError, Schedule, Task
from clrfast.tasks import cifar10
from clrfast.training import TrainStep
from clrfast.training._batches import cycle_loader

from ..environment import ROOT
from ..policy_quality.published import PUBLISHED, published_cycle
from ..policy_quality.tasks import Data, on_device, resnet56_task, val_accuracy
from ..result_files import Row, write_rows
from . import cifar10_jpeg

AUTOCAST = torch.bfloat16
SETTING = PUBLISHED["1cycle_momentum"]
DECAYS = (1e-5, 1e-4, 1e-3)
N_VALIDATIONS = 10

RESERVE_S = 20
"""Seconds of the limit that are reserved for the time before the first and after the last step."""
RANGE_TEST_EPOCHS = 3
"""Upper bound of the range test's duration, in epochs."""
MIN_EPOCHS = 5
"""Epochs of the shortest run at the suggested rate; a shorter one says nothing about the rate."""
SWEEP_S = 25
"""Seconds that the run at the suggested rate leaves to the sweep, as long as ``MIN_EPOCHS`` remain."""
MAX_SWEEP_EPOCHS = 2
SWEEP_STEP_COST = 4
"""Upper bound of the time of a copy's step in the sweep, in steps of the published run: the sweep has no autocast."""


@dataclass(frozen=True)
class Job:
    """The settings that all runs share.

    Attributes:
        data: on the device to train on.
        batch_size: samples per step.
        total_steps: of the published run.
        end: time of ``time.monotonic`` after which no step begins.
        range_test_steps: the ``steps`` of ``clrfast.range_test``.
    """

    data: Data
    batch_size: int
    total_steps: int
    end: float
    range_test_steps: int | Literal["auto"] = "auto"

    def task(self) -> Task:
        task = resnet56_task(0, self.data, self.batch_size)
        task.model.to(memory_format=torch.channels_last)
        return task

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data[0][1]) // self.batch_size)

    def left_s(self) -> float:
        return self.end - time.monotonic()

    def epochs_within(self, seconds: float, us_per_step: float) -> int:
        return int(max(seconds, 0.0) * 1e6 / us_per_step / self.steps_per_epoch)


def one_run(job: Job, recipe: str, schedule: Schedule) -> Row:
    """Train with ``schedule``, or as much of it as fits in the time, and return the row."""
    task = job.task()
    optimizer = clrfast.SGD(task.model.parameters(), schedule=schedule)
    step = TrainStep(task.model, task.loss_fn, optimizer, autocast=AUTOCAST)
    batches = cycle_loader(task.train_loader)
    total_steps = schedule.total_steps
    assert total_steps is not None
    steps, accuracy, seconds, step_us = [0], [], 0.0, []
    for validation_step in _validation_steps(total_steps):
        task.model.train()
        begin = time.perf_counter()
        made = _run_steps(step, batches, validation_step - steps[-1], job)
        elapsed = time.perf_counter() - begin
        if made:
            steps.append(steps[-1] + made)
            accuracy.append(round(val_accuracy(task), 4))
            seconds += elapsed
            step_us.append(1e6 * elapsed / made)
        if steps[-1] < validation_step:
            break
    row = {
        **_row_head(job, recipe, schedule),
        "precision": f"{str(AUTOCAST).removeprefix('torch.')} autocast, channels_last",
        "steps": steps[1:],
        "accuracy": accuracy,
        "seconds": round(seconds, 2),
        "us_per_step": round(statistics.median(step_us), 1) if step_us else None,
        "eager_reason": step.eager_reason,
    }
    reached = f"{100 * accuracy[-1]:.2f} %" if accuracy else "nothing"
    print(f"{recipe}: {reached} after {steps[-1]:,} of {total_steps:,} steps, {seconds:.1f} s", flush=True)
    return row


def _validation_steps(total_steps: int) -> list[int]:
    """Return the numbers of steps after which a run is validated, ascending; the last one is ``total_steps``."""
    return sorted({max(1, total_steps * number // N_VALIDATIONS) for number in range(1, N_VALIDATIONS + 1)})


def _run_steps(step: TrainStep, batches: Iterator[Any], n: int, job: Job) -> int:
    """Make up to ``n`` steps within the time, wait for the device, and return their number."""
    made = 0
    for batch in itertools.islice(batches, n):
        if job.left_s() <= 0:
            break
        step(batch)
        made += 1
    if step.device.type == "cuda":
        torch.cuda.synchronize(step.device)
    return made


def _row_head(job: Job, recipe: str, schedule: Schedule) -> Row:
    lr, _, weight_decay = schedule.table()[:, 0].T
    return {
        "benchmark": "headline",
        "task": cifar10_jpeg.NAME,
        "recipe": recipe,
        "batch_size": job.batch_size,
        "total_steps": schedule.total_steps,
        "max_lr": round(float(lr.max()), 4),
        "weight_decay": round(float(weight_decay.max()), 8),
    }


def suggested_run(job: Job, us_per_step: float) -> Row | None:
    """Train at the rate that the range test suggests, over the epochs that fit, and return the row.

    Returns None if the range test and ``MIN_EPOCHS`` do not fit.
    """
    if job.epochs_within(job.left_s(), us_per_step) < RANGE_TEST_EPOCHS + MIN_EPOCHS:
        print("suggested: no time", flush=True)
        return None
    task = job.task()
    begin = time.monotonic()
    try:
        curve = clrfast.range_test(
            task.model, task.loss_fn, task.train_loader, steps=job.range_test_steps, autocast=AUTOCAST
        )
        found = curve.suggest()
    except NoSuggestionError as error:
        print(f"suggested: no rate, {error}", flush=True)
        return {"benchmark": "headline", "recipe": "suggested", "missing": str(error)}
    range_test_s = round(time.monotonic() - begin, 2)
    epochs = max(job.epochs_within(job.left_s() - SWEEP_S, us_per_step), MIN_EPOCHS)
    total_steps = min(epochs * job.steps_per_epoch, job.total_steps)
    row = one_run(job, "suggested", published_cycle(total_steps, max_lr=found.max_lr))
    return {**row, "range_test_s": range_test_s, "low": found.low, "high": found.high, "reason": found.reason}


def sweep_run(job: Job, us_per_step: float) -> Row | None:
    """Train briefly with each of ``DECAYS`` in one sweep, and return the row; None if no epoch fits."""
    epochs = job.epochs_within(job.left_s(), SWEEP_STEP_COST * len(DECAYS) * us_per_step)
    if epochs < 1:
        print("copies: no time", flush=True)
        return None
    total_steps = min(epochs, MAX_SWEEP_EPOCHS) * job.steps_per_epoch
    schedules = [published_cycle(total_steps, weight_decay=decay) for decay in DECAYS]
    task = job.task()
    begin = time.monotonic()
    found = clrfast.sweep(lambda: job.task().model, task.loss_fn, task.train_loader, schedules)
    seconds = time.monotonic() - begin
    trained = [Task(model, task.loss_fn, task.train_loader, task.val_loader) for model in found.models]
    accuracy = [round(val_accuracy(each), 4) for each in trained]
    print(f"copies: {accuracy} for weight decays {DECAYS}, {total_steps} steps each, {seconds:.1f} s", flush=True)
    return {
        **_row_head(job, "copies", schedules[0]),
        "precision": "float32",
        "weight_decay": list(DECAYS),
        "steps": found.steps.tolist(),
        "accuracy": accuracy,
        "stopped": found.stopped.tolist(),
        "seconds": round(seconds, 2),
        "sequential_reason": found.sequential_reason,
    }


def load(folder: Path) -> Data:
    """Return the CIFAR-10 in ``folder``. JPEGs are first unpacked into the ignored folder ``build``."""
    if cifar10_jpeg.is_packed(folder):
        folder = cifar10_jpeg.unpack(folder, ROOT / "build").parent
    return cifar10.load(folder)


def random_data(n: int) -> Data:
    generator = torch.Generator().manual_seed(0)

    def split() -> tuple[Tensor, Tensor]:
        images = torch.randint(256, (n, *cifar10.IMAGE_SHAPE), generator=generator, dtype=torch.uint8)
        return images, torch.randint(cifar10.N_CLASSES, (n,), generator=generator)

    return split(), split()


def rows(job: Job, spare_end: float) -> Iterator[Row]:
    """Yield the row of the published run, and those of the runs that fit after it until ``spare_end``."""
    published = one_run(job, "published", published_cycle(job.total_steps))
    yield {**published, "published": SETTING.accuracy}
    if published["us_per_step"] is None:
        return
    spare = replace(job, end=min(job.end, spare_end))
    for follow_up in (suggested_run, sweep_run):
        row = follow_up(spare, published["us_per_step"])
        if row is not None:
            yield row


def main() -> None:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="folder of the published files or of the JPEGs")
    parser.add_argument("--limit-s", type=float, default=600.0, help="seconds to run (default: %(default)g)")
    parser.add_argument(
        "--spare-s",
        type=float,
        default=math.inf,
        help="seconds after which no run follows the published one (default: no limit)",
    )
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="random images, few steps")
    parser.add_argument("--results", type=Path, help="folder for the result file")
    arguments = parser.parse_args()
    if arguments.cifar10 is None and not arguments.tiny:
        parser.error("--cifar10: give the folder of CIFAR-10, or --tiny for random images")
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("headline: torch finds no CUDA device; --device cpu needs none")
    torch.backends.cudnn.benchmark = True
    data = on_device(random_data(8) if arguments.tiny else load(arguments.cifar10), device)
    print(f"{len(data[0][1]):,} images on {device} after {time.monotonic() - begin:.1f} s", flush=True)
    end, spare_end = (begin + seconds - RESERVE_S for seconds in (arguments.limit_s, arguments.spare_s))
    job = Job(data, 4, 3, end, 12) if arguments.tiny else Job(data, SETTING.batch_size, SETTING.total_steps, end)
    found: list[Row] = []
    for row in rows(job, spare_end):
        found.append(row)
        if arguments.results is not None:  # after every run: a later one may be cut off
            name = "gpu" if device.type == "cuda" else "cpu"
            write_rows(arguments.results / f"headline_{name}.json", found)


if __name__ == "__main__":
    main()
