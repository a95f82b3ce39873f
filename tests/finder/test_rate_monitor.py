import dataclasses
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast import RateMonitor

EPOCHS, BATCH_SIZE = 4, 32
LOSS = nn.CrossEntropyLoss()


@cache
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return TensorDataset(torch.tensor(data.data[:640], dtype=torch.float32) / 16, torch.tensor(data.target[:640]))


def mlp(dropout=0.2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10))


OPTIMIZERS = {
    "torch": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "clrfast": lambda params: clrfast.SGD(params, lr=0.05, momentum=0.9),
    "clrfast with schedule": lambda params: clrfast.SGD(
        params, momentum=0.9, schedule=clrfast.one_cycle(0.1, EPOCHS * 20)
    ),
    "clrfast adamw": lambda params: clrfast.AdamW(params, lr=0.01, clip_norm=1.0),
    "clrfast adamw with schedule": lambda params: clrfast.AdamW(params, schedule=clrfast.one_cycle(0.01, EPOCHS * 20)),
}


def loader(own_generator=True):
    generator = torch.Generator().manual_seed(0) if own_generator else None
    return DataLoader(digits(), BATCH_SIZE, shuffle=True, generator=generator)


def epoch_of(model, optimizer, batches):
    model.train()
    for inputs, targets in batches:
        optimizer.zero_grad()
        LOSS(model(inputs), targets).backward()
        optimizer.step()


def trained(optimizer, *, own_generator, monitored, use_it=True):
    model = mlp()
    made, batches = OPTIMIZERS[optimizer](model.parameters()), loader(own_generator)
    monitor = RateMonitor(model, LOSS, batches, optimizer=made if use_it else None, every_n_epochs=2)
    for epoch in range(EPOCHS):
        epoch_of(model, made, batches)
        if monitored:
            monitor(epoch)
    state = [model.state_dict(), made.state_dict(), torch.get_rng_state()]
    assert [record.epoch for record in monitor.history] == ([0, 2] if monitored else [])
    return str(torch.utils._pytree.tree_map(lambda x: x.tolist() if isinstance(x, torch.Tensor) else x, state))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("own_generator", [True, False])
def test_training_continues_bit_for_bit_as_without_a_monitor(optimizer, own_generator):
    run = {"optimizer": optimizer, "own_generator": own_generator}
    without = trained(**run, monitored=False)
    assert trained(**run, monitored=True) == without
    assert trained(**run, monitored=True, use_it=False) == without


def test_suggestions_are_recorded_with_curve_and_rate():
    model = mlp(dropout=0.0)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), loader()
    monitor = RateMonitor(model, LOSS, batches, optimizer=optimizer, every_n_epochs=3)
    suggestions = []
    for epoch in range(4):
        epoch_of(model, optimizer, batches)
        suggestions.append(monitor(epoch))
    assert suggestions[1:3] == [None, None]
    assert [record.suggestion for record in monitor.history] == [suggestions[0], suggestions[3]]
    for record in monitor.history:
        assert record.suggestion is not None, record.reason
        assert 1e-3 < record.suggestion.low <= record.suggestion.max_lr <= record.suggestion.high < 1
        assert record.reason == record.suggestion.reason
        assert record.lr == 0.01
    with pytest.raises(dataclasses.FrozenInstanceError):
        monitor.history[0].epoch = 1
    # The second test starts from trained weights.
    assert monitor.history[1].curve.initial_loss < 0.9 * monitor.history[0].curve.initial_loss


def test_a_refusal_is_recorded_with_its_reason():
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(4, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    batches = DataLoader(TensorDataset(inputs, torch.zeros(64, 1)), 16)  # the zero model is perfect
    monitor = RateMonitor(model, nn.MSELoss(), batches, every_n_epochs=1)
    assert monitor(7) is None
    (record,) = monitor.history
    assert record.epoch == 7
    assert record.suggestion is None
    assert "never falls" in record.reason
    assert record.lr is None
    assert len(record.curve.lr)


def test_keywords_reach_the_range_test():
    shown = []
    model = mlp()
    monitor = RateMonitor(
        model,
        LOSS,
        loader(),
        every_n_epochs=1,
        method="minimum_tenth",
        min_lr=1e-4,
        max_lr=0.3,
        steps=30,
        progress=lambda done, total, values: shown.append(total),
    )
    suggestion = monitor(0)
    assert suggestion.method == "minimum_tenth"
    curve = monitor.history[0].curve
    assert (len(curve.lr), curve.lr[0], curve.lr[-1]) == (30, pytest.approx(1e-4), pytest.approx(0.3))
    assert set(shown) == {30}


def test_the_recorded_rate_is_the_highest_of_the_groups():
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.02}, {"params": model[3].parameters(), "lr": 0.07}]
    monitor = RateMonitor(model, LOSS, loader(), optimizer=torch.optim.SGD(groups), steps=20, min_lr=1e-3)
    monitor(0)
    assert monitor.history[0].lr == 0.07


def test_plot_needs_a_history_and_draws_every_epoch():
    model = mlp()
    monitor = RateMonitor(model, LOSS, loader(), every_n_epochs=1, steps=30, min_lr=1e-4)
    with pytest.raises(ValueError, match="history: it is empty; call the monitor"):
        monitor.plot()
    monitor(0)
    monitor(1)
    above, below = monitor.plot().axes
    assert above.get_xlabel() == "epoch"
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["epoch 0", "epoch 1"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs: got 0; give a whole number of epochs, at least 1"),
        ({"every_n_epochs": 2.5}, ValueError, r"every_n_epochs: got 2\.5"),
        ({"every_n_epochs": True}, ValueError, "every_n_epochs: got True"),
        ({"method": "best"}, ValueError, r"method: got 'best'; give one of \['clr_bounds'"),
        ({"step": 30}, TypeError, r"step: range_test has no such argument; leave it out, or give one of .*'steps'"),
        ({"model": None}, ValueError, "model: got NoneType; give a torch.nn.Module"),
        ({"loader": None}, ValueError, "loader: got NoneType; give a DataLoader"),
        ({"loss_fn": 3}, ValueError, "loss_fn: got int"),
        ({"optimizer": 0.1}, ValueError, r"optimizer: got 0\.1; give an instance"),
        ({"accumulate": 0}, ValueError, "accumulate: got 0"),
    ],
)
def test_bad_arguments_are_refused_before_any_training(changes, error, message):
    arguments = {"model": mlp(), "loss_fn": LOSS, "loader": [(torch.zeros(2, 64), torch.zeros(2, dtype=torch.int64))]}
    with pytest.raises(error, match=message):
        RateMonitor(**{**arguments, **changes})


@pytest.mark.parametrize("epoch", [-1, 1.5, None, "3"])
def test_an_epoch_must_be_a_whole_number(epoch):
    monitor = RateMonitor(mlp(), LOSS, loader())
    with pytest.raises(ValueError, match=r"epoch: got .*; give the number of the epoch that has just ended"):
        monitor(epoch)
    assert monitor.history == []
