"""Short runs that copies of the model make together, as on a CUDA device."""

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import find_momentum, find_weight_decay
from clrfast.recipe import copies, runner

from .test_range_test import blobs
from .test_restore import everything

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"max_lr": 0.3, "steps": 24}


def plain():
    _, loss_fn, loader = blobs()
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)), loss_fn, loader


@pytest.fixture
def together(monkeypatch):
    """Runs are made together from now on; the calls are noted."""
    calls = []

    def noted(model, compute_loss, schedules, *others):
        calls.append(len(schedules))
        return copies.recorded_together(model, compute_loss, schedules, *others)

    monkeypatch.setattr(runner, "why_apart", lambda device, options: None)
    monkeypatch.setattr(runner, "recorded_together", noted)
    return calls


def same(found, expected):
    assert found.values.tolist() == expected.values.tolist()
    for runs, of in zip(found.runs, expected.runs, strict=True):
        for one, other in zip(runs, of, strict=True):
            assert one.val_steps.tolist() == other.val_steps.tolist()
            for name in ("train_loss", "val_loss", "lr"):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=2e-3, atol=1e-5)


def test_together_they_are_what_they_are_one_by_one(together, monkeypatch):
    """The same batches and weights; vmap draws the random numbers of dropout in another way."""
    model, loss_fn, loader = plain()
    given = {"val_loader": blobs()[2], "grid": (1e-1, 1e-2, 0), "refine": False, **OPTIONS}
    unused = torch.optim.SGD(model.parameters(), lr=1.0)
    before = everything(model, unused)
    found = find_weight_decay(model, loss_fn, loader, **given)
    assert together == [3, 3]  # all values at once, for each repeat
    assert everything(model, unused) == before
    monkeypatch.setattr(runner, "why_apart", lambda device, options: "not this time")
    same(found, find_weight_decay(model, loss_fn, loader, **given))


def test_momenta_are_tried_together_and_the_cycle_alone(together):
    model, loss_fn, loader = blobs()
    found = find_momentum(model, loss_fn, loader, val_loader=blobs()[2], values=(0.5, 0.9), **OPTIONS)
    assert together == [2, 2]
    assert len(found.cyclical) == 2


def test_a_run_that_diverges_ends_alone(together):
    model, loss_fn, loader = blobs()
    given = {"val_loader": blobs()[2], "grid": (1e4, 1e-2, 0), "refine": False, **OPTIONS}
    found = find_weight_decay(model, loss_fn, loader, **given)
    assert np.isinf(found.loss[-1]).all()
    assert np.isfinite(found.loss[:-1]).all()
    assert len(found.runs[-1][0].train_loss) < OPTIONS["steps"] == len(found.runs[0][0].train_loss)


def test_dropout_draws_the_same_for_all(together):
    model, loss_fn, loader = blobs()
    given = {"val_loader": blobs()[2], "grid": (1e-9, 0), "refine": False, **OPTIONS}
    found = find_weight_decay(model, loss_fn, loader, **given)
    np.testing.assert_allclose(found.runs[0][0].train_loss, found.runs[1][0].train_loss, rtol=1e-3)


def test_a_model_that_vmap_cannot_run_is_tried_once(together, monkeypatch):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(5, 2)

        def forward(self, x):
            outputs = self.net(x)
            return outputs if outputs.mean().item() < 1e9 else -outputs

    _, loss_fn, loader = blobs()
    model = Branching()
    given = {"val_loader": blobs()[2], "grid": (1e-2, 0), "refine": False, **OPTIONS}
    found = find_weight_decay(model, loss_fn, loader, **given)
    assert together == [2]
    monkeypatch.setattr(runner, "why_apart", lambda device, options: "not this time")
    same(found, find_weight_decay(model, loss_fn, loader, **given))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, None),
        ({"accumulate": 1, "autocast": None}, None),
        ({"accumulate": 2}, "accumulate"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"autocast": torch.bfloat16}, "autocast"),
        ({"graph": False}, "graph=False"),
    ],
)
def test_when_runs_are_made_apart(options, why):
    told = copies.why_apart(torch.device("cuda"), options)
    assert (told is None) if why is None else why in told
    assert "only CUDA devices" in copies.why_apart(torch.device("cpu"), options)


@pytest.mark.gpu
def test_on_a_gpu_they_are_made_together_and_are_the_same(monkeypatch):
    calls = []
    monkeypatch.setattr(
        runner,
        "recorded_together",
        lambda *given: calls.append(len(given[2])) or copies.recorded_together(*given),
    )
    model, loss_fn, loader = plain()
    given = {"val_loader": blobs()[2], "grid": (1e-1, 1e-2, 0), "refine": False, **OPTIONS}
    found = find_weight_decay(model.cuda(), loss_fn, loader, **given)
    assert calls == [3, 3]
    same(found, find_weight_decay(model, loss_fn, loader, **given, graph=False))
    assert isinstance(found, clrfast.WeightDecays)
