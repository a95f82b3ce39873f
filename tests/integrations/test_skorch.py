"""skorch: clrfast's optimizers and schedules in a net, and scikit-learn's tools around it. It needs no adapter."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("skorch")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, GradientNormClipping, LRScheduler

import clrfast
from clrfast import range_test
from clrfast.schedules import ScheduleLR
from tests.helpers.small_data import BATCH, BATCHES, equal, two_classes, weights_of

pytestmark = [pytest.mark.framework("skorch", "skorch")]

EPOCHS = 3
STEPS = EPOCHS * BATCHES
INPUTS, TARGETS = (part.numpy() for part in two_classes())
KINDS = [clrfast.SGD, clrfast.AdamW]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, inputs):
        return self.layers(inputs)


class SeedEpochs(Callback):
    """Gives each epoch its own order of the data, as a run that resumes needs it."""

    def on_epoch_begin(self, net, **_):
        torch.manual_seed(len(net.history))


def make_net(optimizer=clrfast.SGD, *, callbacks=(), **options):
    return NeuralNetClassifier(
        Network,
        criterion=nn.CrossEntropyLoss,
        optimizer=optimizer,
        max_epochs=EPOCHS,
        batch_size=BATCH,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[SeedEpochs(), *callbacks],
        verbose=0,
        **options,
    )


def plain_loop(make, schedule, *, clip=None):
    """Train by hand in the same order, and return weights and losses."""
    net = make_net().initialize()  # for its loader
    model, losses = Network(), []
    optimizer = make(model.parameters(), schedule=schedule)
    dataset = net.get_dataset(INPUTS, TARGETS)
    for epoch in range(1, EPOCHS + 1):
        torch.manual_seed(epoch)
        for x, y in net.get_iterator(dataset, training=True):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return weights_of(model), losses


@pytest.mark.shows("trains")
@pytest.mark.parametrize("make", KINDS)
def test_a_fit_with_a_scheduled_optimizer_equals_a_plain_loop(make):
    schedule = clrfast.one_cycle(0.1, STEPS)
    net = make_net(make, optimizer__schedule=schedule).fit(INPUTS, TARGETS)
    expected, losses = plain_loop(make, schedule)
    assert equal(weights_of(net.module_), expected)
    assert net.optimizer_.control.losses.tolist() == losses  # skorch gives step() a closure


@pytest.mark.parametrize("policy", [ScheduleLR, clrfast.as_lr_scheduler])
def test_any_optimizer_follows_a_schedule_by_skorchs_callback(policy):
    schedule = clrfast.one_cycle(0.1, STEPS)
    follows = LRScheduler(policy, schedule=schedule, step_every="batch")
    net = make_net(torch.optim.SGD, optimizer__momentum=0.9, callbacks=[follows]).fit(INPUTS, TARGETS)
    expected, _ = plain_loop(clrfast.SGD, schedule)
    for a, b in zip(weights_of(net.module_), expected, strict=True):
        torch.testing.assert_close(a, b)
    recorded = [batch["event_lr"] for epoch in net.history for batch in epoch["batches"]]
    assert recorded == pytest.approx(schedule.table()[:, 0, 0])


def test_skorchs_callback_reports_the_rate_of_a_scheduled_optimizer():
    schedule = clrfast.one_cycle(0.1, STEPS)
    reports = LRScheduler(clrfast.as_lr_scheduler, step_every="batch")
    net = make_net(optimizer__schedule=schedule, callbacks=[reports]).fit(INPUTS, TARGETS)
    recorded = [batch["event_lr"] for epoch in net.history for batch in epoch["batches"]]
    assert len(recorded) == STEPS
    assert equal(weights_of(net.module_), plain_loop(clrfast.SGD, schedule)[0])


@pytest.mark.shows("finds the plain loop's rate")
@pytest.mark.parametrize("make", KINDS)
def test_the_search_on_a_nets_parts_equals_that_of_a_plain_range_test(make):
    net = make_net(make).initialize()
    before = weights_of(net.module_)
    loader = net.get_iterator(net.get_dataset(INPUTS, TARGETS), training=True)
    torch.manual_seed(1)
    curve = range_test(net.module_, net.criterion_, loader, optimizer=net.optimizer_)
    assert equal(weights_of(net.module_), before)
    torch.manual_seed(1)
    model = Network()
    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(TARGETS))
    plain = range_test(
        model,
        nn.CrossEntropyLoss(),
        torch.utils.data.DataLoader(data, BATCH, shuffle=True),
        optimizer=make(model.parameters(), lr=0.01),
    )
    assert curve.loss.tolist() == plain.loss.tolist()
    assert curve.suggest() == plain.suggest()


@pytest.mark.shows("resumes bit for bit")
@pytest.mark.parametrize("make", KINDS)
def test_a_net_resumes_from_its_files(make, tmp_path):
    schedule = clrfast.one_cycle(0.1, STEPS)
    names = {f"f_{name}": str(tmp_path / name) for name in ("params", "optimizer", "history")}
    first = make_net(make, optimizer__schedule=schedule).partial_fit(INPUTS, TARGETS)  # three epochs
    whole = weights_of(first.module_)
    first = make_net(make, optimizer__schedule=schedule).initialize()
    first.partial_fit(INPUTS, TARGETS, epochs=1)
    first.save_params(**names)
    second = make_net(make, optimizer__schedule=schedule).initialize()
    second.load_params(**names)
    assert second.optimizer_.control.synchronize() == BATCHES
    second.partial_fit(INPUTS, TARGETS, epochs=EPOCHS - 1)
    assert equal(weights_of(second.module_), whole)
    assert second.optimizer_.control.losses.isfinite().all()


def test_a_pickled_net_continues():
    schedule = clrfast.one_cycle(0.1, STEPS)
    net = make_net(optimizer__schedule=schedule).initialize()
    net.partial_fit(INPUTS, TARGETS, epochs=1)
    twin = pickle.loads(pickle.dumps(net))
    for each in (net, twin):
        each.partial_fit(INPUTS, TARGETS, epochs=EPOCHS - 1)
    assert equal(weights_of(twin.module_), weights_of(net.module_))


def test_scikit_learn_clones_a_net_and_searches_over_schedules():
    schedules = [clrfast.one_cycle(max_lr, 12) for max_lr in (1e-6, 0.3)]
    net = make_net(optimizer__schedule=schedules[0])
    assert clone(net).get_params()["optimizer__schedule"] == schedules[0]
    grid = GridSearchCV(net, {"optimizer__schedule": schedules}, cv=2, refit=False)
    grid.fit(INPUTS, TARGETS)
    low, high = grid.cv_results_["mean_test_score"]
    assert high > low


@pytest.mark.shows("clipping")
def test_the_gradients_are_clipped_by_skorch_and_by_the_optimizer():
    schedule = clrfast.one_cycle(0.1, STEPS)
    expected, _ = plain_loop(clrfast.SGD, schedule, clip=0.1)
    net = make_net(optimizer__schedule=schedule, callbacks=[GradientNormClipping(0.1)]).fit(INPUTS, TARGETS)
    assert equal(weights_of(net.module_), expected)
    net = make_net(optimizer__schedule=schedule, optimizer__clip_norm=0.1).fit(INPUTS, TARGETS)
    for a, b in zip(weights_of(net.module_), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert np.all(net.optimizer_.control.grad_norms.numpy() > 0)
