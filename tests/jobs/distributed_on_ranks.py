"""The job that ``test_distributed`` runs on two gloo ranks.

Each rank returns what came of every case: a result, or the kind and text of an error.
"""

import torch
import torch.distributed as dist

import clrfast
from clrfast._distributed import resolve_group
from tests.helpers.problems import clouds
from tests.helpers.ranks import run_rank

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def joined():
    return resolve_group("auto").end_together()


@case
def exchange(rank):
    with joined() as ranks:
        return ranks.all_gather("ranks", rank)


@case
def progress(rank):
    with joined() as ranks:
        return ranks.progress_on_first(True)


@case
def a_rank_that_raises(rank):
    with joined() as ranks:
        if rank == 1:
            raise OSError("no such disk")
        return ranks.all_gather("ranks", rank)


@case
def a_rank_that_raises_at_the_end(rank):
    with joined():
        if rank == 1:
            raise OSError("no such disk")


@case
def the_first_rank_raises(rank):
    with joined() as ranks:
        if rank == 0:
            raise ValueError("no such file")
        return ranks.all_gather("a file", None)


@case
def all_raise(rank):
    with joined():
        raise ValueError(f"on rank {rank}")


@case
def other_values(rank):
    with joined() as ranks:
        ranks.require_same("a start", one=1, two=rank)


@case
def other_calls(rank):
    with joined() as ranks:
        return ranks.all_gather(f"call {rank}", None)


@case
def not_in_the_group(rank):
    group = dist.new_group([0])
    return resolve_group(group).world_size


@case
def what_cannot_be_pickled(rank):
    with joined() as ranks:
        return ranks.all_gather("a function", (lambda: None) if rank == 0 else None)


@case
def a_recipe_of_each_rank(rank):
    """A search waits for no other rank: only one of them makes it."""
    if rank == 0:
        return "not called"
    return clrfast.find_recipe(clouds(), 464).complete


@case
def wrapped(rank):
    task = clouds()
    task.model = torch.nn.parallel.DistributedDataParallel(task.model)
    return clrfast.find_weight_decay(task, max_lr=0.1)


def main(rank, count):
    came = {}
    for name, function in CASES.items():
        torch.manual_seed(0)
        try:
            came[name] = function(rank)
        except Exception as error:
            came[name] = [type(error).__name__, str(error)]
        dist.barrier()
    return came


if __name__ == "__main__":
    run_rank(main)
