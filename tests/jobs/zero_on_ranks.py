"""The job that ``test_zero`` runs on gloo ranks: ``zero_on_ranks.py FOLDER SAVED [LOADED ...]``.

It writes checkpoints in mid-run to the folder SAVED, continues from those in the folders LOADED, which jobs with other
numbers of ranks have written, and with 2 ranks trains and searches. Each rank returns what came of every case, by the
name of the optimizer.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import clrfast
from tests.helpers.rank_runs import BREAK, MAX_NORM, RULES, SCHEDULE, Network, search, summary, train, values
from tests.helpers.ranks import run_rank


def made(rule, module=None, **given):
    model = DistributedDataParallel(module or Network())
    options = {"schedule": SCHEDULE, **given}
    return model, ZeroRedundancyOptimizer(model.parameters(), getattr(clrfast, rule), **options)


def trained(rule, rank, count, parts=1, autocast=False, max_norm=None, **given):
    model, optimizer = made(rule, **given)
    losses = train(
        model,
        optimizer,
        rank,
        count,
        parts=parts,
        unsynchronized=model.no_sync,
        autocast=autocast,
        max_norm=max_norm,
    )
    return summary(model, optimizer, losses)


def trained_by_torch(rule, rank, count):
    model = DistributedDataParallel(Network())
    momentum = {"momentum": 0.9} if rule == "SGD" else {}
    optimizer = ZeroRedundancyOptimizer(model.parameters(), getattr(torch.optim, rule), lr=0.1, **momentum)
    train(model, optimizer, rank, count, scheduler=clrfast.as_lr_scheduler(optimizer, SCHEDULE))
    return values(model)


def without_parameters(rule, rank, count):
    """One parameter for all ranks, so that all but one have none."""
    model, optimizer = made(rule, nn.Linear(4, 2, bias=False))
    losses = train(model, optimizer, rank, count)
    return summary(model, optimizer, losses)


def searched(rule, rank, count, **options):
    model, optimizer = made(rule, schedule=None, lr=0.1)
    return search(model, optimizer, rank, count, **options)


def saved(rule, rank, count, path):
    """Write a checkpoint in mid-run and return what the run comes to without a break."""
    model, optimizer = made(rule)
    losses = train(model, optimizer, rank, count, last=BREAK)
    optimizer.consolidate_state_dict()
    if rank == 0:
        torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, path / f"{rule}.pt")
    dist.barrier()
    losses += train(model, optimizer, rank, count, first=BREAK)
    return summary(model, optimizer, losses)


def resumed(rule, rank, count, path):
    """Continue in fresh objects."""
    state, (model, optimizer) = torch.load(path / f"{rule}.pt"), made(rule)
    model.module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    losses = train(model, optimizer, rank, count, first=BREAK)
    return summary(model, optimizer, losses)


def main(rank, count):
    own, *others = map(Path, sys.argv[2:])
    own.mkdir(exist_ok=True)
    found = {}
    for rule in RULES:
        found[rule] = {"saved": saved(rule, rank, count, own)}
        found[rule] |= {path.name: resumed(rule, rank, count, path) for path in (own, *others)}
        if count == 2:
            found[rule] |= {
                "trained": trained(rule, rank, count),
                "trained by torch": trained_by_torch(rule, rank, count),
                "accumulated": trained(rule, rank, count, parts=2),
                "in bfloat16": trained(rule, rank, count, autocast=True),
                "clipped": trained(rule, rank, count, max_norm=MAX_NORM),
                "without parameters": without_parameters(rule, rank, count),
                "search": searched(rule, rank, count),
                "search, accumulated": searched(rule, rank, count, accumulate=2),
                "search in bfloat16": searched(rule, rank, count, autocast=torch.bfloat16),
                "search, clipped": searched(rule, rank, count, clip_norm=MAX_NORM),
            }
    return found


if __name__ == "__main__":
    run_rank(main)
