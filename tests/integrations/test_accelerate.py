"""Accelerate: ``OneCycle``, ``range_test``, ``find_lr`` and ``count_updates``."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import clrfast
from clrfast.integrations import accelerate as adapter
from clrfast.integrations.accelerate import OneCycle, count_updates, find_lr, range_test
from tests.helpers.ranks import torchrun

pytestmark = pytest.mark.framework("Accelerate", "accelerate")

JOB = Path(__file__).parents[1] / "jobs" / "accelerate_on_ranks.py"
SHORT = {"steps": 30, "min_lr": 1e-3, "max_lr": 10.0, "trials": False}
"""A short range test."""

SEEDABLE = DataLoaderConfiguration(use_seedable_sampler=True)
"""The order of an epoch then depends on its number only, which a run that resumes in mid-epoch needs."""

loss_fn = nn.CrossEntropyLoss()
OPTIMIZERS = {"ours": clrfast.SGD, "torch's": torch.optim.SGD}
both = pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.fixture(autouse=True)
def _fresh_state():
    """Accelerate keeps its settings in class attributes."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def samples(n=64):
    inputs = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return [(x, int(x[0] > 0) + int(x[1] > 0)) for x in inputs]


def made(kind=clrfast.SGD, seed=0, n=64, lr=0.1):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    generator = torch.Generator().manual_seed(0)  # so that a new iterator takes no random number that dropout takes
    loader = DataLoader(samples(n), batch_size=8, shuffle=True, generator=generator)
    return model, kind(model.parameters(), lr=lr, momentum=0.9), loader


def weights(model):
    return torch.cat([param.detach().reshape(-1) for param in model.parameters()])


def trained(accelerator, model, optimizer, loader, one_cycle, epochs=2, *, max_norm=None, stop_at=None, rates=None):
    """Train as the documentation shows; return the weights, or stop after ``stop_at`` updates."""
    first, skipped = divmod(one_cycle.batches_done, len(loader))
    for epoch in range(first, epochs):
        loader.set_epoch(epoch)
        batches = accelerator.skip_first_batches(loader, skipped) if epoch == first and skipped else loader
        for inputs, targets in batches:
            with accelerator.accumulate(model):
                one_cycle.backward(loss_fn(model(inputs), targets))
                if max_norm is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), max_norm)
                if rates is not None and accelerator.sync_gradients:
                    rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients and one_cycle.step == stop_at:
                return weights(model)
    return weights(model)


def trained_by_hand(optimizer_of, schedule, *, epochs=2, accumulate=1, max_norm=None, autocast=None):
    """Train in a plain loop; return the weights and the losses of the updates."""
    model, _, loader = made()
    optimizer = clrfast.SGD(model.parameters(), lr=0.1, momentum=0.9, schedule=schedule)
    loader = Accelerator(cpu=True).prepare(loader)  # for its order
    losses = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        batches = list(loader)
        for first in range(0, len(batches), accumulate):
            total = 0.0
            for inputs, targets in batches[first : first + accumulate]:
                with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                    outputs = model(inputs).float()
                loss = loss_fn(outputs, targets)
                (loss / accumulate).backward()
                total += loss.item()
            if max_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total / len(batches[first : first + accumulate]))
    return weights(model), losses


@pytest.fixture(autouse=True)
def _no_dropout(request, monkeypatch):
    """Leave dropout out, except where a test needs random numbers: a plain loop draws them in another order."""
    if "resum" not in request.node.name:
        monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.shows("trains")
@both
def test_the_loop_ends_where_a_plain_one_with_the_same_schedule_does(kind):
    by_hand, losses = trained_by_hand(kind, clrfast.one_cycle(0.2, 16))
    accelerator = Accelerator(cpu=True)
    parts = accelerator.prepare(*made(kind))
    one_cycle, rates = OneCycle(accelerator, loader=parts[2], optimizer=parts[1], epochs=2, max_lr=0.2), []
    ends = trained(accelerator, *parts, one_cycle, rates=rates)
    np.testing.assert_array_equal(rates, clrfast.one_cycle(0.2, 16).table()[:, 0, 0])
    assert one_cycle.step == 16
    if kind is clrfast.SGD:
        assert torch.equal(ends, by_hand)
        assert parts[1].optimizer.control.losses.tolist() == losses
    else:
        torch.testing.assert_close(ends, by_hand)


def test_arguments_that_contradict_each_other_are_refused():
    accelerator = Accelerator(cpu=True)
    _, optimizer, loader = accelerator.prepare(*made())
    with pytest.raises(ValueError, match="epochs, total_steps: got None and None; give one of the two"):
        OneCycle(accelerator, loader=loader, optimizer=optimizer, max_lr=0.1)
    with pytest.raises(ValueError, match="epochs, total_steps: got 1 and 2; give one of the two"):
        OneCycle(accelerator, loader=loader, optimizer=optimizer, max_lr=0.1, epochs=1, total_steps=2)
    with pytest.raises(ValueError, match="model: got None, and the search of max_lr needs it"):
        OneCycle(accelerator, loader=loader, optimizer=optimizer, epochs=1)
    optimizer.optimizer.set_schedule(clrfast.one_cycle(0.1, 8))
    with pytest.raises(ValueError, match="optimizer: it follows a schedule of its own already"):
        OneCycle(accelerator, loader=loader, optimizer=optimizer, epochs=1, max_lr=0.1)


# -------------------------------------------------------------------------------------------------------------- search


@pytest.mark.shows("finds the plain loop's rate")
def test_the_search_equals_that_of_a_plain_loop_and_leaves_all_as_it_was():
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(*made())
    saved, random = copy.deepcopy((model.state_dict(), optimizer.state_dict())), torch.get_rng_state()
    gradients = copy.copy(vars(GradientState()))
    curve = range_test(accelerator, model, loss_fn, loader, optimizer=optimizer, max_steps=200)
    assert torch.equal(torch.get_rng_state(), random)
    assert vars(GradientState()) == gradients
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), saved, rtol=0, atol=0)
    assert find_lr(accelerator, model, loss_fn, loader, optimizer=optimizer, max_steps=200) == curve.suggest()

    plain_model, plain_optimizer, plain_loader = made()
    plain_loader = Accelerator(cpu=True).prepare(plain_loader)  # for its order
    torch.set_rng_state(random)
    plain = clrfast.range_test(plain_model, loss_fn, plain_loader, optimizer=plain_optimizer, max_steps=200)
    np.testing.assert_array_equal(curve.loss, plain.loss)
    assert curve.suggest() == plain.suggest()


@pytest.mark.shows("finds the plain loop's rate")
def test_a_cycle_without_a_rate_searches_first():
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(*made())
    plain = find_lr(accelerator, model, loss_fn, loader, optimizer=optimizer, **SHORT)
    one_cycle = OneCycle(
        accelerator, model, loss_fn, loader, optimizer=optimizer, epochs=2, **{**SHORT, "max_lr": None}
    )
    assert one_cycle.suggestion == one_cycle.curve.suggest()
    assert one_cycle.schedule == clrfast.one_cycle(one_cycle.suggestion.max_lr, 16)
    assert plain.max_lr > 0


# ------------------------------------------------------------------------------------ precision, accumulation, clipping


@pytest.mark.shows("mixed precision")
def test_bfloat16_holds_in_training_and_search():
    by_hand, _ = trained_by_hand(clrfast.SGD, clrfast.one_cycle(0.2, 16), autocast=torch.bfloat16)
    AcceleratorState._reset_state(True)
    plain_model, plain_optimizer, plain_loader = made()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    plain_loader = accelerator.prepare(plain_loader)
    random = torch.get_rng_state()
    plain = clrfast.range_test(
        plain_model,
        loss_fn,
        plain_loader,
        optimizer=plain_optimizer,
        compute_loss=None,
        autocast=torch.bfloat16,
        **SHORT,
    )
    model, optimizer, loader = accelerator.prepare(*made())
    torch.set_rng_state(random)
    curve = range_test(accelerator, model, loss_fn, loader, optimizer=optimizer, **SHORT)
    np.testing.assert_array_equal(curve.loss, plain.loss)
    one_cycle = OneCycle(accelerator, loader=loader, optimizer=optimizer, epochs=2, max_lr=0.2)
    assert torch.equal(trained(accelerator, model, optimizer, loader, one_cycle), by_hand)


@pytest.mark.shows("mixed precision")
@both
def test_an_update_that_the_scaler_skips_does_not_move_the_schedule(kind):
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    model, optimizer, loader = accelerator.prepare(*made(kind))
    one_cycle = OneCycle(accelerator, loader=loader, optimizer=optimizer, epochs=1, max_lr=0.2)
    skipped, steps, losses = [], [], []
    for index, (inputs, targets) in enumerate(loader):
        loss = loss_fn(model(inputs), targets)
        losses.append(loss.item())
        one_cycle.backward(loss)
        if index in (0, 3):
            model[0].weight.grad.fill_(float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        skipped.append(optimizer.step_was_skipped)
        steps.append(one_cycle.step)
    assert [index for index, one in enumerate(skipped) if one] == [0, 3]
    assert steps == [0, 1, 2, 2, 3, 4, 5, 6]
    control = getattr(optimizer.optimizer, "control", None)
    if control is not None:  # the losses of the applied updates alone
        assert control.losses[:6].tolist() == [loss for index, loss in enumerate(losses) if index not in (0, 3)]
    assert optimizer.param_groups[0]["lr"] == clrfast.one_cycle(0.2, 8).table()[6, 0, 0]


@pytest.mark.shows("mixed precision")
def test_the_search_uses_the_accelerators_scaler():
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    model, optimizer, loader = accelerator.prepare(*made())

    def large_loss(outputs, targets):  # the first updates overflow
        return 100 * loss_fn(outputs, targets)

    curve = range_test(accelerator, model, large_loss, loader, optimizer=optimizer, **SHORT)
    assert accelerator.scaler.get_scale() == 2.0**127
    inner, scaler = optimizer.optimizer, accelerator.scaler
    scaled = clrfast.range_test(model, large_loss, loader, optimizer=inner, scaler=scaler, **SHORT)
    unscaled = clrfast.range_test(model, large_loss, loader, optimizer=inner, **SHORT)
    np.testing.assert_array_equal(curve.loss, scaled.loss)
    assert curve.loss[0] != unscaled.loss[0]  # updates were skipped before it


@pytest.mark.shows("accumulation")
@both
def test_accumulation_counts_updates_and_records_means(kind):
    by_hand, losses = trained_by_hand(kind, clrfast.one_cycle(0.2, 6), accumulate=3)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    parts = accelerator.prepare(*made(kind))  # 8 batches: the last update of an epoch has two
    one_cycle = OneCycle(accelerator, loader=parts[2], optimizer=parts[1], epochs=2, max_lr=0.2)
    assert one_cycle.total_steps == 6
    torch.testing.assert_close(trained(accelerator, *parts, one_cycle), by_hand)
    assert one_cycle.step == 6
    if kind is clrfast.SGD:
        np.testing.assert_allclose(parts[1].optimizer.control.losses, losses, rtol=1e-6)


@pytest.mark.shows("accumulation")
def test_the_search_accumulates_as_the_loop_does():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    model, optimizer, loader = accelerator.prepare(*made())
    given = range_test(accelerator, model, loss_fn, loader, optimizer=optimizer, **SHORT)
    plain = clrfast.range_test(model, loss_fn, loader, optimizer=optimizer.optimizer, accumulate=3, **SHORT)
    np.testing.assert_array_equal(given.loss, plain.loss)


@pytest.mark.shows("clipping")
def test_clipping_holds_in_training_and_search():
    by_hand, _ = trained_by_hand(clrfast.SGD, clrfast.one_cycle(0.2, 16), max_norm=0.05)
    accelerator = Accelerator(cpu=True)
    parts = accelerator.prepare(*made())
    one_cycle = OneCycle(accelerator, loader=parts[2], optimizer=parts[1], epochs=2, max_lr=0.2)
    assert torch.equal(trained(accelerator, *parts, one_cycle, max_norm=0.05), by_hand)
    model, optimizer, loader = accelerator.prepare(*made())
    curve = range_test(accelerator, model, loss_fn, loader, optimizer=optimizer, clip_norm=0.05, **SHORT)
    plain = clrfast.range_test(model, loss_fn, loader, optimizer=optimizer.optimizer, clip_norm=0.05, **SHORT)
    np.testing.assert_array_equal(curve.loss, plain.loss)


# --------------------------------------------------------------------------------------------------------------- totals


def test_the_updates_of_a_training_are_counted():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    loader = made()[2]
    prepared = accelerator.prepare(made()[2])
    assert count_updates(accelerator, prepared, 2) == 6  # 3 + 3 + 2 batches, twice
    assert (
        count_updates(accelerator, loader, 2) == 5
    )  # the accumulation of a foreign loader continues in the next epoch
    accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
    assert count_updates(accelerator, prepared, 2) == 5


def test_a_loader_without_a_length_needs_total_steps():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(samples())

    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(Endless(), batch_size=8))
    with pytest.raises(ValueError, match="loader: it has no length; give total_steps"):
        count_updates(accelerator, loader, 1)


# --------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.shows("resumes bit for bit")
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("way", ["resume_from", "load_state"])
@both
def test_a_run_resumed_in_mid_epoch_ends_where_the_uninterrupted_one_does(tmp_path, monkeypatch, kind, way, accumulate):
    def fresh(seed=0):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate, dataloader_config=SEEDABLE)
        return accelerator, accelerator.prepare(*made(kind, seed))

    def cycle(accelerator, parts, **given):
        return OneCycle(
            accelerator, parts[0], loss_fn, parts[2], optimizer=parts[1], epochs=2, **{**SHORT, "max_lr": None, **given}
        )

    def start():
        accelerator, parts = fresh()
        return accelerator, parts, cycle(accelerator, parts)

    accelerator, parts, whole = start()
    torch.manual_seed(3)  # dropout
    uninterrupted = trained(accelerator, *parts, whole)
    accelerator, parts, interrupted = start()
    torch.manual_seed(3)
    trained(accelerator, *parts, interrupted, stop_at=2 if accumulate == 3 else 11)
    accelerator.save_state(str(tmp_path))

    monkeypatch.setattr(adapter, "range_test", None)  # nothing searches again
    accelerator, parts = fresh(seed=0)
    with torch.no_grad():
        parts[0][0].weight.zero_()
    if way == "resume_from":
        resumed = cycle(accelerator, parts, resume_from=str(tmp_path))
    else:
        resumed = cycle(accelerator, parts, max_lr=whole.suggestion.max_lr)
        accelerator.load_state(str(tmp_path))
    assert resumed.step == interrupted.step
    assert torch.equal(trained(accelerator, *parts, resumed), uninterrupted)
    assert resumed.step == whole.step
    assert resumed.schedule == whole.schedule
    if kind is clrfast.SGD:
        ours, theirs = parts[1].optimizer.control.losses, whole._optimizer.control.losses
        assert torch.equal(ours, theirs)


def test_a_resumed_run_of_another_length_keeps_its_schedule_with_a_warning(tmp_path):
    accelerator = Accelerator(cpu=True)
    parts = accelerator.prepare(*made())
    trained(accelerator, *parts, OneCycle(accelerator, loader=parts[2], optimizer=parts[1], epochs=2, max_lr=0.2), 1)
    accelerator.save_state(str(tmp_path))
    accelerator = Accelerator(cpu=True)
    _, optimizer, loader = accelerator.prepare(*made())
    with pytest.warns(UserWarning, match="the saved schedule has total_steps=16, and this run plans 24"):
        resumed = OneCycle(accelerator, loader=loader, optimizer=optimizer, epochs=3, resume_from=str(tmp_path))
    assert resumed.step == 8


# ------------------------------------------------------------------------------------------------------------------ log


class Tracker:
    """A tracker that keeps what it gets."""

    name, requires_logging_directory, tracker = "kept", False, None
    main_process_only = False

    def __init__(self):
        self.rows = []

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **_):
        self.rows.append((step, values))


@pytest.mark.parametrize("log", [True, False])
def test_the_curve_and_every_update_go_to_the_trackers(log):
    accelerator, tracker = Accelerator(cpu=True), Tracker()
    accelerator.trackers = [tracker]
    parts = accelerator.prepare(*made())
    one_cycle = OneCycle(
        accelerator,
        parts[0],
        loss_fn,
        parts[2],
        optimizer=parts[1],
        epochs=2,
        log=log,
        **{**SHORT, "max_lr": None},
    )
    trained(accelerator, *parts, one_cycle)
    losses = [values["clrfast/loss"] for _, values in tracker.rows if "clrfast/loss" in values]
    assert losses == (parts[1].optimizer.control.losses.tolist() if log else [])
    assert any("lr_range_test/loss" in values for _, values in tracker.rows) == log


def test_a_resumed_run_writes_the_updates_that_were_saved_but_not_written(tmp_path):
    accelerator, tracker = Accelerator(cpu=True), Tracker()
    accelerator.trackers = [tracker]
    model, optimizer, loader = accelerator.prepare(*made())
    one_cycle = OneCycle(accelerator, loader=loader, optimizer=optimizer, epochs=1, max_lr=0.2)
    batches = list(loader)
    for inputs, targets in batches[:5]:
        one_cycle.backward(loss_fn(model(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()
    accelerator.save_state(tmp_path)
    assert tracker.rows == []
    accelerator, tracker = Accelerator(cpu=True), Tracker()
    accelerator.trackers = [tracker]
    model, optimizer, loader = accelerator.prepare(*made())
    one_cycle = OneCycle(accelerator, loader=loader, optimizer=optimizer, epochs=1, resume_from=str(tmp_path))
    for inputs, targets in batches[5:]:
        one_cycle.backward(loss_fn(model(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()
    assert [step for step, _ in tracker.rows] == list(range(8))


# ------------------------------------------------------------------------------------------------------------ processes


@pytest.mark.slow
@pytest.mark.shows("two processes")
def test_two_processes_train_as_one_loop(tmp_path):
    accelerator = Accelerator(cpu=True)
    parts = accelerator.prepare(*made())
    one_cycle = OneCycle(accelerator, loader=parts[2], optimizer=parts[1], epochs=2, max_lr=0.2)
    trained(accelerator, *parts, one_cycle, stop_at=3)
    accelerator.save_state(str(tmp_path / "of one process"))
    job = torchrun(tmp_path, JOB, tmp_path)
    assert job.returncode == 0, job.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    for kind in ("ours", "torch's"):
        found = first[kind]
        assert found["total_steps"] == found["step"] == 8
        np.testing.assert_array_equal(found["rates"], clrfast.one_cycle(found["max_lr"], 8).table()[:, 0, 0])
        assert found["max_lr"] == found["plain max_lr"]
        assert found["weights"] == found["by hand"]
        assert found["resumed"] == found["weights"]
    assert first["step from one process"] == 3
    assert first["convention"] == []
    assert "makes 2 steps per update" in first["updates as total"]
    assert first["raised after"] < 20
    assert "loader: it is not prepared" in first["unprepared"]


def test_the_warning_of_a_run_past_its_end_is_as_before_in_one_process():
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = made(torch.optim.SGD)
    schedule = clrfast.as_lr_scheduler(optimizer, clrfast.one_cycle(0.2, 3))
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for inputs, targets in loader:
            accelerator.backward(loss_fn(model(inputs), targets))
            optimizer.step()
            schedule.step()
    assert sum("the schedule has ended" in str(each.message) for each in caught) == 1
