import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import clrfast
from clrfast.optim import FusedOptimizer
from clrfast.training._preservation import preserve_all
from tests.helpers.state import full_state

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam with tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), foreach=False),
    "clrfast": lambda p: clrfast.SGD(p, lr=0.1, momentum=0.9),
    "clrfast scheduled": lambda p: clrfast.SGD(p, momentum=0.9, schedule=clrfast.one_cycle(0.1, 10)),
    "clrfast with a counter": lambda p: clrfast.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "clrfast AdamW": lambda p: clrfast.AdamW(p, lr=0.1, amsgrad=True, clip_norm=1.0),
    "clrfast AdamW scheduled": lambda p: clrfast.AdamW(p, schedule=clrfast.one_cycle(0.1, 10)),
}


def make(optimizer="sgd"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[1].eval()
    model[3].bias.requires_grad_(False)
    model.register_buffer("extra", torch.zeros(2), persistent=False)
    made = OPTIMIZERS[optimizer](model.parameters())
    model(torch.randn(16, 4)).mean().backward()
    made.step()
    return model, made


def disturb(model, optimizer):
    model.train()
    model[3].bias.requires_grad_(True)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    if isinstance(optimizer, FusedOptimizer):
        optimizer.set_schedule(clrfast.constant(0.5, 3))
        optimizer.clip_norm = 7.0
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(7.0)
        else:
            group["lr"] = 7.0
    optimizer.added = 1
    model.extra = torch.ones(2)
    model.register_buffer("another", torch.ones(1))
    model[0].weight.data = torch.zeros(8, 4)
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_restored(optimizer, error):
    model, made = make(optimizer)
    before = full_state(model, made)

    def run():
        with preserve_all(model, made):
            disturb(model, made)
            assert full_state(model, made) != before
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert full_state(model, made) == before


def test_an_error_while_restoring_does_not_stop_the_rest():
    model, optimizer = make()
    model.register_buffer("overlapping", torch.ones(1).expand(8))
    before = [p.tolist() for p in model.parameters()]

    def overwrite():
        with preserve_all(model, optimizer):
            disturb(model, optimizer)
            model.overlapping[:1] += 1

    with pytest.raises(RuntimeError, match="more than one element"):
        overwrite()
    assert [p.tolist() for p in model.parameters()] == before


def test_gradients_that_are_views_into_other_memory_keep_their_values():
    """A DistributedDataParallel with ``gradient_as_bucket_view`` writes all gradients into such memory."""
    model, bucket = nn.Linear(4, 1, bias=False), torch.arange(8.0)
    model.weight.grad = bucket[4:].view(1, 4)
    with preserve_all(model):
        bucket.zero_()
    assert model.weight.grad.tolist() == [[4.0, 5.0, 6.0, 7.0]]
    assert bucket.tolist() == [0.0, 0.0, 0.0, 0.0, 4.0, 5.0, 6.0, 7.0]


def test_overlapping_buffers_that_are_not_written_are_accepted():
    model, optimizer = make()
    model.register_buffer("overlapping", torch.ones(1).expand(8))
    with preserve_all(model, optimizer):
        disturb(model, optimizer)
    assert model.overlapping.tolist() == [1.0] * 8


def test_training_continues_as_if_the_block_had_not_run():
    def train(disturbed):
        model, optimizer = make("clrfast scheduled")
        if disturbed:
            with preserve_all(model, optimizer):
                disturb(model, optimizer)
        model.train()
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()
        return [p.tolist() for p in model.parameters()]

    assert train(True) == train(False)


@pytest.mark.parametrize("where", ["loader", "sampler"])
def test_the_order_of_the_next_epoch_is_restored(where):
    data, generator = TensorDataset(torch.arange(10)), torch.Generator().manual_seed(3)
    if where == "loader":
        loader = DataLoader(data, batch_size=2, shuffle=True, generator=generator)
    else:
        loader = DataLoader(data, batch_size=2, sampler=RandomSampler(data, generator=generator))
    state = generator.get_state()
    with preserve_all(nn.Linear(1, 1), loader=loader):
        list(loader)
        assert not torch.equal(generator.get_state(), state)
    assert torch.equal(generator.get_state(), state)
