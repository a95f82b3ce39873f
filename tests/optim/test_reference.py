"""The reference equals hand-computed values, then torch.optim.SGD: the first links of the chain of trust."""

import pytest
import torch

import clrfast
from clrfast.optim import _rules as rules
from clrfast.optim._backends.reference import update_
from tests.helpers.optimizers import DTYPES, OPTIONS, assert_near, option_id, run_steps


def sgd_(p, g, b, counter, *, momentum=0.0, weight_decay=0.0, dampening=0.0, nesterov=False, maximize=False, **given):
    """Make one update by SGD with lr = 0.5."""
    row, states = (0.5, momentum, weight_decay), [] if b is None else [b]
    update_(rules.SGD, p, g, states, counter, row=row, constants=(dampening, nesterov), maximize=maximize, **given)


@pytest.mark.parametrize(
    ("options", "started", "expected_p", "expected_b"),
    [
        ({}, True, 2 - 0.5 * 3, 8),
        ({"maximize": True}, True, 2 + 0.5 * 3, 8),
        ({"weight_decay": 0.25}, True, 2 - 0.5 * 3.5, 8),
        ({"momentum": 0.5}, True, 2 - 0.5 * 7, 7),
        ({"momentum": 0.5}, False, 2 - 0.5 * 3, 3),
        ({"momentum": 0.5, "dampening": 0.75}, True, 2 - 0.5 * 4.75, 4.75),
        ({"momentum": 0.5, "dampening": 0.75}, False, 2 - 0.5 * 3, 3),
        ({"momentum": 0.5, "nesterov": True}, True, 2 - 0.5 * (3 + 3.5), 7),
        ({"momentum": 0.5, "weight_decay": 0.25, "maximize": True}, True, 2 - 0.5 * (4 - 2.5), 4 - 2.5),
        ({"grad_scale": torch.tensor(4.0)}, True, 2 - 0.5 * 0.75, 8),
        ({"momentum": 0.5, "apply": False}, True, 2, 8),
        ({"momentum": 0.5, "apply": torch.tensor(False)}, False, 2, 8),
        ({"momentum": torch.tensor(0.5), "weight_decay": torch.tensor(0.25)}, True, 2 - 0.5 * 7.5, 7.5),
        ({"momentum": torch.tensor(0.0)}, True, 2 - 0.5 * 3, 8),
    ],
)
def test_one_update_gives_the_hand_computed_values(options, started, expected_p, expected_b):
    """All cases begin at p = 2, g = 3, b = 8 and use lr = 0.5."""
    p, g, b = torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([8.0])
    counter = torch.tensor([float(started), 0.0])
    sgd_(p, g, b, counter, **options)
    assert (p.item(), g.item(), b.item()) == (expected_p, 3.0, expected_b)
    applied = bool(options.get("apply", True)) and bool(options.get("momentum", 0))
    assert counter[0] == started + applied


def test_a_weight_decay_of_0_does_not_touch_infinite_parameters():
    p = torch.tensor([float("inf")])
    sgd_(p, torch.tensor([1.0]), None, None, weight_decay=torch.tensor(0.0))
    assert p.item() == float("inf")


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_equals_torchs_sgd(options, dtype):
    ours, _ = run_steps(lambda p: clrfast.SGD(p, lr=0.1, backend="torch", **options), 5, dtype=dtype)
    theirs, _ = run_steps(lambda p: torch.optim.SGD(p, lr=0.1, foreach=False, **options), 5, dtype=dtype)
    assert_near(ours, theirs, steps=5)
