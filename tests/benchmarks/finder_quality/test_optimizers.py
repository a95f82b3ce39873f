"""The optimizers that finders are judged with."""

import math

import pytest
import torch
from torch import nn

from benchmarks.finder_quality.optimizers import OPTIMIZERS, loss_with_adamw
from benchmarks.finder_quality.suggestion import count_forward_passes
from benchmarks.task_library.definition import build_task, make_step


def make(loss_fn=None, groups=None):
    inputs = torch.arange(8.0).reshape(8, 1)
    task = build_task(0, lambda: nn.Linear(1, 1), loss_fn or nn.MSELoss(), (inputs,) * 4, batch_size=2, steps=7)
    task.groups = groups
    return task


def one_group_per_parameter(model, lr):
    weight, bias = model.parameters()
    return [{"params": [weight], "lr": lr / 10}, {"params": [bias], "lr": lr}]


def test_adamw_follows_torchs_1cycle():
    task, expected = make(), make()
    loss = loss_with_adamw(task, 0.3, 0.01, 7)
    optimizer = torch.optim.AdamW(expected.model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=7)
    assert expected.fit(make_step(optimizer, scheduler), 7)
    torch.testing.assert_close(list(task.model.parameters()), list(expected.model.parameters()))
    assert loss == task.evaluate(*task.val)


def test_groups_keep_their_ratios_and_frozen_parameters_are_not_trained():
    task, plain = make(groups=one_group_per_parameter), make()
    before = [p.clone() for p in task.model.parameters()]
    loss_with_adamw(task, 0.001, 0.0, 7)
    moved = [(new - old).abs().item() for new, old in zip(task.model.parameters(), before, strict=True)]
    assert moved[1] / moved[0] == pytest.approx(10, rel=0.1)
    for optimizer in OPTIMIZERS.values():
        assert [group["lr"] for group in optimizer.make(task, 0.5).param_groups] == [0.05, 0.5]
        plain.model.bias.requires_grad_(False)
        assert optimizer.make(plain, 0.5).param_groups[0]["params"] == [plain.model.weight]


def test_a_loss_that_is_not_finite_ends_the_training():
    class Overflow(nn.Module):
        def forward(self, outputs, targets):
            return (outputs - targets).sum() * math.inf

    assert loss_with_adamw(make(Overflow()), 0.1, 0.0, 7) == math.inf


def test_steps_and_other_forward_passes_are_counted_apart():
    model = nn.Linear(1, 1)
    with count_forward_passes(model) as passes:
        model(torch.ones(1))
        with torch.no_grad():
            model(torch.ones(1))
        model.eval()(torch.ones(1))
    assert (passes.n, passes.n_extra) == (1, 2)
