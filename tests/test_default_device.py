"""The user's default device changes no result, and the preparations of the GPU's tests work under one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast.optim import StepControl
from clrfast.tasks import cifar10, make_task
from clrfast.training import DeviceDataset, TrainStep, crop_and_flip
from clrfast.training import _task_training as training
from tests.cuda_on_cpu.emulated_device import cuda_by_default
from tests.helpers.batch_sizes import holding, samples
from tests.helpers.captured import static_training
from tests.helpers.default_device import default_device
from tests.helpers.problems import blobs, blobs_without_dropout

pytestmark = pytest.mark.usefixtures("one_thread")

LOSS = nn.CrossEntropyLoss()


# ------------------------------------------------------------ the emulated device


REFUSED = {
    "pinned memory on the device": (lambda: torch.empty(3, pin_memory=True), "Only dense CPU tensors can be pinned"),
    "pinning what is there": (lambda: torch.zeros(3).pin_memory(), "only dense CPU tensors can be pinned"),
    "the CPU's generator": (lambda: torch.randn(3, generator=torch.Generator()), "Expected a 'cuda' device type"),
    "the CPU's generator in place": (lambda: torch.zeros(3).normal_(generator=torch.Generator()), "Expected a 'cuda'"),
    "a shuffled loader with a CPU generator": (
        lambda: list(DataLoader([1, 2], shuffle=True, generator=torch.Generator())),
        "Expected a 'cuda' device type",
    ),
    "a shuffled loader without a generator": (lambda: list(DataLoader([1, 2], shuffle=True)), "Expected a 'cuda'"),
    "both devices": (lambda: torch.zeros(3) + torch.zeros(3, device="cpu"), "at least two devices, cuda:0 and cpu"),
    "a batch of the CPU": (lambda: nn.Linear(3, 1)(torch.zeros(2, 3, device="cpu")), "at least two devices"),
    "a view by NumPy": (lambda: torch.zeros(3).numpy(), "can't convert cuda:0 device type tensor to numpy"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_emulated_device_refuses_what_cuda_refuses(monkeypatch, what):
    do, message = REFUSED[what]
    with cuda_by_default(monkeypatch), pytest.raises((RuntimeError, TypeError), match=message):
        do()


def test_the_emulated_device_accepts_what_cuda_accepts(monkeypatch):
    with cuda_by_default(monkeypatch):
        generator = torch.Generator("cuda")
        assert torch.randn(3, generator=generator).device == torch.device("cuda:0")
        assert len(list(DataLoader([1, 2], shuffle=True, generator=generator))) == 2
        assert torch.zeros(3, device="cpu", pin_memory=True).device.type == "cpu"
        assert (torch.ones(3) * torch.tensor(2.0, device="cpu")).tolist() == [2.0] * 3
        with torch.device("cpu"):
            assert torch.zeros(3).device.type == torch.get_default_device().type == "cpu"
    assert torch.zeros(3).device.type == "cpu"


# ------------------------------------------------------------ the package


def network():
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def batches(n=12):
    options = {"generator": torch.Generator("cpu").manual_seed(1), "device": "cpu"}
    return [(torch.randn(8, 4, **options), torch.randint(2, (8,), **options)) for _ in range(n)]


def curve(**options):
    found = clrfast.range_test(network(), LOSS, batches(), steps=20, min_lr=1e-3, **options)
    return [found.loss, [] if found.metric is None else found.metric]


def sweep_losses(vectorize):
    schedules = [clrfast.one_cycle(lr, 12) for lr in (0.1, 0.3)]
    return clrfast.sweep(network, LOSS, batches(), schedules, vectorize=vectorize).losses.tolist()


def weight_decays():
    given = {"val_loader": batches(3), "max_lr": 0.3, "steps": 20, "grid": (1e-1, 0), "refine": False}
    return clrfast.find_weight_decay(network(), LOSS, batches(), **given).loss


def recipe():
    data = [(x, (x[:, 0] > 0).long()) for x, _ in batches()]
    found = clrfast.find_recipe(clrfast.Task(network(), LOSS, data[:9], data[9:]), 464)
    return [str(found), found.study.weight_decay_trials.loss]


def scaled_steps():
    model = network()
    optimizer = clrfast.SGD(model.parameters(), schedule=clrfast.one_cycle(0.1, 12))
    step = TrainStep(model, LOSS, optimizer, scaler=torch.amp.GradScaler("cpu"), clip_norm=1.0)
    return [float(step(batch)) for batch in batches()]


def device_dataset():
    images = torch.arange(2 * 3 * 16.0, device="cpu").view(2, 3, 4, 4)
    data = DeviceDataset((images, images[:, 0, 0, 0]), 1, shuffle=True, augment=crop_and_flip(1))
    return [part.tolist() for batch in data for part in batch]


def digits():
    task = make_task("digits")
    losses = training.train(task, clrfast.one_cycle(0.1, 30))
    return [losses.tolist(), vars(training.evaluate(task))]


def control():
    one = StepControl(clrfast.one_cycle(0.1, 4).table())
    one.advance(1.5)
    return [one.recorded_losses(), one.row.tolist()]


def batch_sizes():
    dataset = TensorDataset(*(torch.cat(parts) for parts in zip(*batches(), strict=True)))
    return clrfast.find_batch_size(network(), LOSS, dataset, max_batch_size=16, memory=2**30).largest


CALLS = {
    "range_test": curve,
    "range_test with a measure": lambda: curve(val_loader=batches(2), metric=lambda outputs, targets: 0.5),
    "sweep, vectorized": lambda: sweep_losses(True),
    "sweep, sequential": lambda: sweep_losses(False),
    "find_weight_decay": weight_decays,
    "find_recipe": recipe,
    "find_batch_size": batch_sizes,
    "TrainStep": scaled_steps,
    "DeviceDataset": device_dataset,
    "the digits": digits,
    "StepControl": control,
    "CIFAR-10": lambda: cifar10._to_tensors(Path(), np.zeros((2, 3072), np.uint8), np.array([1, 2]))[1].tolist(),
}


@contextlib.contextmanager
def meta_by_default(patch):
    with default_device("meta"):
        yield


@pytest.mark.parametrize("by_default", [cuda_by_default, meta_by_default])
@pytest.mark.parametrize("name", CALLS)
def test_a_default_device_changes_nothing_for_a_model_on_the_cpu(monkeypatch, name, by_default):
    if (name, by_default) == ("find_batch_size", meta_by_default):
        pytest.skip("torch's DataLoader reads a number that it draws on the default device")
    expected = CALLS[name]()
    with by_default(monkeypatch):
        found = CALLS[name]()
    np.testing.assert_equal(found, expected)


# ------------------------------------------------------------ preparations of tests that only a device can run


def one_epoch(model, loss_fn, loader):
    for inputs, targets in loader:
        loss_fn(model(inputs), targets).backward()


def captured_training():
    _, _, step, warm_up, load = static_training(clrfast.one_cycle(0.1, 4), backend="torch")
    warm_up()
    load(1)
    step()


def sizes_that_fit():
    model, compute_loss, _ = holding(lambda size: size)
    data = samples()
    return clrfast.find_batch_size(model, dataset=data, compute_loss=compute_loss, memory=2**30, max_batch_size=4)


PREPARATIONS = {
    "blobs": lambda: one_epoch(*blobs()),
    "blobs without dropout": lambda: one_epoch(*blobs_without_dropout()),
    "captured training": captured_training,
    "find_batch_size": sizes_that_fit,
}


@pytest.mark.parametrize("name", PREPARATIONS)
def test_the_preparations_of_gpu_tests_work_under_a_cuda_default_device(monkeypatch, name):
    with cuda_by_default(monkeypatch):
        PREPARATIONS[name]()
