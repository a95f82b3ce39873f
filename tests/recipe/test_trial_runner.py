"""How trials run: their batches and settings, and what is restored."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast import find_weight_decay
from tests.helpers.problems import blobs, regression
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_trial_equals_a_training_by_torch_on_the_same_batches():
    model, loss_fn, loader, val = regression(100, 0.5, features=10)
    batches, held = list(loader), list(val)
    decay, steps = 0.1, 20
    schedule = clrfast.one_cycle(0.05, steps)
    found = find_weight_decay(
        model, loss_fn, batches, val_loader=held, grid=(0, decay), max_lr=0.05, steps=steps, refine=False
    )

    def measured(own):
        with torch.no_grad():
            return float(loss_fn(own(held[0][0]), held[0][1]))

    for repeat in range(2):
        own = nn.Linear(10, 1)
        own.load_state_dict(model.state_dict())
        optimizer = torch.optim.SGD(own.parameters(), lr=1.0, weight_decay=decay)
        losses, val_losses = [], [measured(own)]
        for step in range(steps):
            x, y = batches[(repeat * (steps + 1) + step) % len(batches)]
            optimizer.param_groups[0].update(lr=float(schedule.lr(step)), momentum=float(schedule.momentum(step)))
            optimizer.zero_grad()
            loss = loss_fn(own(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            val_losses.append(measured(own))
        run = found.histories[1][repeat]
        np.testing.assert_allclose(run.train_loss, losses, rtol=1e-4)
        np.testing.assert_allclose(run.val_loss, val_losses, rtol=1e-4)
        np.testing.assert_allclose(run.lr, schedule.lr(range(steps)))
        assert run.val_steps.tolist() == list(range(steps + 1))
        assert run.weight_decay == decay


def test_values_share_their_batches_and_repeats_do_not():
    seen = []

    def compute_loss(model, batch):
        if model.training:
            seen.append(float(batch[0, 0]))
        return ((model(batch / 100) - 1) ** 2).mean()

    data = TensorDataset(torch.arange(600.0).reshape(-1, 1).expand(-1, 4))
    loader = DataLoader(
        data,
        batch_size=8,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
        collate_fn=lambda x: torch.stack([row[0] for row in x]),
    )
    find_weight_decay(
        nn.Linear(4, 1),
        loader=loader,
        compute_loss=compute_loss,
        val_loader=[torch.ones(8, 4)],
        grid=(0, 1e-3, 1e-2),
        max_lr=0.01,
        steps=20,
        refine=False,
    )
    kept = np.array(seen).reshape(3, 2, 21)
    assert (kept == kept[:1]).all()
    assert not set(kept[0, 0]) & set(kept[0, 1])  # all of 42 batches lie within one pass of 75


@pytest.mark.parametrize("max_lr", [0.05, None])
def test_everything_is_restored_and_a_second_search_gives_the_same(max_lr):
    model, loss_fn, loader = blobs()  # with dropout and batch normalisation
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    val = DataLoader(
        TensorDataset(x, (x[:, 0] > 0).long()), 16, shuffle=True, generator=torch.Generator().manual_seed(2)
    )
    model.eval()
    shown = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).sum().backward()
    before = full_state(model, shown), loader.generator.get_state(), val.generator.get_state()

    def found():
        return find_weight_decay(
            model, loss_fn, loader, val_loader=val, grid=(0, 1e-2), max_lr=max_lr, steps=20, refine=False
        )

    first, again = found(), found()
    assert full_state(model, shown) == before[0]
    assert torch.equal(loader.generator.get_state(), before[1])
    assert torch.equal(val.generator.get_state(), before[2])
    np.testing.assert_array_equal(first.loss, again.loss)
    assert first.max_lr == again.max_lr
    assert 1e-4 < first.max_lr < 10
    assert len(np.unique(first.loss)) == 4


def test_everything_is_restored_after_an_interruption():
    model, loss_fn, loader, val = regression(100, 0.1)
    shown = torch.optim.SGD(model.parameters(), lr=0.1)
    before, order = full_state(model, shown), loader.generator.get_state()
    calls = []

    def interrupted(outputs, targets):
        calls.append(0)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return loss_fn(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        find_weight_decay(model, interrupted, loader, val_loader=val, max_lr=0.01, steps=20)
    assert full_state(model, shown) == before
    assert torch.equal(loader.generator.get_state(), order)


@pytest.mark.parametrize("max_lr", [0.01, None])
def test_progress_covers_the_range_test_and_all_trials(max_lr):
    told = []
    model, loss_fn, loader, val = regression(100, 0.1)
    find_weight_decay(
        model,
        loss_fn,
        loader,
        val_loader=val,
        max_lr=max_lr,
        steps=20,
        grid=(0, 1e-4),
        refine=False,
        progress=lambda *args: told.append(args[:2]),
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1] >= 80


def test_progress_expects_a_round_of_refinement_and_ends_complete():
    told = []
    model, loss_fn, loader, val = regression(100, 0.1)
    given = {"max_lr": 0.01, "steps": 20, "grid": (0, 1e-2, 1e-3)}
    find_weight_decay(model, loss_fn, loader, val_loader=val, progress=lambda *args: told.append(args[:2]), **given)
    assert all(done < total for done, total in told if done <= 3 * 2 * 20)  # the grid is not all
    assert told[-1][0] == told[-1][1]
