"""The job that ``test_ddp`` runs on two gloo ranks: ``ddp_on_ranks.py FOLDER``, which also gets a checkpoint.

Each rank returns what came of every case, by the name of the optimizer.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import clrfast
from tests.helpers.rank_runs import (
    BREAK,
    MAX_NORM,
    RULES,
    SCHEDULE,
    Network,
    search,
    summary,
    train,
    values,
)
from tests.helpers.ranks import run_rank


def made(rule, skips=False, **given):
    model = DistributedDataParallel(Network(skips), find_unused_parameters=skips)
    return model, getattr(clrfast, rule)(model.parameters(), **{"schedule": SCHEDULE, **given})


def trained(rule, rank, count, skips=False, parts=1, autocast=False, **given):
    model, optimizer = made(rule, skips, **given)
    losses = train(model, optimizer, rank, count, parts=parts, unsynchronized=model.no_sync, autocast=autocast)
    return summary(model, optimizer, losses)


def trained_by_torch(rule, rank, count):
    model = DistributedDataParallel(Network())
    momentum = {"momentum": 0.9} if rule == "SGD" else {}
    optimizer = getattr(torch.optim, rule)(model.parameters(), lr=0.1, **momentum)
    train(model, optimizer, rank, count, scheduler=clrfast.as_lr_scheduler(optimizer, SCHEDULE))
    return values(model)


def resumed(rule, rank, count, path):
    """Save in mid-run on the first rank, and continue in fresh objects on all."""
    model, optimizer = made(rule)
    losses = train(model, optimizer, rank, count, last=BREAK)
    if rank == 0:
        torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, path)
    dist.barrier()
    saved = torch.load(path)
    model, optimizer = made(rule)
    model.module.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    losses += train(model, optimizer, rank, count, first=BREAK)
    return summary(model, optimizer, losses)


def searched(rule, rank, count, **options):
    model, optimizer = made(rule, schedule=None, lr=0.1)
    return search(model, optimizer, rank, count, **options)


def main(rank, count):
    return {
        rule: {
            "trained": trained(rule, rank, count),
            "trained by torch": trained_by_torch(rule, rank, count),
            "accumulated": trained(rule, rank, count, parts=2),
            "in bfloat16": trained(rule, rank, count, autocast=True),
            "clipped": trained(rule, rank, count, clip_norm=MAX_NORM),
            "with a layer that some batches skip": trained(rule, rank, count, skips=True),
            "resumed": resumed(rule, rank, count, Path(sys.argv[1], f"{rule}.pt")),
            "search": searched(rule, rank, count),
            "search, accumulated": searched(rule, rank, count, accumulate=2),
            "search in bfloat16": searched(rule, rank, count, autocast=torch.bfloat16),
            "search, clipped": searched(rule, rank, count, clip_norm=MAX_NORM),
        }
        for rule in RULES
    }


if __name__ == "__main__":
    run_rank(main)
