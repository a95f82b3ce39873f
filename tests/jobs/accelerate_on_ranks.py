"""The job that ``test_accelerate`` runs on two gloo ranks: ``accelerate_on_ranks.py FOLDER``.

Each rank trains with ``OneCycle`` and in a plain loop with DistributedDataParallel, resumes in mid-epoch, resumes a run
of one process, steps prepared schedulers with right and wrong totals, and writes what it finds to ``FOLDER/RANK.json``.
"""

import gc
import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader

import clrfast
from clrfast.integrations.accelerate import OneCycle, count_updates

FOLDER = Path(sys.argv[1])
SEARCH = {"steps": 30, "min_lr": 1e-3, "trials": False}
OPTIMIZERS = {"ours": clrfast.SGD, "torch's": torch.optim.SGD}
loss_fn = nn.CrossEntropyLoss()


def made(kind, n=64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, 3))
    inputs = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    samples = [(x, int(x[0] > 0) + int(x[1] > 0)) for x in inputs]
    return model, kind(model.parameters(), lr=0.1, momentum=0.9), DataLoader(samples, batch_size=8, shuffle=True)


def flat(model):
    return torch.cat([param.detach().reshape(-1) for param in model.parameters()]).tolist()


def trained(accelerator, model, optimizer, loader, one_cycle, stop_at=None):
    rates, (first, skipped) = [], divmod(one_cycle.batches_done, len(loader))
    for epoch in range(first, 2):
        loader.set_epoch(epoch)
        batches = accelerator.skip_first_batches(loader, skipped) if epoch == first and skipped else loader
        for inputs, targets in batches:
            one_cycle.backward(loss_fn(model(inputs), targets))
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            optimizer.zero_grad()
            if one_cycle.step == stop_at:
                return rates
    return rates


def compare(kind, folder):
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))

    def start(**given):
        parts = accelerator.prepare(*made(kind))
        accelerator._custom_objects.clear()
        given = {"epochs": 2, **SEARCH, **given}
        return parts, OneCycle(accelerator, parts[0], loss_fn, parts[2], optimizer=parts[1], **given)

    parts, one_cycle = start()
    found = {"total_steps": one_cycle.total_steps, "max_lr": one_cycle.suggestion.max_lr}
    found.update(rates=trained(accelerator, *parts, one_cycle), step=one_cycle.step, weights=flat(parts[0]))

    accelerator.free_memory()
    parts, interrupted = start()
    trained(accelerator, *parts, interrupted, stop_at=5)
    accelerator.save_state(str(folder))
    accelerator.free_memory()
    parts, resumed = start(resume_from=str(folder))
    trained(accelerator, *parts, resumed)
    found["resumed"] = flat(parts[0])

    model, optimizer, loader = made(kind)
    model, loader = nn.parallel.DistributedDataParallel(model), accelerator.prepare(loader)
    curve = clrfast.range_test(model, loss_fn, loader, optimizer=optimizer, **SEARCH)
    found["plain max_lr"] = curve.suggest().max_lr
    table = clrfast.one_cycle(found["max_lr"], 8).table()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for step, (inputs, targets) in enumerate(loader):
            lr, momentum, _ = table[epoch * len(loader) + step, 0].tolist()
            optimizer.param_groups[0].update(lr=lr, momentum=momentum)
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    found["by hand"] = flat(model)
    accelerator.free_memory()
    accelerator._custom_objects.clear()
    return found


def step_prepared_scheduler(total_steps, epochs):
    """Train with a scheduler that Accelerate steps once per process; return the error and the number of updates."""
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = made(torch.optim.SGD, n=100)  # 13 batches, which are 7 for each process
    scheduler = clrfast.as_lr_scheduler(optimizer, clrfast.one_cycle(0.1, total_steps))
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    updates = 0
    try:
        for _ in range(epochs):
            for inputs, targets in loader:
                accelerator.backward(loss_fn(model(inputs), targets))
                optimizer.step()
                optimizer.zero_grad()
                updates += 1
                scheduler.step()
    except RuntimeError as error:
        return str(error), updates
    finally:
        accelerator.free_memory()
    return "", updates


def main():
    found = {name: compare(kind, FOLDER / name) for name, kind in OPTIMIZERS.items()}
    accelerator = Accelerator(cpu=True)
    _, optimizer, loader = accelerator.prepare(*made(clrfast.SGD))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed = OneCycle(
            accelerator, loader=loader, optimizer=optimizer, epochs=2, resume_from=str(FOLDER / "of one process")
        )
    found["step from one process"] = resumed.step
    try:
        count_updates(accelerator, made(clrfast.SGD)[2], 2)
    except ValueError as error:
        found["unprepared"] = str(error)
    accelerator.free_memory()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error, _ = step_prepared_scheduler(total_steps=4 * 13, epochs=4)
    found["convention"] = [str(each.message) for each in caught if "schedule" in str(each.message)] + [error] * bool(
        error
    )
    found["updates as total"], found["raised after"] = step_prepared_scheduler(total_steps=4 * 7, epochs=4)
    (FOLDER / f"{dist.get_rank()}.json").write_text(json.dumps(found))


main()
gc.collect()
dist.destroy_process_group()
