"""A small transformer trained with AdamW and 1cycle: a TrainStep has the losses of torch's own loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import clrfast
from clrfast.training import TrainStep
from clrfast.training._graph_cache import WARM_UP_CALLS
from tests.helpers.train_steps import n_replays

STEPS, MAX_LR = 40, 3e-3


class Transformer(nn.Module):
    """Two layers of width 32 that predict the next of 16 tokens."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(16, 32), nn.Parameter(torch.randn(12, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 16)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        hidden = self.layers(self.tokens(tokens) + self.positions, mask=mask, is_causal=True)
        return self.head(self.norm(hidden))


def loss_fn(logits, targets):
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batches():
    """Sequences in which each token is the sum of the two before it, modulo 16."""
    generator, device = torch.Generator("cpu").manual_seed(0), torch.get_default_device()
    found = []
    for _ in range(STEPS):
        columns = list(torch.randint(16, (2, 16), generator=generator, device="cpu").to(device))
        while len(columns) < 13:
            columns.append((columns[-1] + columns[-2]) % 16)
        sequence = torch.stack(columns, 1)
        found.append((sequence[:, :-1], sequence[:, 1:]))
    return found


def train_by_torch(model, clip_norm, **policy):
    optimizer = torch.optim.AdamW(model.parameters(), lr=MAX_LR, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LR, total_steps=STEPS, **policy)
    losses = []
    for inputs, targets in batches():
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    return torch.stack(losses)


POLICIES = {
    "cosine": (clrfast.schedules.one_cycle_cos, {}),
    "linear": (clrfast.schedules.one_cycle_linear, {"anneal_strategy": "linear"}),
}


def compare(backend, policy, clip_norm):
    """Train with a TrainStep and by torch's own loop, and require equal losses up to rounding; return the step."""
    torch.manual_seed(0)
    model = Transformer()
    theirs = train_by_torch(copy.deepcopy(model), clip_norm, **policy[1])
    optimizer = clrfast.AdamW(model.parameters(), weight_decay=0.1, schedule=policy[0](MAX_LR, STEPS), backend=backend)
    step = TrainStep(model, loss_fn, optimizer, clip_norm=clip_norm)
    ours = torch.stack([step(batch) for batch in batches()])
    torch.testing.assert_close(optimizer.control.losses, ours, rtol=0, atol=0)
    torch.testing.assert_close(ours[:10], theirs[:10], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)  # each step amplifies the rounding before it
    assert ours[-5:].mean() < 0.95 * ours[0]
    return step


@pytest.mark.parametrize(
    ("policy", "clip_norm"), [("cosine", None), ("linear", 0.5)], ids=["cosine", "linear and clipped"]
)
def test_an_eager_training_has_the_losses_of_stock_adamw_with_onecycle(policy, clip_norm):
    """The rate and beta1 both cycle."""
    compare("auto", POLICIES[policy], clip_norm)


def test_a_captured_training_has_the_losses_of_stock_adamw_with_onecycle(backend):
    step = compare(backend, POLICIES["cosine"], 0.5)
    assert step.eager_reason is None
    assert n_replays(step) in (None, [STEPS - WARM_UP_CALLS])
