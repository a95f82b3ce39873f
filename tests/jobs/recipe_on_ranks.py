"""The job that ``test_distributed`` runs on two gloo ranks.

It imports ``own.py``, which the test writes. Each rank returns what came of every case: a result, or the kind and text
of an error.
"""

import contextlib
import io

import own
import torch
import torch.distributed as dist

import clrfast
from clrfast import cli
from clrfast._distributed import Ranks
from clrfast.recipe._shared_trials import joined_ranks
from tests.helpers.ranks import run_rank

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def decays(task, **options):
    given = {"max_lr": 0.1, "steps": 20, "grid": (0.0, 1e-3, 0.1), **options}
    found = clrfast.find_weight_decay(task.model, task.loss_fn, task.train_loader, val_loader=task.val_loader, **given)
    return [found.values.tolist(), found.loss.tolist()]


@case
def shared_out(rank):
    made = []
    task, told = own.make_task(0, lambda: made.append(0)), []
    found = decays(task, group=dist.group.WORLD, progress=lambda *args: told.append(args[:2]))
    return {"found": found, "updates": len(made), "told": told}


@case
def without_group(rank):
    return decays(own.make_task(0)) if rank == 1 else "not called"  # and does not wait for the other


@case
def a_rank_that_raises(rank):
    def raises():
        if rank == 1:
            raise OSError("no such disk")

    return decays(own.make_task(0, raises), group=dist.group.WORLD)


@case
def a_rank_that_raises_at_the_end(rank):
    with joined_ranks(dist.group.WORLD):
        if rank == 1:
            raise OSError("no such disk")


@case
def the_first_rank_raises(rank):
    return clrfast.find_recipe(own.make_task(0), 464, saved=f"missing{rank}/x.json", group=dist.group.WORLD)


@case
def all_raise(rank):
    task = own.make_task(0)
    task.val_loader = None
    return clrfast.find_recipe(task, 464, group=dist.group.WORLD)


@case
def other_models(rank):
    task = own.make_task(0)
    if rank == 1:
        task.model.weight.data[0, 0] += 1e-6
    return decays(task, group=dist.group.WORLD)


@case
def other_data_and_random_numbers(rank):
    task = own.make_task(0, seed_of_data=rank)
    torch.manual_seed(rank)
    return clrfast.find_recipe(task, 464, group=dist.group.WORLD)


@case
def other_calls(rank):
    return decays(own.make_task(0), grid=(0.0, 1e-3 * (1 + rank)), group=dist.group.WORLD)


@case
def wrapped(rank):
    task = own.make_task(0)
    task.model = torch.nn.parallel.DistributedDataParallel(task.model)
    return decays(task)


@case
def not_in_the_group(rank):
    group = dist.new_group([0])
    return decays(own.make_task(0), group=group, refine=False)


@case
def what_cannot_be_pickled(rank):
    with joined_ranks(dist.group.WORLD) as ranks:
        return ranks.compute_on_first("a function", lambda: lambda: None)


@case
def long_runs(rank):
    made = []
    task = own.make_task(0, lambda: made.append(0))
    found = clrfast.find_recipe(task, 700, planned_steps=100, group=dist.group.WORLD)
    return {"found": found.study.pair_trials.table(), "updates": len(made)}


@case
def broadcast(rank):
    with joined_ranks(dist.group.WORLD) as ranks:
        assert isinstance(ranks, Ranks)
        return [ranks.compute_on_first("a number", lambda: rank + 7), ranks.all_gather("ranks", rank)]


def main(rank, count):
    came = {}
    for name, function in CASES.items():
        torch.manual_seed(0)
        try:
            came[name] = function(rank)
        except Exception as error:
            came[name] = [type(error).__name__, str(error)]
        dist.barrier()
    dist.destroy_process_group()  # the command makes its own
    out = f"two{rank}.json"  # as if each rank had a file system of its own
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        came["command"] = cli.main(["recipe", "own:make_task", "--budget", "464", "--out", out])
    return {**came, "printed": printed.getvalue()}


if __name__ == "__main__":
    run_rank(main)
