"""The job that ``test_finder_on_ranks`` runs on two and on three gloo ranks.

Each rank returns the outcome of every case: a result, or the kind and text of an error.
"""

import warnings

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import clrfast
from tests.helpers.ranks import run_rank

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # before torch 2.6, whose prototype of it fails without a GPU
    fully_shard = None

CASES = {}
CROSS_ENTROPY = nn.CrossEntropyLoss()
SHORT = {"steps": 30, "min_lr": 1e-3, "max_lr": 0.3}


def case(function):
    CASES[function.__name__] = function
    return function


def shard(rank, count, n=1024):
    """A loader of this rank's shard of the samples."""
    generator = torch.Generator().manual_seed(0)
    centres, labels = 2 * torch.randn(4, 10, generator=generator), torch.randint(0, 4, (n,), generator=generator)
    data = TensorDataset(centres[labels] + 3 * torch.randn(n, 10, generator=generator), labels)
    return DataLoader(data, 16, sampler=DistributedSampler(data, count, rank))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def wrapped():
    return DistributedDataParallel(plain())


def sharded():
    model = plain()
    fully_shard(model[0])
    return fully_shard(model)


def summary(curve):
    suggestion = curve.suggest()
    return {
        "loss": curve.loss.tolist(),
        "stopped": curve.stopped,
        "trials": [[each.steps, each.lr.tolist(), each.loss.tolist(), each.initial_loss] for each in curve.trials],
        "rate": suggestion.max_lr,
        "suggestion": str(suggestion),
        "counts": [curve.update_steps, curve.extra_forward_passes],
    }


def loss_with(rank, at, happens):
    """A loss to which ``happens`` is applied on rank 1, at call number ``at``."""
    calls = []

    def compute_loss(model, batch):
        inputs, targets = batch
        loss = CROSS_ENTROPY(model(inputs), targets)
        calls.append(0)
        return happens(loss) if rank == 1 and len(calls) == at else loss

    return compute_loss


def fails(loss):
    raise IndexError("no such class")


@case
def distributed_data_parallel(rank, count):
    return summary(clrfast.range_test(wrapped(), CROSS_ENTROPY, shard(rank, count)))


@case
def sharded_model(rank, count):
    """The curve with trials, whether outputs and parameters of the model are as before, and the calls of the model."""
    model, (inputs, _) = sharded(), next(iter(shard(rank, count)))

    def seen():
        model.eval()
        with torch.no_grad():
            outputs = model(inputs).tolist()
        model.reshard()
        return outputs, [param.to_local().tolist() for param in model.parameters()]

    seen()
    model(inputs)  # leaves the gathered parameters behind
    before = [module.training for module in model.modules()], torch.get_rng_state().tolist(), seen()
    model(inputs)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(0))
    curve = clrfast.range_test(model, CROSS_ENTROPY, shard(rank, count), clip_norm=10.0)
    handle.remove()
    after = [module.training for module in model.modules()], torch.get_rng_state().tolist(), seen()
    return {**summary(curve), "as before": before == after, "calls": len(calls)}


@case
def alone(rank, count):
    return summary(clrfast.range_test(plain(), CROSS_ENTROPY, shard(rank, count), group=None))


def with_bad_batches(model, rank, count):
    """The curve and the warnings if the fourth batch of rank 1 has a NaN."""
    batches = [[inputs.clone(), targets] for inputs, targets in shard(rank, count)]
    if rank == 1:
        batches[3][0][2, 2] = float("nan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curve = clrfast.range_test(model, CROSS_ENTROPY, batches, **SHORT)
    return {"loss": curve.loss.tolist(), "warned": [str(warning.message) for warning in caught if rank == 1]}


@case
def a_bad_batch(rank, count):
    return with_bad_batches(wrapped(), rank, count)


@case
def a_bad_batch_of_a_sharded_model(rank, count):
    return with_bad_batches(sharded(), rank, count)


@case
def diverging(rank, count):
    model = DistributedDataParallel(nn.Linear(10, 4))
    return summary(clrfast.range_test(model, CROSS_ENTROPY, shard(rank, count), min_lr=1e-3, max_lr=1e5, steps=60))


@case
def same_data(rank, count):
    """The largest distance between the curve of ranks with the same batches and that of a single rank."""
    loader = shard(0, 1)
    together = clrfast.range_test(wrapped(), CROSS_ENTROPY, loader, **SHORT)
    own = clrfast.range_test(plain(), CROSS_ENTROPY, loader, group=None, **SHORT)
    return float(np.abs(together.loss - own.loss).max())


@case
def held_out(rank, count):
    """Ranks with different numbers of validation samples."""
    targets = torch.full((8,), float(rank))
    val = [(torch.ones(8, 10), targets)] * (3 - min(rank, 1))
    curve = clrfast.range_test(
        wrapped(), CROSS_ENTROPY, shard(rank, count), val_loader=val, metric=lambda _, y: y.mean(), **SHORT
    )
    return {"metric": curve.metric[np.isfinite(curve.metric)].tolist()}


@case
def trials(rank, count):
    curve = clrfast.range_test(wrapped(), CROSS_ENTROPY, shard(rank, count), trials=True, **SHORT)
    found = curve.trials[0]
    return {"rates": found.lr.tolist(), "loss": found.loss.tolist(), "start": found.initial_loss}


@case
def monitor(rank, count):
    monitor = clrfast.RateMonitor(wrapped(), CROSS_ENTROPY, shard(rank, count), **SHORT)
    monitor(0)
    return monitor.history[0].reason


@case
def unequal_loaders(rank, count):
    batches = list(shard(rank, count))[: 7 + rank]
    return summary(clrfast.range_test(wrapped(), CROSS_ENTROPY, batches, **SHORT))


@case
def a_nan_on_one(rank, count):
    loss = loss_with(rank, 14, lambda loss: loss * float("nan"))
    curve = clrfast.range_test(wrapped(), loader=shard(rank, count), compute_loss=loss, **SHORT)
    return {"losses": len(curve.loss), "stopped": curve.stopped, "finite": bool(np.isfinite(curve.loss[:-1]).all())}


@case
def a_skipped_update(rank, count):
    """A model that does not average its gradients, whose gradient overflows on one rank only."""

    def overflows(loss):
        loss.register_hook(lambda grad: grad * float("inf"))
        return loss

    rates = []
    for optimizer in (clrfast.SGD, torch.optim.SGD):
        model, loss = plain(), loss_with(rank, 5, overflows)
        curve = clrfast.range_test(
            model,
            loader=shard(rank, count),
            compute_loss=loss,
            optimizer=optimizer(model.parameters(), lr=1.0),
            scaler=torch.amp.GradScaler("cpu"),
            **SHORT,
        )
        rates.append([len(curve.loss), curve.suggest().max_lr])
    return rates


@case
def a_norm_that_is_not_finite(rank, count):
    """Separate copies of a model; the gradient of one of them overflows, and its optimizer skips the update."""

    def overflows(loss):
        loss.register_hook(lambda grad: grad * float("inf"))
        return loss

    model, loss = plain(), loss_with(rank, 5, overflows)
    optimizer = clrfast.AdamW(model.parameters())
    return summary(
        clrfast.range_test(
            model, loader=shard(rank, count), compute_loss=loss, optimizer=optimizer, clip_norm=1.0, **SHORT
        )
    )


@case
def adamw_of_a_sharded_model(rank, count):
    """The losses with clrfast's AdamW and with torch's, both clipped by the norm over all ranks."""
    losses = []
    for kind in (clrfast.AdamW, torch.optim.AdamW):
        model = sharded()
        curve = clrfast.range_test(
            model, CROSS_ENTROPY, shard(rank, count), optimizer=kind(model.parameters()), clip_norm=0.5, **SHORT
        )
        losses.append(curve.loss.tolist())
    return losses


@case
def an_empty_loader(rank, count):
    return clrfast.range_test(wrapped(), CROSS_ENTROPY, [] if rank == 1 else shard(rank, count))


@case
def a_loader_that_ends(rank, count):
    batches = list(shard(rank, count))
    return clrfast.range_test(wrapped(), CROSS_ENTROPY, iter(batches[:9]) if rank == 1 else batches, **SHORT)


@case
def a_loss_that_fails(rank, count):
    loss = loss_with(rank, 12, fails)
    return clrfast.range_test(wrapped(), loader=shard(rank, count), compute_loss=loss, **SHORT)


@case
def a_sharded_models_loss_that_fails(rank, count):
    loss = loss_with(rank, 1, fails)
    return clrfast.range_test(sharded(), loader=shard(rank, count), compute_loss=loss, **SHORT)


@case
def batches_that_do_not_fit(rank, count):
    model, batches = DistributedDataParallel(nn.Linear(10, 4)), list(shard(rank, count))
    if rank == 1:
        batches[11] = [batches[11][0][:, :9], batches[11][1]]
    return clrfast.range_test(model, CROSS_ENTROPY, batches, **SHORT)


@case
def a_loss_that_always_fails(rank, count):
    def loss(model, batch):
        return fails(0) if rank == 1 else CROSS_ENTROPY(model(batch[0]), batch[1])

    return clrfast.range_test(plain(), loader=shard(rank, count), compute_loss=loss)


@case
def a_metric_that_fails(rank, count):
    def metric(outputs, targets):
        return fails(0) if rank == 1 else 1.0

    loader = shard(rank, count)
    return clrfast.range_test(plain(), CROSS_ENTROPY, loader, val_loader=loader, metric=metric)


@case
def progress_that_fails(rank, count):
    """Only the first rank reports progress."""
    return clrfast.range_test(wrapped(), CROSS_ENTROPY, shard(rank, count), progress=lambda *_: fails(0))


@case
def a_bad_argument_on_one(rank, count):
    return clrfast.range_test(wrapped(), CROSS_ENTROPY, shard(rank, count), steps=-1 if rank == 1 else 30)


@case
def a_bad_argument_on_all(rank, count):
    return clrfast.range_test(wrapped(), CROSS_ENTROPY, shard(rank, count), steps=-1)


@case
def other_arguments(rank, count):
    return clrfast.range_test(wrapped(), CROSS_ENTROPY, shard(rank, count), min_lr=1e-6 * (1 + rank))


@case
def wrapped_and_alone(rank, count):
    return clrfast.range_test(wrapped(), CROSS_ENTROPY, shard(rank, count), group=None)


@case
def sharded_and_alone(rank, count):
    return clrfast.range_test(sharded(), CROSS_ENTROPY, shard(rank, count), group=None)


@case
def no_answer(rank, count):
    return clrfast.range_test(
        wrapped(), lambda outputs, _: 0 * outputs.sum() + 1, shard(rank, count), **SHORT
    ).suggest()


@case
def a_group_of_some(rank, count):
    group = dist.new_group(range(2))
    return summary(clrfast.range_test(plain(), CROSS_ENTROPY, shard(rank % 2, 2), group=group, **SHORT))


def main(rank, count):
    results = {}
    for name, function in CASES.items():
        if "sharded" in name and fully_shard is None:
            continue
        torch.manual_seed(rank)
        try:
            results[name] = function(rank, count)
        except Exception as error:
            results[name] = [type(error).__name__, str(error)]
        dist.barrier()
    return results


if __name__ == "__main__":
    run_rank(main)
