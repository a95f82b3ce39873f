"""Trials at once, as stacked copies of the model, as on a CUDA device."""

import numpy as np
import pytest
import torch
from torch import nn

from clrfast import find_momentum, find_weight_decay
from clrfast.recipe import _stacked_trials as copies
from clrfast.recipe import _trial_runner as runner
from clrfast.training import StepOptions
from tests.helpers.problems import blobs, blobs_without_dropout
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"max_lr": 0.3, "steps": 24}


@pytest.fixture
def stacked_calls(monkeypatch):
    """Trials are stacked from now on. Records the number of trials in each call."""
    calls = []

    def noted(model, compute_loss, schedules, *others):
        calls.append(len(schedules))
        return copies.run_stacked(model, compute_loss, schedules, *others)

    monkeypatch.setattr(runner, "can_stack", lambda device, options: True)
    monkeypatch.setattr(runner, "run_stacked", noted)
    return calls


def same(found, expected):
    """Equal up to rounding: vmap adds in another order. The tolerance is that of the tests of sweeps."""
    assert found.values.tolist() == expected.values.tolist()
    for runs, of in zip(found.histories, expected.histories, strict=True):
        for one, other in zip(runs, of, strict=True):
            assert one.val_steps.tolist() == other.val_steps.tolist()
            for name in ("train_loss", "val_loss", "lr"):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=2e-4, atol=2e-5)


def test_stacked_trials_equal_single_ones(stacked_calls, monkeypatch):
    """The batches and weights are the same; the model has no dropout, for which vmap draws other random numbers."""
    model, loss_fn, loader = blobs_without_dropout()
    given = {"val_loader": blobs()[2], "grid": (1e-1, 1e-2, 0), "refine": False, **OPTIONS}
    unused = torch.optim.SGD(model.parameters(), lr=1.0)
    before = full_state(model, unused)
    found = find_weight_decay(model, loss_fn, loader, **given)
    assert stacked_calls == [3, 3]  # all values at once, for each repeat
    assert full_state(model, unused) == before
    monkeypatch.setattr(runner, "can_stack", lambda device, options: False)
    same(found, find_weight_decay(model, loss_fn, loader, **given))


def test_momenta_are_stacked_and_the_cycle_is_not(stacked_calls):
    model, loss_fn, loader = blobs()
    found = find_momentum(model, loss_fn, loader, val_loader=blobs()[2], values=(0.5, 0.9), **OPTIONS)
    assert stacked_calls == [2, 2]
    assert len(found.cyclical) == 2


def test_a_stacked_trial_that_diverges_does_not_end_the_others(stacked_calls):
    model, loss_fn, loader = blobs()
    given = {"val_loader": blobs()[2], "grid": (1e4, 1e-2, 0), "refine": False, **OPTIONS}
    found = find_weight_decay(model, loss_fn, loader, **given)
    assert np.isinf(found.loss[-1]).all()
    assert np.isfinite(found.loss[:-1]).all()
    assert len(found.histories[-1][0].train_loss) < OPTIONS["steps"] == len(found.histories[0][0].train_loss)


def test_stacked_trials_share_their_dropout_masks(stacked_calls):
    model, loss_fn, loader = blobs()
    given = {"val_loader": blobs()[2], "grid": (1e-9, 0), "refine": False, **OPTIONS}
    found = find_weight_decay(model, loss_fn, loader, **given)
    np.testing.assert_allclose(found.histories[0][0].train_loss, found.histories[1][0].train_loss, rtol=1e-3)


def test_a_model_that_vmap_does_not_support_is_stacked_once(stacked_calls, monkeypatch):
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
    assert stacked_calls == [2]
    monkeypatch.setattr(runner, "can_stack", lambda device, options: False)
    same(found, find_weight_decay(model, loss_fn, loader, **given))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"accumulate": 1, "autocast": None, "snapshot_device": "cpu"}, True),
        ({"accumulate": 2}, False),
        ({"clip_norm": 1.0}, False),
        ({"autocast": torch.bfloat16}, False),
        ({"graph": False}, False),
    ],
)
def test_trials_are_stacked_on_cuda_with_default_options(options, expected):
    assert copies.can_stack(torch.device("cuda"), StepOptions(**options)) == expected
    assert not copies.can_stack(torch.device("cpu"), StepOptions(**options))


def test_a_momentum_cycle_may_be_a_list():
    model, loss_fn, loader = blobs_without_dropout()
    given = {"val_loader": blobs()[2], "grid": (1e-2, 0), "refine": False, **OPTIONS}
    same(*(find_weight_decay(model, loss_fn, loader, momentum=m, **given) for m in ([0.95, 0.85], (0.95, 0.85))))


@pytest.mark.gpu
def test_trials_are_stacked_on_a_gpu_and_equal_single_ones(monkeypatch):
    calls = []
    monkeypatch.setattr(
        runner,
        "run_stacked",
        lambda *given: calls.append(len(given[2])) or copies.run_stacked(*given),
    )
    model, loss_fn, loader = blobs_without_dropout()
    given = {"val_loader": blobs()[2], "grid": (1e-1, 1e-2, 0), "refine": False, **OPTIONS}
    found = find_weight_decay(model.cuda(), loss_fn, loader, **given)
    assert calls == [3, 3]
    same(found, find_weight_decay(model, loss_fn, loader, **given, graph=False))
