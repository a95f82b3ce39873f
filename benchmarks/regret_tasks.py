"""Small real tasks with a short 1cycle each, on which ``regret.py`` judges learning-rate finders.

Constants of a finder may be chosen on TUNING only; HELD_OUT has the same kinds of tasks and tells whether they carry
over. A task is a function ``seed -> RegretTask``: the seed decides the initial weights and the order of the data, never
the data itself nor the split.

A 1cycle of every task takes about a second or less on one core. Tasks that need ``../shared/data`` are left out where
it is missing; it is unpacked once into $CLRFAST_BENCH_CACHE, by default a folder in the temporary one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import inspect
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .measure import ROOT

PACKED_DATA = ROOT.parent / "shared" / "data"

Arrays = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training inputs and targets, validation inputs and targets."""


@dataclass
class RegretTask:
    """A fresh model, its loss and data, and the length of its 1cycle.

    Attributes:
        model: at its initial weights.
        loss_fn: ``loss_fn(model(inputs), targets) -> loss``.
        train, val: ``(inputs, targets)``.
        batch_size: of the training batches; the last incomplete one is dropped.
        steps: length of the 1cycle.
        seed: of the initial weights and of the order of the data.
    """

    model: nn.Module
    loss_fn: nn.Module
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    batch_size: int
    steps: int
    seed: int

    def loader(self) -> DataLoader:
        """A new loader; every one gives the same batches in the same order, other ones in each epoch."""
        return DataLoader(
            _Pairs(*self.train),
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=_as_it_is,
        )

    @torch.no_grad()
    def val_loss(self) -> float:
        """The loss over the validation data, in eval mode; the flags are left as they were."""
        training = self.model.training
        self.model.eval()
        loss = float(self.loss_fn(self.model(self.val[0]), self.val[1]))
        self.model.train(training)
        return loss


class _Pairs(Dataset):
    """Inputs and targets that a loader indexes once a batch: collating sample by sample would cost more than a step."""

    def __init__(self, inputs: Tensor, targets: Tensor):
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(indices)
        return self.inputs[index], self.targets[index]


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class TaskMaker:
    """A task by name, and the rates between which its oracle looks.

    Attributes:
        make: ``seed -> RegretTask``.
        half: "TUNING" or "HELD_OUT".
        low, high: decades, base 10: from far too low to divergence.
        packed: needs ``../shared/data``.
    """

    name: str
    make: Callable[[int], RegretTask]
    half: str
    low: float
    high: float
    packed: bool

    def digest(self) -> str:
        """Changes with the task's definition, model and data; the oracle is kept under it."""
        task = self.make(0)
        parts = [inspect.getsource(self.make), repr(task.model), repr(task.loss_fn), repr((self.low, self.high))]
        for tensor in (*task.train, *task.val):
            parts.append(f"{tuple(tensor.shape)} {float(tensor.double().sum()):.5e}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


TASKS: dict[str, TaskMaker] = {}


def _task(
    half: str, low: float, high: float, packed: bool = False
) -> Callable[[Callable[[int], RegretTask]], Callable[[int], RegretTask]]:
    def register(make: Callable[[int], RegretTask]) -> Callable[[int], RegretTask]:
        TASKS[make.__name__] = TaskMaker(make.__name__, make, half, low, high, packed)
        return make

    return register


def available() -> dict[str, TaskMaker]:
    """The tasks whose data is here; unpacks it at the first call."""
    have_packed = (PACKED_DATA / "unpack.py").exists()
    if have_packed:
        _unpacked()
    return {name: maker for name, maker in TASKS.items() if have_packed or not maker.packed}


# --- the tasks: vision ------------------------------------------------------------------------------------------------


@_task("TUNING", low=-4.5, high=1.5)
def digits_cnn(seed: int) -> RegretTask:
    """Convolutions without normalisation."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(96, 10)),
        )

    return _made(seed, model, nn.CrossEntropyLoss(), _digits(), batch_size=64, steps=200)


@_task("HELD_OUT", low=-4, high=2)
def digits_cnn_bn(seed: int) -> RegretTask:
    """Convolutions with batch norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)),
        )

    return _made(seed, model, nn.CrossEntropyLoss(), _digits(), batch_size=32, steps=200)


@_task("TUNING", low=-5.5, high=1)
def digits_mlp_tiny_batch(seed: int) -> RegretTask:
    """Batches of 8."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    return _made(seed, model, nn.CrossEntropyLoss(), _digits(), batch_size=8, steps=400)


@_task("TUNING", low=-5.5, high=1.5, packed=True)
def fashion_cnn_bn(seed: int) -> RegretTask:
    """Strided convolutions with batch norm."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    return _made(seed, model, nn.CrossEntropyLoss(), _fashion(8000, 500), batch_size=64, steps=150)


@_task("HELD_OUT", low=-5.5, high=1.5, packed=True)
def fashion_mlp_large_batch(seed: int) -> RegretTask:
    """Batches of 512."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    return _made(seed, model, nn.CrossEntropyLoss(), _fashion(8000, 1000), batch_size=512, steps=150)


@_task("HELD_OUT", low=-4, high=1, packed=True)
def cifar_conv(seed: int) -> RegretTask:
    """Strided convolutions without normalisation on colour images."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 10)),
        )

    return _made(seed, model, nn.CrossEntropyLoss(), _cifar(8000, 500), batch_size=32, steps=200)


@_task("HELD_OUT", low=-4.5, high=1.5)
def digits_autoencoder(seed: int) -> RegretTask:
    """Mean squared error over 64 pixels, tanh."""

    def model() -> nn.Module:
        widths = (64, 48, 16, 48)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers, nn.Linear(48, 64))

    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in _digits())
    return _made(seed, model, nn.MSELoss(), (train, train, val, val), batch_size=128, steps=300)


# --- tabular classification -------------------------------------------------------------------------------------------


@_task("TUNING", low=-4.5, high=1.5)
def wine_mlp(seed: int) -> RegretTask:
    """178 samples, batches of 16."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    return _made(seed, model, nn.CrossEntropyLoss(), _bundled("wine", 48), batch_size=16, steps=150)


@_task("HELD_OUT", low=-5, high=1)
def iris_mlp(seed: int) -> RegretTask:
    """150 samples, batches of 8."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))

    return _made(seed, model, nn.CrossEntropyLoss(), _bundled("iris", 50), batch_size=8, steps=200)


@_task("HELD_OUT", low=-4.5, high=1.5)
def breast_cancer_mlp(seed: int) -> RegretTask:
    """Two classes, no normalisation between the layers."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    return _made(seed, model, nn.CrossEntropyLoss(), _bundled("breast_cancer", 169), batch_size=64, steps=150)


@_task("TUNING", low=-5, high=2)
def covertype_like(seed: int) -> RegretTask:
    """Seven uneven classes in 54 columns, generated; batches of 512."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(54, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 7))

    return _made(seed, model, nn.CrossEntropyLoss(), _covertype_like(), batch_size=512, steps=200)


# --- regression -------------------------------------------------------------------------------------------------------


@_task("TUNING", low=-6, high=0.5)
def diabetes_mlp(seed: int) -> RegretTask:
    """Standardised targets."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))

    return _made(seed, model, nn.MSELoss(), _diabetes(standardised=True), batch_size=32, steps=150)


@_task("HELD_OUT", low=-7, high=-1)
def diabetes_raw_targets(seed: int) -> RegretTask:
    """Targets in their own unit, around 150: the loss starts at 29,000, and only tiny rates work."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))

    return _made(seed, model, nn.MSELoss(), _diabetes(standardised=False), batch_size=32, steps=200)


@_task("TUNING", low=-8.5, high=-1)
def friedman_sum(seed: int) -> RegretTask:
    """The loss summed over the batch: the best rate is lower by the batch size."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 1), nn.Flatten(0))

    return _made(seed, model, nn.MSELoss(reduction="sum"), _friedman(), batch_size=128, steps=250)


@_task("HELD_OUT", low=-5.5, high=1)
def teacher_student(seed: int) -> RegretTask:
    """A ReLU network learns another one."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))

    return _made(seed, model, nn.MSELoss(), _teacher(), batch_size=64, steps=300)


# --- text -------------------------------------------------------------------------------------------------------------


@_task("TUNING", low=-3.5, high=2)
def char_gru(seed: int) -> RegretTask:
    """The next character, recurrent."""
    text = _characters(length=16)
    return _made(seed, lambda: _CharGRU(_n_characters(), 32), nn.CrossEntropyLoss(), text, batch_size=32, steps=150)


@_task("HELD_OUT", low=-4.5, high=1.5)
def char_transformer(seed: int) -> RegretTask:
    """The next character, attention and layer norm."""
    text = _characters(length=16)
    return _made(
        seed, lambda: _CharTransformer(_n_characters(), 16, 32), nn.CrossEntropyLoss(), text, batch_size=32, steps=200
    )


@_task("HELD_OUT", low=-5, high=1.5)
def bag_of_characters(seed: int) -> RegretTask:
    """Which text a snippet is from, by how often each character is in it."""
    arrays = _snippets(length=96)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(arrays[0].shape[1], 48), nn.ReLU(), nn.Linear(48, len(_texts())))

    return _made(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=64, steps=250)


# --- deep, and starting near a saddle ---------------------------------------------------------------------------------


@_task("TUNING", low=-6, high=0.5)
def deep_mlp(seed: int) -> RegretTask:
    """Ten layers without normalisation."""

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(9):
            layers += [nn.Linear(64, 64), nn.ReLU()]
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return nn.Sequential(*layers, nn.Linear(64, 10))

    return _made(seed, model, nn.CrossEntropyLoss(), _digits(), batch_size=32, steps=200)


@_task("TUNING", low=-6.5, high=1)
def deep_mlp_layer_norm(seed: int) -> RegretTask:
    """Seven layers with layer norm."""

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(54, 48)]
        for _ in range(6):
            layers += [nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 48)]
        return nn.Sequential(*layers, nn.LayerNorm(48), nn.Linear(48, 7))

    return _made(seed, model, nn.CrossEntropyLoss(), _covertype_like(), batch_size=64, steps=250)


@_task("TUNING", low=-3, high=1.5)
def matrix_factorisation(seed: int) -> RegretTask:
    """Both factors start small: the loss stays flat until they have grown together."""
    return _made(
        seed, lambda: _Factors(60, 50, rank=4, std=0.03), nn.MSELoss(), _ratings(60, 50), batch_size=256, steps=200
    )


@_task("HELD_OUT", low=-4, high=1)
def deep_linear(seed: int) -> RegretTask:
    """Four linear layers from small weights: a saddle again."""

    def model() -> nn.Module:
        layers = [nn.Linear(16, 16, bias=False) for _ in range(4)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.1)
        return nn.Sequential(*layers)

    return _made(seed, model, nn.MSELoss(), _linear_map(), batch_size=64, steps=300)


TUNING = tuple(name for name, maker in TASKS.items() if maker.half == "TUNING")
HELD_OUT = tuple(name for name, maker in TASKS.items() if maker.half == "HELD_OUT")


# --- models -----------------------------------------------------------------------------------------------------------


class _CharGRU(nn.Module):
    def __init__(self, n_characters: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(n_characters, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, n_characters)

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, characters, T]
        return self.head(self.gru(self.embedding(text))[0]).transpose(1, 2)


class _CharTransformer(nn.Module):
    def __init__(self, n_characters: int, length: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(n_characters, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        self.block = nn.TransformerEncoderLayer(
            width, nhead=2, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, text: Tensor) -> Tensor:  # [B, T] -> [B, characters, T]
        hidden = self.block(self.embedding(text) + self.position, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(hidden)).transpose(1, 2)


class _Factors(nn.Module):
    def __init__(self, n_rows: int, n_columns: int, rank: int, std: float):
        super().__init__()
        self.rows, self.columns = nn.Embedding(n_rows, rank), nn.Embedding(n_columns, rank)
        for factor in (self.rows, self.columns):
            nn.init.normal_(factor.weight, std=std)

    def forward(self, index: Tensor) -> Tensor:  # [B, 2] -> [B]
        return (self.rows(index[:, 0]) * self.columns(index[:, 1])).sum(-1)


def _made(
    seed: int, model: Callable[[], nn.Module], loss_fn: nn.Module, arrays: Arrays, *, batch_size: int, steps: int
) -> RegretTask:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = model()
    return RegretTask(made, loss_fn, arrays[:2], arrays[2:], batch_size, steps, seed)


# --- data; every function gives the same arrays at every call ---------------------------------------------------------


def _split(inputs: Tensor, targets: Tensor, n_val: int) -> Arrays:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    val, train = order[:n_val], order[n_val:]
    return inputs[train], targets[train], inputs[val], targets[val]


def _standardised(values: np.ndarray) -> Tensor:
    return torch.tensor((values - values.mean(0)) / values.std(0), dtype=torch.float32)


@functools.cache
def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return _split((images - images.mean()) / images.std(), torch.tensor(data.target), 360)


@functools.cache
def _bundled(name: str, n_val: int) -> Arrays:
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    return _split(_standardised(data.data), torch.tensor(data.target), n_val)


@functools.cache
def _diabetes(standardised: bool) -> Arrays:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    targets = _standardised(data.target) if standardised else torch.tensor(data.target, dtype=torch.float32)
    return _split(_standardised(data.data), targets, 122)


@functools.cache
def _covertype_like() -> Arrays:
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        *(6000, 54),
        n_informative=12,
        n_redundant=6,
        n_classes=7,
        n_clusters_per_class=2,
        weights=[0.36, 0.48, 0.06, 0.02, 0.02, 0.03, 0.03],
        flip_y=0.03,
        random_state=0,
    )
    return _split(_standardised(inputs), torch.tensor(targets), 1000)


@functools.cache
def _friedman() -> Arrays:
    from sklearn.datasets import make_friedman1

    inputs, targets = make_friedman1(2500, noise=1.0, random_state=0)
    return _split(_standardised(inputs), _standardised(targets), 500)


@functools.cache
def _teacher() -> Arrays:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2500, 20, generator=generator)
    first = torch.randn(20, 8, generator=generator) / 20**0.5
    second = torch.randn(8, generator=generator)
    targets = (inputs @ first).relu() @ second
    targets = (targets - targets.mean()) / targets.std() + 0.1 * torch.randn(2500, generator=generator)
    return _split(inputs, targets, 500)


@functools.cache
def _ratings(n_rows: int, n_columns: int) -> Arrays:
    """Entries of a matrix of rank 3 with a little noise, ``[n, 2]`` indices and their values."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(n_rows, 3, generator=generator), torch.randn(3, n_columns, generator=generator)
    matrix = 2.5 * left @ right / 3**0.5 + 0.1 * torch.randn(n_rows, n_columns, generator=generator)
    index = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_columns))
    return _split(index, matrix.flatten(), 600)


@functools.cache
def _linear_map() -> Arrays:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2500, 16, generator=generator)
    spectrum = torch.diag(torch.linspace(2.0, 0.2, 16))
    left, right = (torch.linalg.qr(torch.randn(16, 16, generator=generator))[0] for _ in range(2))
    targets = inputs @ left @ spectrum @ right
    return _split(inputs, targets + 0.1 * torch.randn(2500, 16, generator=generator), 500)


@functools.cache
def _texts() -> tuple[Tensor, ...]:
    """The descriptions of its data sets that scikit-learn bundles, as numbers of characters; rare ones share one."""
    folder = importlib.resources.files("sklearn.datasets") / "descr"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    texts = [file.read_text(encoding="utf-8") for file in files]
    everything = "".join(texts)
    number = {char: i for i, char in enumerate(sorted(c for c in set(everything) if everything.count(c) >= 5))}
    return tuple(torch.tensor([number.get(char, len(number)) for char in text]) for text in texts)


def _n_characters() -> int:
    return 1 + max(int(text.max()) for text in _texts())


def _windows(text: Tensor, length: int, stride: int) -> Tensor:
    return text.unfold(0, length, stride)


@functools.cache
def _characters(length: int) -> Arrays:
    """``[n, length]`` characters and the one after each; the last sixth of every text is for validation."""
    cuts = [(text, len(text) * 5 // 6) for text in _texts()]
    train = torch.cat([_windows(text[:cut], length + 1, 3) for text, cut in cuts])
    val = torch.cat([_windows(text[cut:], length + 1, length + 1) for text, cut in cuts])
    return train[:, :-1], train[:, 1:], val[:, :-1], val[:, 1:]


@functools.cache
def _snippets(length: int) -> Arrays:
    """``[n, characters]`` counts in snippets, standardised, and the number of their text.

    Every third stretch of two lengths is for validation, so that both parts are from all over the text.
    """
    counts: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: tuple[list[int], list[int]] = ([], [])
    for label, text in enumerate(_texts()):
        for number, stretch in enumerate(text.split(2 * length)):
            part = int(number % 3 == 2)
            for window in stretch.unfold(0, length, 8) if len(stretch) >= length else ():
                counts[part].append(torch.bincount(window, minlength=_n_characters()).float())
                labels[part].append(label)
    train, val = torch.stack(counts[0]), torch.stack(counts[1])
    mean, std = train.mean(0), train.std(0) + 0.1
    return (train - mean) / std, torch.tensor(labels[0]), (val - mean) / std, torch.tensor(labels[1])


@functools.cache
def _fashion(n_train: int, n_val: int) -> Arrays:
    folder = _unpacked() / "fashion-mnist"
    parts = []
    for split, n in (("train", n_train), ("t10k", n_val)):
        pixels = np.fromfile(folder / f"{split}-images-idx3-ubyte", np.uint8, count=16 + n * 784)[16:]
        labels = np.fromfile(folder / f"{split}-labels-idx1-ubyte", np.uint8, count=8 + n)[8:]
        images = torch.tensor(pixels.reshape(n, 1, 28, 28), dtype=torch.float32) / 255
        parts += [(images - 0.2860) / 0.3530, torch.tensor(labels, dtype=torch.int64)]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def _cifar(n_train: int, n_val: int) -> Arrays:
    folder = _unpacked() / "cifar-10-batches-bin"
    mean, std = torch.tensor([0.4913, 0.4821, 0.4465]), torch.tensor([0.2452, 0.2428, 0.2606])
    parts = []
    for name, n in (("data_batch_1", n_train), ("test_batch", n_val)):
        rows = np.fromfile(folder / f"{name}.bin", np.uint8, count=n * 3073).reshape(n, 3073)
        images = torch.tensor(rows[:, 1:].reshape(n, 3, 32, 32), dtype=torch.float32) / 255
        parts += [(images - mean[:, None, None]) / std[:, None, None], torch.tensor(rows[:, 0], dtype=torch.int64)]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def _unpacked() -> Path:
    """The folder with the unpacked data; unpacks it aside and renames it, so that it is whole or not there."""
    folder = Path(os.environ.get("CLRFAST_BENCH_CACHE") or Path(tempfile.gettempdir()) / "clrfast-bench") / "data"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent))
        command = [sys.executable, str(PACKED_DATA / "unpack.py"), str(aside), "fashion", "cifar10"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        aside.rename(folder)
    return folder
