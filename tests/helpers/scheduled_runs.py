"""A small model, and its training under a schedule."""

from __future__ import annotations

import torch
from torch import nn

import clrfast
from tests.helpers.optimizers import RULES

SCHEDULE = clrfast.one_cycle(0.2, total_steps=24, weight_decay=1e-3)
STEPS, BREAK = 24, 15


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def made(rule=RULES["SGD"], **options):
    model = network()
    return model, rule.ours(model.parameters(), **{"schedule": SCHEDULE, **options})


def train(model, optimizer, first, last):
    for step in range(first, last):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :2]).square().mean().backward()
        optimizer.step()
    return [param.detach().clone() for param in model.parameters()]


def assert_equal(found, wanted):
    for own, other in zip(found, wanted, strict=True):
        assert torch.equal(own, other)
