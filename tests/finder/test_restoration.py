"""A range test leaves model, optimizer, data and random numbers as they were, whatever happens."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast import range_test
from tests.helpers.problems import blobs
from tests.helpers.range_tests import (
    every_optimizer,
    scaler_state,
)
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["none", "torch", "adam", "clrfast", "scheduled"])
@pytest.mark.parametrize("failure", [None, ZeroDivisionError, KeyboardInterrupt])
def test_model_optimizer_and_data_are_restored_after_success_and_failure(name, failure):
    model, loss_fn, loader = blobs()
    model.eval()
    make = {
        "none": lambda p: torch.optim.SGD(p, lr=0.1),
        "torch": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1),
        "clrfast": lambda p: clrfast.SGD(p, lr=0.1, momentum=0.9),
        "scheduled": lambda p: clrfast.SGD(p, schedule=clrfast.one_cycle(0.1, 30)),
    }[name]
    optimizer = make(model.parameters())
    loss_fn(model(torch.randn(4, 5)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()
    before, order = full_state(model, optimizer), loader.generator.get_state()
    calls = []

    def failing_loss(outputs, targets):
        calls.append(1)
        if failure is not None and len(calls) == 15:
            raise failure
        return loss_fn(outputs, targets)

    options = {"optimizer": None if name == "none" else optimizer, "max_lr": 0.1, "steps": 30}
    if failure is None:
        range_test(model, failing_loss, loader, **options)
    else:
        with pytest.raises(failure):
            range_test(model, failing_loss, loader, **options)
    assert len(calls) == (31 if failure is None else 15)
    assert full_state(model, optimizer) == before
    assert torch.equal(loader.generator.get_state(), order)


@pytest.mark.parametrize("own", [True, False], ids=["own optimizer", "no optimizer"])
@pytest.mark.parametrize("failure", [None, ZeroDivisionError, KeyboardInterrupt])
def test_trials_restore_model_optimizer_data_and_random_states(own, failure):
    model, loss_fn, loader = blobs()
    model = nn.Sequential(model, nn.BatchNorm1d(2), nn.Dropout(0.1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    before, order, random = full_state(model, optimizer), loader.generator.get_state(), torch.get_rng_state()
    calls = []

    def failing_loss(outputs, targets):
        calls.append(1)
        if failure is not None and len(calls) == 60:
            raise failure
        return loss_fn(outputs, targets)

    options = {"optimizer": optimizer if own else None, "steps": 20, "trials": True}
    if failure is None:
        curve = range_test(model, failing_loss, loader, **options)
        assert len(curve.trials[0].lr) >= 3
        assert 1e-5 < curve.suggest().max_lr < 10
    else:
        with pytest.raises(failure):
            range_test(model, failing_loss, loader, **options)
        assert len(calls) == 60  # the ramp and its probes make 28, so this is in a trial
    assert full_state(model, optimizer) == before
    assert torch.equal(loader.generator.get_state(), order)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_snapshot_on_another_device_restores_the_same():
    model, loss_fn, loader = blobs()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    loss_fn(model(torch.randn(4, 5)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()
    before = full_state(model, optimizer)
    here = range_test(model, loss_fn, loader, optimizer=optimizer, steps=10)
    there = range_test(model, loss_fn, loader, optimizer=optimizer, steps=10, snapshot_device="cpu")
    np.testing.assert_array_equal(here.loss, there.loss)
    assert full_state(model, optimizer) == before


FAILURES = [ZeroDivisionError, KeyboardInterrupt, torch.cuda.OutOfMemoryError]


@every_optimizer
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("where", ["loss", "backward", "metric_call", "progress", "loader"])
def test_everything_is_restored_wherever_a_failure_happens(make, failure, where):
    model, _, loader = blobs()
    held_out = DataLoader(
        TensorDataset(torch.randn(16, 5), torch.zeros(16, dtype=torch.long)),
        batch_size=8,
        shuffle=True,
        generator=torch.Generator().manual_seed(4),
    )
    optimizer, scaler = make(model.parameters()), torch.amp.GradScaler("cpu", init_scale=8.0)
    model(torch.randn(4, 5)).sum().backward()
    optimizer.step()
    model[1].eval()
    counts = dict.fromkeys(["loss", "backward", "metric_call", "progress", "loader"], 0)

    def pass_by(here, at):
        counts[here] += 1
        if here == where and counts[here] == at:
            raise failure

    def loss_fn(outputs, targets):
        pass_by("loss", 15)
        if outputs.requires_grad:
            outputs.register_hook(lambda grad: pass_by("backward", 15))
        return nn.functional.cross_entropy(outputs, targets)

    def metric(outputs, targets):
        pass_by("metric_call", 3)
        return outputs.mean()

    class Failing:
        def __iter__(self):
            for batch in loader:
                pass_by("loader", 15)
                yield batch

        generator = loader.generator

    def state():
        return [
            full_state(model, optimizer),
            scaler_state(scaler),
            loader.generator.get_state().tolist(),
            held_out.generator.get_state().tolist(),
        ]

    before = state()
    with pytest.raises(failure):
        range_test(
            model,
            loss_fn,
            Failing(),
            optimizer=optimizer,
            scaler=scaler,
            val_loader=held_out,
            metric=metric,
            steps=30,
            progress=lambda *_: pass_by("progress", 2),
        )
    assert counts[where] > 0
    assert state() == before


def test_parameters_that_only_the_loss_or_the_optimizer_holds_are_restored():
    """The loss has a learnable scale, and only the optimizer holds a second network."""
    model, _, loader = blobs()

    class ScaledLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, outputs, targets):
            self.calls += 1
            return nn.functional.cross_entropy(outputs * self.scale, targets)

    loss_fn, other = ScaledLoss(), nn.Linear(2, 2)
    loss_fn.scale.grad = torch.ones(())
    optimizer = torch.optim.SGD([*model.parameters(), *loss_fn.parameters(), *other.parameters()], lr=0.1)
    before = [p.detach().clone() for p in (*loss_fn.parameters(), *other.parameters())]
    range_test(model, lambda o, t: loss_fn(other(o), t), loader, optimizer=optimizer, steps=20)
    range_test(model, loss_fn, loader, steps=20)
    for param, value in zip((*loss_fn.parameters(), *other.parameters()), before, strict=True):
        assert torch.equal(param, value)
    assert loss_fn.scale.grad == 1
    assert loss_fn.calls == 0


def test_persistent_workers_continue_where_they_were():
    def first_epochs(tested):
        model, loss_fn, loader = blobs()
        loader = DataLoader(
            loader.dataset,
            batch_size=32,
            shuffle=True,
            num_workers=1,
            persistent_workers=True,
            generator=torch.Generator().manual_seed(5),
        )
        next(iter(loader))
        if tested:
            range_test(model, loss_fn, loader, steps=5)
        return [y.tolist() for _, y in loader]

    assert first_epochs(tested=True) == first_epochs(tested=False)


def test_persistent_workers_of_the_validation_loader_continue_where_they_were():
    def epochs(tested):
        model, loss_fn, loader = blobs()
        held_out = DataLoader(
            loader.dataset,
            batch_size=32,
            shuffle=True,
            num_workers=1,
            persistent_workers=True,
            generator=torch.Generator().manual_seed(5),
        )
        next(iter(held_out))
        workers = held_out._iterator
        if tested:
            range_test(model, loss_fn, loader, steps=20, val_loader=held_out)
        assert held_out._iterator is workers
        return [y.tolist() for _, y in held_out]

    assert epochs(tested=True) == epochs(tested=False)


def test_a_second_range_test_of_the_same_model_gives_the_same_curve():
    model, loss_fn, loader = blobs()
    np.testing.assert_array_equal(
        range_test(model, loss_fn, loader, steps=20).loss, range_test(model, loss_fn, loader, steps=20).loss
    )
