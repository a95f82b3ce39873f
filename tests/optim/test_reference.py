"""The reference equals hand-computed values, then torch.optim: the first links of the chain of trust."""

import pytest
import torch

from clrfast.optim import _rules as rules
from clrfast.optim._backends.reference import update_
from tests.helpers.optimizers import DTYPES, all_state, assert_near, every_option, run_steps


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


def adam_(p, g, states, counter, *, betas=(0.75, 0.75), eps=0.0, weight_decay=0.0, decoupled=False, **given):
    """Make one update by Adam with lr = 0.5."""
    row, constants = (0.5, betas[0], weight_decay), (betas[1], eps, len(states) == 3, decoupled)
    update_(rules.ADAMW, p, g, states, counter, row=row, constants=constants, **{"maximize": False, **given})


@pytest.mark.parametrize(
    ("options", "count", "expected_p", "expected_states"),
    [
        # m = 8 - 4 / 4 = 7, v = 16; step size 0.5 / (1 - 3/4) = 2, root sqrt(1 - 3/4) = 1/2: 2 - 2 * 7 / (4 / 0.5)
        ({}, 0, 0.25, (7, 16)),
        ({"eps": 6.0}, 0, 1.0, (7, 16)),
        # t = 2: step size 0.5 / (7/16), root sqrt(7)/4: 2 - 8/7 * 7 / (16 / sqrt(7))
        ({}, 1, 2 - 7**0.5 / 2, (7, 16)),
        # m = 4 + 4 * 0.5 = 6; step size 1: 2 - 6 / 8
        ({"betas": (0.5, 0.75)}, 0, 1.25, (6, 16)),
        # m = g = 4; step size 0.5: 2 - 0.5 * 4 / 8
        ({"betas": (0.0, 0.75)}, 0, 1.75, (4, 16)),
        # v = g * g = 16, root 1: 2 - 2 * 7 / 4
        ({"betas": (0.75, 0.0)}, 0, -1.5, (7, 16)),
        # p = 2 * (1 - 0.5 * 0.5) first
        ({"weight_decay": 0.5, "decoupled": True}, 0, 1.5 - 1.75, (7, 16)),
        # g = 4 + 2 * 2 = 8: m = 8, v = 28, 2 - 2 * 8 / (sqrt(28) / 0.5)
        ({"weight_decay": 2.0}, 0, 2 - 8 / 28**0.5, (8, 28)),
        # g = -4: m = 8 - 12 / 4 = 5
        ({"maximize": True}, 0, 2 - 2 * 5 / 8, (5, 16)),
        ({"grad_scale": torch.tensor(0.5), "clip_factor": torch.tensor(0.5)}, 0, 0.25, (7, 16)),
        # x = max(64, 16): 2 - 2 * 7 / (8 / 0.5)
        ({}, 0, 1.125, (7, 16, 64)),
        # x = max(4, 16)
        ({}, 0, 0.25, (7, 16, 16)),
        ({"apply": False}, 0, 2.0, (8, 16)),
        ({"apply": torch.tensor(False)}, 5, 2.0, (8, 16)),
    ],
)
def test_one_update_by_adam_gives_the_hand_computed_values(options, count, expected_p, expected_states):
    """All cases begin at p = 2, g = 4, m = 8, v = 16 and use lr = 0.5; the largest v before is 64 or 4."""
    p, g, counter = torch.tensor([2.0]), torch.tensor([4.0]), torch.tensor([float(count), 0.0])
    largest = [4.0 if expected_states[2] == 16 else 64.0] if len(expected_states) == 3 else []
    states = [torch.tensor([value]) for value in (8.0, 16.0, *largest)]
    adam_(p, g, states, counter, **options)
    assert p.item() == pytest.approx(expected_p, rel=1e-6)
    assert tuple(state.item() for state in states) == expected_states
    assert g.item() == 4.0
    assert counter[0] == count + bool(options.get("apply", True))


def test_an_l2_decay_of_0_does_not_touch_infinite_parameters():
    p, states = torch.tensor([float("inf")]), [torch.zeros(1), torch.zeros(1)]
    adam_(p, torch.tensor([1.0]), states, torch.zeros(2), weight_decay=torch.tensor(0.0))
    assert p.item() == float("inf")
    assert states[0].isfinite()


@every_option
def test_the_reference_equals_torchs_optimizer(rule, options):
    for dtype in DTYPES:
        ours, optimizer = run_steps(lambda p: rule.ours(p, lr=0.1, backend="torch", **options), 5, dtype=dtype)
        theirs, stock = run_steps(lambda p: rule.theirs(p, lr=0.1, foreach=False, **options), 5, dtype=dtype)
        assert_near(ours, theirs, steps=5)
        assert_near(all_state(optimizer), all_state(stock), steps=5)
