"""The job that ``test_fsdp`` runs on gloo ranks: ``fsdp_on_ranks.py FOLDER SAVED [LOADED ...]``.

It writes checkpoints in mid-run to the folder SAVED, continues from those in the folders LOADED, which jobs with other
numbers of ranks have written, and with 2 ranks trains and searches. Each rank returns what came of every case, by the
name of the optimizer.
"""

import contextlib
import sys
from pathlib import Path

import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import clrfast
from tests.helpers.rank_runs import BREAK, MAX_NORM, RULES, SCHEDULE, Network, search, summary, train, values
from tests.helpers.ranks import run_rank

OPTIONS = {"nested": StateDictOptions(), "flattened": StateDictOptions(flatten_optimizer_state_dict=True)}


def sharded(**options):
    model = Network()
    fully_shard(model.first, **options)
    return fully_shard(model, **options)


def made(rule, bfloat16=False, **given):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(**({"mp_policy": policy} if bfloat16 else {}))
    return model, getattr(clrfast, rule)(model.parameters(), **{"schedule": SCHEDULE, **given})


def by_torch(rule, bfloat16=False):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(**({"mp_policy": policy} if bfloat16 else {}))
    momentum = {"momentum": 0.9} if rule == "SGD" else {}
    return model, getattr(torch.optim, rule)(model.parameters(), lr=0.1, **momentum)


def trained(rule, rank, count, bfloat16=False, parts=1, **given):
    model, optimizer = made(rule, bfloat16, **given)

    @contextlib.contextmanager
    def unsynchronized():
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)

    losses = train(model, optimizer, rank, count, parts=parts, unsynchronized=unsynchronized)
    return summary(model, optimizer, losses)


def trained_by_torch(rule, rank, count, bfloat16=False, max_norm=None):
    model, optimizer = by_torch(rule, bfloat16)
    scheduler = clrfast.as_lr_scheduler(optimizer, SCHEDULE)
    train(model, optimizer, rank, count, max_norm=max_norm, scheduler=scheduler)
    return values(model)


def searched(rule, rank, count, bfloat16=False, **options):
    model, optimizer = made(rule, bfloat16, schedule=None, lr=0.1)
    return search(model, optimizer, rank, count, **options)


def state_of(model, optimizer, options):
    """Return what a checkpoint holds; ``progress`` has the recorded losses, which the optimizer's state has not."""
    weights, state = get_state_dict(model, optimizer, options=options)
    return {"model": weights, "optimizer": state, "progress": optimizer.control.progress()}


def saved(rule, rank, count, path):
    """Write checkpoints in mid-run and return what the run comes to without a break."""
    model, optimizer = made(rule)
    losses = train(model, optimizer, rank, count, last=BREAK)
    for name, options in OPTIONS.items():
        checkpoint.save(state_of(model, optimizer, options), checkpoint_id=path / rule / name)
    losses += train(model, optimizer, rank, count, first=BREAK)
    return summary(model, optimizer, losses)


def resumed(rule, rank, count, path, name):
    """Continue in fresh objects."""
    options, (model, optimizer) = OPTIONS[name], made(rule)
    state = state_of(model, optimizer, options)
    checkpoint.load(state, checkpoint_id=path / rule / name)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=options
    )
    optimizer.control.resume(state["progress"])
    losses = train(model, optimizer, rank, count, first=BREAK)
    return summary(model, optimizer, losses)


def main(rank, count):
    own, *others = map(Path, sys.argv[2:])
    found = {}
    for rule in RULES:
        found[rule] = {"saved": saved(rule, rank, count, own)}
        for path in (own, *others):
            found[rule] |= {f"{path.name}, {name}": resumed(rule, rank, count, path, name) for name in OPTIONS}
        if count == 2:
            found[rule] |= {
                "trained": trained(rule, rank, count),
                "trained by torch": trained_by_torch(rule, rank, count),
                "accumulated": trained(rule, rank, count, parts=2),
                "in bfloat16": trained(rule, rank, count, bfloat16=True),
                "in bfloat16 by torch": trained_by_torch(rule, rank, count, bfloat16=True),
                "clipped": trained(rule, rank, count, clip_norm=MAX_NORM),
                "clipped by torch": trained_by_torch(rule, rank, count, max_norm=MAX_NORM),
                "search": searched(rule, rank, count),
                "search, accumulated": searched(rule, rank, count, accumulate=2),
                "search in bfloat16": searched(rule, rank, count, bfloat16=True),
                "search, clipped": searched(rule, rank, count, clip_norm=MAX_NORM),
            }
    return found


if __name__ == "__main__":
    run_rank(main)
