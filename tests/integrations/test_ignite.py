"""Ignite: clrfast's optimizers and schedulers in an engine. It needs no adapter."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("ignite")

from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.engine.deterministic import DeterministicEngine
from ignite.handlers import Checkpoint, DiskSaver
from ignite.handlers.param_scheduler import LRScheduler

import clrfast
from clrfast import range_test
from tests.helpers.range_tests import batch_norm_net
from tests.helpers.small_data import BATCH, BATCHES, equal, shuffled_loader, two_classes, weights_of

pytestmark = [pytest.mark.framework("Ignite", "pytorch-ignite")]

EPOCHS = 3
STEPS = EPOCHS * BATCHES
LOSS = nn.CrossEntropyLoss()
KINDS = [clrfast.SGD, clrfast.AdamW]


def plain_loop(make, schedule, *, accumulate=1, clip=None, dtype=None):
    """Train by hand, and return weights and the mean losses of the updates."""
    model, loader = batch_norm_net(), shuffled_loader()
    optimizer, losses, seen = make(model.parameters(), schedule=schedule), [], []
    for step, (x, y) in enumerate(batch for _ in range(EPOCHS) for batch in loader):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = LOSS(model(x), y)
        (loss / accumulate).backward()
        seen.append(loss.detach())
        if (step + 1) % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            losses.append(torch.stack(seen).mean().item())
            seen = []
            optimizer.step()
            optimizer.zero_grad()
    return weights_of(model), losses


def recording(optimizer):
    """A loss that the optimizer's control records, for a trainer that calls step() without it."""

    def loss_fn(outputs, targets):
        loss = LOSS(outputs, targets)
        optimizer.control.record(loss)
        return loss

    return loss_fn


@pytest.mark.shows("trains")
@pytest.mark.parametrize("make", KINDS)
def test_an_engine_with_a_scheduled_optimizer_equals_a_plain_loop(make):
    schedule = clrfast.one_cycle(0.1, STEPS)
    model = batch_norm_net()
    optimizer = make(model.parameters(), schedule=schedule)

    def update(engine, batch):
        optimizer.zero_grad()
        loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step(loss=loss)
        return loss.item()

    Engine(update).run(shuffled_loader(), max_epochs=EPOCHS)
    expected, losses = plain_loop(make, schedule)
    assert equal(weights_of(model), expected)
    assert optimizer.control.losses.tolist() == losses


@pytest.mark.shows("trains", "accumulation")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_supervised_trainer_accumulates_and_records_mean_losses(accumulate):
    schedule = clrfast.one_cycle(0.1, STEPS // accumulate)
    model = batch_norm_net()
    optimizer = clrfast.SGD(model.parameters(), schedule=schedule)
    trainer = create_supervised_trainer(model, optimizer, recording(optimizer), gradient_accumulation_steps=accumulate)
    trainer.run(shuffled_loader(), max_epochs=EPOCHS)
    expected, losses = plain_loop(clrfast.SGD, schedule, accumulate=accumulate)
    assert equal(weights_of(model), expected)
    assert optimizer.control.losses.tolist() == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_any_optimizer_follows_a_schedule_by_its_updates(accumulate):
    """The handler runs after every batch; follow_updates ignores those without an update."""
    schedule = clrfast.one_cycle(0.1, STEPS // accumulate)
    model = batch_norm_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = clrfast.as_lr_scheduler(optimizer, schedule, follow_updates=True)
    trainer = create_supervised_trainer(model, optimizer, LOSS, gradient_accumulation_steps=accumulate)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    trainer.run(shuffled_loader(), max_epochs=EPOCHS)
    expected, _ = plain_loop(clrfast.SGD, schedule, accumulate=accumulate)
    for a, b in zip(weights_of(model), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_ignites_own_wrapper_sets_the_rates_of_the_schedule():
    schedule, rates = clrfast.one_cycle(0.1, STEPS), []
    model = batch_norm_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = create_supervised_trainer(model, optimizer, LOSS)
    wrapper = LRScheduler(clrfast.as_lr_scheduler(optimizer, schedule))
    trainer.add_event_handler(Events.ITERATION_STARTED, wrapper)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.run(shuffled_loader(), max_epochs=EPOCHS)
    assert rates == pytest.approx(schedule.table()[:, 0, 0])
    expected, _ = plain_loop(clrfast.SGD, schedule)
    for a, b in zip(weights_of(model), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.shows("finds the plain loop's rate")
@pytest.mark.parametrize("make", KINDS)
def test_a_search_before_the_run_changes_nothing_of_it(make):
    runs = []
    for searches in (True, False):
        model, loader = batch_norm_net(), shuffled_loader()
        optimizer = make(model.parameters())
        if searches:
            curve = range_test(model, LOSS, loader, optimizer=optimizer, steps=20, max_lr=10.0)
            assert curve.suggest().max_lr > 0
        optimizer.set_schedule(clrfast.one_cycle(0.1, STEPS))
        create_supervised_trainer(model, optimizer, LOSS).run(loader, max_epochs=EPOCHS)
        runs.append(weights_of(model))
    assert equal(*runs)
    other = batch_norm_net()
    plain = range_test(other, LOSS, shuffled_loader(), optimizer=make(other.parameters()), steps=20, max_lr=10.0)
    assert curve.loss.tolist() == plain.loss.tolist()


def reseeded_loader():
    """A loader whose order follows torch's own seed, which the engine sets at each epoch and saves."""
    return DataLoader(TensorDataset(*two_classes()), BATCH, shuffle=True)


def engine_of(optimizer, model, stop_after=None):
    def update(engine, batch):
        optimizer.zero_grad()
        loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step(loss=loss)

    torch.manual_seed(5)  # the engine draws its seed from it
    engine = DeterministicEngine(update)
    if stop_after is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=stop_after), engine.terminate)
    return engine


@pytest.mark.shows("resumes bit for bit")
@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    ("stop_after", "new_loader"),
    [
        (BATCHES, reseeded_loader),
        (BATCHES + 2, lambda: list(shuffled_loader())),  # in mid-epoch Ignite restores no loader without workers
    ],
)
def test_a_run_resumes_from_a_checkpoint(make, stop_after, new_loader, tmp_path):
    def new(**options):
        model = batch_norm_net()
        optimizer = make(model.parameters(), **options)
        return model, optimizer

    model, optimizer = new(schedule=clrfast.one_cycle(0.1, STEPS))
    engine_of(optimizer, model).run(new_loader(), max_epochs=EPOCHS)

    first, first_optimizer = new(schedule=clrfast.one_cycle(0.1, STEPS))
    trainer = engine_of(first_optimizer, first, stop_after)
    saved = {"model": first, "optimizer": first_optimizer, "trainer": trainer}
    checkpoint = Checkpoint(saved, DiskSaver(tmp_path), filename_pattern="run.pt")
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop_after), checkpoint)
    trainer.run(new_loader(), max_epochs=EPOCHS)

    second, second_optimizer = new()  # the checkpoint has the schedule
    trainer = engine_of(second_optimizer, second)
    loaded = {"model": second, "optimizer": second_optimizer, "trainer": trainer}
    Checkpoint.load_objects(loaded, torch.load(tmp_path / "run.pt", weights_only=False))
    assert second_optimizer.control.synchronize() == stop_after
    trainer.run(new_loader(), max_epochs=EPOCHS)
    assert equal(weights_of(second), weights_of(model))
    assert second_optimizer.control.losses.tolist() == optimizer.control.losses.tolist()


@pytest.mark.shows("mixed precision")
def test_a_step_in_bfloat16_equals_a_plain_loop():
    schedule = clrfast.one_cycle(0.1, STEPS)
    model = batch_norm_net()
    optimizer = clrfast.SGD(model.parameters(), schedule=schedule)

    def update(engine, batch):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step(loss=loss)

    Engine(update).run(shuffled_loader(), max_epochs=EPOCHS)
    assert equal(weights_of(model), plain_loop(clrfast.SGD, schedule, dtype=torch.bfloat16)[0])


@pytest.mark.shows("mixed precision")
@pytest.mark.parametrize("kind", ["clrfast", "torch"])
def test_a_step_that_the_scaler_skips_does_not_advance_the_schedule(kind):
    schedule = clrfast.one_cycle(0.1, STEPS)
    model = batch_norm_net()
    if kind == "clrfast":
        optimizer = clrfast.SGD(model.parameters(), schedule=schedule)
        scheduler = clrfast.as_lr_scheduler(optimizer)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = clrfast.as_lr_scheduler(optimizer, schedule, follow_updates=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def update(engine, batch):
        optimizer.zero_grad()
        scaler.scale(LOSS(model(batch[0]), batch[1])).backward()
        if engine.state.iteration == 2:
            model[0].weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()

    trainer = Engine(update)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    trainer.run(shuffled_loader(), max_epochs=1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule.table()[BATCHES - 1, 0, 0])


@pytest.mark.shows("clipping")
def test_the_optimizer_clips_in_a_run_and_its_search():
    schedule = clrfast.one_cycle(0.1, STEPS)
    model = batch_norm_net()
    optimizer = clrfast.SGD(model.parameters(), schedule=schedule, clip_norm=0.1)
    create_supervised_trainer(model, optimizer, LOSS).run(shuffled_loader(), max_epochs=EPOCHS)
    expected, _ = plain_loop(clrfast.SGD, schedule, clip=0.1)
    for a, b in zip(weights_of(model), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert (optimizer.control.grad_norms > 0.1).all()
    clipped, free = (
        range_test(net, LOSS, shuffled_loader(), optimizer=clrfast.SGD(net.parameters(), clip_norm=clip), steps=8)
        for net, clip in ((batch_norm_net(), 0.1), (batch_norm_net(), None))
    )
    assert clipped.loss.tolist() != free.loss.tolist()
