"""The parameters of a loss are trained and restored like those of the model, in all places where a loss has them."""

import functools

import pytest
import torch
from torch import nn

import clrfast
from clrfast import range_test
from clrfast.tasks import Task
from clrfast.training._loss_modules import find_loss_modules
from clrfast.training._task_training import train
from tests.helpers.problems import blobs


class Scaled(nn.Module):
    """Cross entropy with a learned temperature, which is appended to ``SEEN`` at every call."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        SEEN.add(float(self.scale.detach()))
        return nn.functional.cross_entropy(outputs * self.scale, targets)


class Holder:
    """A loss that is not a module."""

    def __init__(self, scaled):
        self.parts = {"first": scaled}

    def __call__(self, outputs, targets):
        return self.parts["first"](outputs, targets)


SEEN = set()
GLOBAL = Scaled()


def of_global(outputs, targets):
    return GLOBAL(outputs, targets)


def with_more(scaled, outputs, targets):
    return scaled(outputs, targets)


PLACES = {
    "a module": lambda scaled: scaled,
    "a bound method": lambda scaled: scaled.forward,
    "a closure": lambda scaled: lambda outputs, targets: scaled(outputs, targets),
    "a closure in a closure": lambda scaled: (lambda inner: lambda o, t: inner(o, t))(lambda o, t: scaled(o, t)),
    "a partial": lambda scaled: functools.partial(with_more, scaled),
    "an object": Holder,
    "a default": lambda scaled: lambda outputs, targets, held=scaled: held(outputs, targets),
    "a global": lambda scaled: of_global,
}


@pytest.fixture(autouse=True)
def _nothing_seen():
    SEEN.clear()


@pytest.mark.parametrize("place", PLACES)
def test_a_loss_with_parameters_is_trained_in_the_ramp_and_restored(place):
    model, _, loader = blobs()
    scaled = GLOBAL if place == "a global" else Scaled()
    range_test(model, PLACES[place](scaled), loader, steps=20, max_lr=0.5)
    assert len(SEEN) > 10
    assert scaled.scale == 1


def test_a_parameter_outside_of_modules_is_found():
    scale = nn.Parameter(torch.ones(()))
    (found,) = find_loss_modules(lambda outputs, targets: (outputs * scale).mean())
    assert list(found.parameters()) == [scale]


def test_frozen_modules_and_torch_functions_have_no_trainable_parameters():
    teacher = nn.Linear(2, 2).requires_grad_(False)
    assert find_loss_modules(lambda o, t: nn.functional.mse_loss(o, teacher(t)), nn.CrossEntropyLoss(), None) == ()


def short_runs(model, loss_fn, loader):
    held_out = blobs(1)[2]
    clrfast.find_weight_decay(
        model, loss_fn, loader, val_loader=held_out, max_lr=0.1, steps=20, grid=(0, 0.1), refine=False
    )


def trials(model, loss_fn, loader):
    clrfast.range_test(model, loss_fn, loader, steps=20, trials=True)


def monitor(model, loss_fn, loader):
    clrfast.RateMonitor(model, loss_fn, loader, steps=20)(0)


@pytest.mark.parametrize("run", [short_runs, trials, monitor])
def test_every_function_that_makes_an_optimizer_trains_the_loss(run):
    model, _, loader = blobs()
    scaled = Scaled()
    run(model, scaled, loader)
    assert len(SEEN) > 10
    assert scaled.scale == 1


def test_train_keeps_the_trained_loss():
    model, _, loader = blobs()
    scaled = Scaled()
    train(Task(model, scaled, loader), clrfast.constant(0.1, 5))
    assert scaled.scale != 1


def test_a_sweep_refuses_a_loss_with_parameters():
    with pytest.raises(ValueError, match=r"a loss with parameters of its own \(Scaled\)"):
        clrfast.sweep(lambda: blobs()[0], Scaled(), blobs()[2], schedules=[clrfast.constant(0.1, 5)])
