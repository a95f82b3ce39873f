"""Data of the tasks; every function gives the same arrays at every call.

The packed sets of ``../shared/data`` are unpacked once, into $CLRFAST_BENCH_CACHE, by default a folder in the temporary
one.
"""

from __future__ import annotations

import functools
import importlib.resources
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..measure import ROOT

PACKED_DATA = ROOT.parent / "shared" / "data"
FOLDERS = {"fashion": "fashion-mnist", "mnist": "mnist", "cifar10": "cifar-10-batches-bin"}
"""Where ``unpack.py`` puts each set."""

Arrays = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training inputs and targets, validation inputs and targets."""


def _split(inputs: Tensor, targets: Tensor, n_val: int) -> Arrays:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    val, train = order[:n_val], order[n_val:]
    return inputs[train], targets[train], inputs[val], targets[val]


def _standardised(values: np.ndarray) -> Tensor:
    return torch.tensor((values - values.mean(0)) / values.std(0), dtype=torch.float32)


@functools.cache
def digits() -> Arrays:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return _split((images - images.mean()) / images.std(), torch.tensor(data.target), 360)


@functools.cache
def bundled(name: str, n_val: int) -> Arrays:
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    return _split(_standardised(data.data), torch.tensor(data.target), n_val)


@functools.cache
def diabetes(standardised: bool) -> Arrays:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    targets = _standardised(data.target) if standardised else torch.tensor(data.target, dtype=torch.float32)
    return _split(_standardised(data.data), targets, 122)


@functools.cache
def covertype_like() -> Arrays:
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
def friedman() -> Arrays:
    from sklearn.datasets import make_friedman1

    inputs, targets = make_friedman1(2500, noise=1.0, random_state=0)
    return _split(_standardised(inputs), _standardised(targets), 500)


@functools.cache
def teacher() -> Arrays:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2500, 20, generator=generator)
    first = torch.randn(20, 8, generator=generator) / 20**0.5
    second = torch.randn(8, generator=generator)
    targets = (inputs @ first).relu() @ second
    targets = (targets - targets.mean()) / targets.std() + 0.1 * torch.randn(2500, generator=generator)
    return _split(inputs, targets, 500)


@functools.cache
def ratings(n_rows: int, n_columns: int) -> Arrays:
    """Entries of a matrix of rank 3 with a little noise, ``[n, 2]`` indices and their values."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(n_rows, 3, generator=generator), torch.randn(3, n_columns, generator=generator)
    matrix = 2.5 * left @ right / 3**0.5 + 0.1 * torch.randn(n_rows, n_columns, generator=generator)
    index = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_columns))
    return _split(index, matrix.flatten(), 600)


@functools.cache
def linear_map() -> Arrays:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2500, 16, generator=generator)
    spectrum = torch.diag(torch.linspace(2.0, 0.2, 16))
    left, right = (torch.linalg.qr(torch.randn(16, 16, generator=generator))[0] for _ in range(2))
    targets = inputs @ left @ spectrum @ right
    return _split(inputs, targets + 0.1 * torch.randn(2500, 16, generator=generator), 500)


@functools.cache
def texts() -> tuple[Tensor, ...]:
    """The descriptions of its data sets that scikit-learn bundles, as numbers of characters; rare ones share one."""
    folder = importlib.resources.files("sklearn.datasets") / "descr"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    texts = [file.read_text(encoding="utf-8") for file in files]
    everything = "".join(texts)
    number = {char: i for i, char in enumerate(sorted(c for c in set(everything) if everything.count(c) >= 5))}
    return tuple(torch.tensor([number.get(char, len(number)) for char in text]) for text in texts)


def n_characters() -> int:
    return 1 + max(int(text.max()) for text in texts())


def _windows(text: Tensor, length: int, stride: int) -> Tensor:
    return text.unfold(0, length, stride)


@functools.cache
def characters(length: int) -> Arrays:
    """``[n, length]`` characters and the one after each; the last sixth of every text is for validation."""
    cuts = [(text, len(text) * 5 // 6) for text in texts()]
    train = torch.cat([_windows(text[:cut], length + 1, 3) for text, cut in cuts])
    val = torch.cat([_windows(text[cut:], length + 1, length + 1) for text, cut in cuts])
    return train[:, :-1], train[:, 1:], val[:, :-1], val[:, 1:]


def _stretches(length: int) -> Iterator[tuple[int, int, Tensor]]:
    """Label, part and windows ``[n, length]`` of stretches of every text.

    Every third stretch of two lengths is for validation (part 1), so that both parts are from all over the text.
    """
    for label, text in enumerate(texts()):
        for number, stretch in enumerate(text.split(2 * length)):
            if len(stretch) >= length:
                yield label, int(number % 3 == 2), _windows(stretch, length, 8)


@functools.cache
def snippets(length: int) -> Arrays:
    """``[n, characters]`` counts in snippets, standardised, and the number of their text."""
    counts: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: tuple[list[int], list[int]] = ([], [])
    for label, part, windows in _stretches(length):
        counts[part].extend(torch.bincount(window, minlength=n_characters()).float() for window in windows)
        labels[part].extend([label] * len(windows))
    train, val = torch.stack(counts[0]), torch.stack(counts[1])
    mean, std = train.mean(0), train.std(0) + 0.1
    return (train - mean) / std, torch.tensor(labels[0]), (val - mean) / std, torch.tensor(labels[1])


@functools.cache
def trigrams(length: int, n_buckets: int) -> Arrays:
    """``[n, length - 2]`` hashed runs of three characters in snippets, and the number of their text."""
    hashed: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: tuple[list[int], list[int]] = ([], [])
    for label, part, windows in _stretches(length):
        hashed[part].append(((windows[:, :-2] * 131 + windows[:, 1:-1]) * 131 + windows[:, 2:]) % n_buckets)
        labels[part].extend([label] * len(windows))
    return torch.cat(hashed[0]), torch.tensor(labels[0]), torch.cat(hashed[1]), torch.tensor(labels[1])


# --- photographs ------------------------------------------------------------------------------------------------------


@functools.cache
def noisy_patches(size: int) -> Arrays:
    """``[n, 1, size, size]`` grey patches of two photographs, under noise of half their spread, and without it."""
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image.mean(-1), dtype=torch.float32) for image in load_sample_images().images]
    patches = torch.cat([image.unfold(0, size, size).unfold(1, size, size).flatten(0, 1) for image in photographs])
    patches = ((patches - patches.mean()) / patches.std()).unsqueeze(1)
    noise = 0.5 * torch.randn(patches.shape, generator=torch.Generator().manual_seed(0))
    return _split(patches + noise, patches, 600)


# --- series -----------------------------------------------------------------------------------------------------------


@functools.cache
def lorenz(n: int, length: int, ahead: int) -> Arrays:
    """``[n, length, 1]`` stretches of the first of Lorenz' coordinates, and its value ``ahead`` samples later."""
    state = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = []
    step, to_the_attractor = 0.005, 400  # steps, of which every tenth is a sample
    for number in range(to_the_attractor + 10 * (length + ahead)):
        x, y, z = state.unbind(1)
        state = state + step * torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], 1)
        if number >= to_the_attractor and number % 10 == 9:
            samples.append(state[:, 0])
    series = torch.stack(samples, 1).float()
    series = (series - series.mean()) / series.std()
    return _split(series[:, :length].unsqueeze(-1), series[:, -1], n // 5)


@functools.cache
def waveforms() -> Arrays:
    """Breiman's waveforms, ``[n, 1, 21]``: three classes, each a random mix of two of three triangles, and noise."""
    rng = np.random.default_rng(0)
    n = 3500
    triangles = np.maximum(0, 6 - np.abs(np.arange(21) - np.array([[6], [14], [10]])))
    labels = rng.integers(3, size=n)
    share = rng.random((n, 1))
    series = share * triangles[labels] + (1 - share) * triangles[(labels + 1) % 3] + rng.normal(size=(n, 21))
    return _split(_standardised(series).unsqueeze(1), torch.tensor(labels), 700)


# --- generated tables -------------------------------------------------------------------------------------------------


@functools.cache
def gaussian_quantiles() -> Arrays:
    """Four shells around the origin of three columns."""
    from sklearn.datasets import make_gaussian_quantiles

    inputs, targets = make_gaussian_quantiles(n_samples=3000, n_features=3, n_classes=4, random_state=0)
    return _split(_standardised(inputs), torch.tensor(targets), 600)


@functools.cache
def multilabel() -> Arrays:
    """Twelve labels of which each sample has some, as 0 or 1; 40 counts."""
    from sklearn.datasets import make_multilabel_classification

    inputs, targets = make_multilabel_classification(
        n_samples=4000, n_features=40, n_classes=12, n_labels=3, random_state=0
    )
    return _split(_standardised(inputs), torch.tensor(targets, dtype=torch.float32), 800)


@functools.cache
def friedman2() -> Arrays:
    """An alternating current's impedance, in ohms: some hundreds."""
    from sklearn.datasets import make_friedman2

    inputs, targets = make_friedman2(3000, noise=50.0, random_state=0)
    return _split(_standardised(inputs), torch.tensor(targets, dtype=torch.float32), 600)


@functools.cache
def counts() -> Arrays:
    """Numbers of events, a Poisson variable each; the logarithm of its mean is a smooth function of eight columns."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(7000, 8))
    log_mean = 1 + 0.7 * np.sin(inputs[:, 0]) + 0.5 * inputs[:, 1] * np.tanh(inputs[:, 2]) - 0.4 * inputs[:, 3]
    targets = rng.poisson(np.exp(log_mean))
    return _split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 1000)


@functools.cache
def uneven_noise() -> Arrays:
    """A smooth function of five columns; two of them decide how exactly it is measured."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(4000, 5))
    exact = np.sin(1.5 * inputs[:, 0]) + 0.5 * inputs[:, 1] * inputs[:, 2]
    noise = 0.03 * np.exp(1.2 * np.tanh(inputs[:, 3] + inputs[:, 4]))
    targets = exact + noise * rng.normal(size=len(exact))
    return _split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 800)


@functools.cache
def curved_sheet() -> Arrays:
    """Points near a curved sheet of three dimensions in six, ``[n, 6]``; inputs and targets are the same."""
    generator = torch.Generator().manual_seed(0)
    sheet = torch.randn(4000, 3, generator=generator)
    bent = torch.tanh(sheet @ torch.randn(3, 3, generator=generator))
    points = torch.cat([sheet, bent + 0.05 * torch.randn(4000, 3, generator=generator)], 1)
    return _split(points, points, 800)


# --- packed sets ------------------------------------------------------------------------------------------------------


def unpack() -> bool:
    """Whether the packed sets are here; from then on they are unpacked, too."""
    here = (PACKED_DATA / "unpack.py").exists()
    if here:
        for name in FOLDERS:
            _unpacked(name)
    return here


@functools.cache
def _unpacked(name: str) -> Path:
    """The folder with an unpacked set; unpacks it aside and renames it, so that it is whole or not there."""
    cache = Path(os.environ.get("CLRFAST_BENCH_CACHE") or Path(tempfile.gettempdir()) / "clrfast-bench") / "data"
    folder = cache / FOLDERS[name]
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            command = [sys.executable, str(PACKED_DATA / "unpack.py"), aside, name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (Path(aside) / FOLDERS[name]).rename(folder)
    return folder


@functools.cache
def _grey(name: str, n_train: int, n_val: int) -> Arrays:
    """The first images of both parts of Fashion-MNIST or MNIST, from 0 to 1."""
    parts = []
    for split, n in (("train", n_train), ("t10k", n_val)):
        pixels = np.fromfile(_unpacked(name) / f"{split}-images-idx3-ubyte", np.uint8, count=16 + n * 784)[16:]
        labels = np.fromfile(_unpacked(name) / f"{split}-labels-idx1-ubyte", np.uint8, count=8 + n)[8:]
        images = torch.tensor(pixels.reshape(n, 1, 28, 28), dtype=torch.float32) / 255
        parts += [images, torch.tensor(labels, dtype=torch.int64)]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def fashion(n_train: int, n_val: int) -> Arrays:
    train, train_labels, val, val_labels = _grey("fashion", n_train, n_val)
    return (train - 0.2860) / 0.3530, train_labels, (val - 0.2860) / 0.3530, val_labels


@functools.cache
def cifar(n_train: int, n_val: int) -> Arrays:
    mean, std = torch.tensor([0.4913, 0.4821, 0.4465]), torch.tensor([0.2452, 0.2428, 0.2606])
    parts = []
    for name, n in (("data_batch_1", n_train), ("test_batch", n_val)):
        rows = np.fromfile(_unpacked("cifar10") / f"{name}.bin", np.uint8, count=n * 3073).reshape(n, 3073)
        images = torch.tensor(rows[:, 1:].reshape(n, 3, 32, 32), dtype=torch.float32) / 255
        parts += [(images - mean[:, None, None]) / std[:, None, None], torch.tensor(rows[:, 0], dtype=torch.int64)]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def mnist(n_train: int, n_val: int) -> Arrays:
    """Pixels from 0 to 1."""
    return _grey("mnist", n_train, n_val)


@functools.cache
def mnist_triplets(n_train: int, n_val: int) -> Arrays:
    """``[n, 3, 196]``: a digit, another one of the same class and one of another class, at half the resolution.

    There is nothing to predict: the targets are the classes of the first.
    """
    generator = torch.Generator().manual_seed(0)

    def triplets(images: Tensor, labels: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(images, 2).flatten(1)
        same = labels[:, None] == labels
        positive, negative = (torch.multinomial(mask.float(), 1, generator=generator)[:, 0] for mask in (same, ~same))
        return torch.stack([small, small[positive], small[negative]], 1)

    train, train_labels, val, val_labels = mnist(n_train, n_val)
    return triplets(train, train_labels), train_labels, triplets(val, val_labels), val_labels
