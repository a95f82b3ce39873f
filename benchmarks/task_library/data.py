"""Data of the tasks; every function gives the same arrays at every call.

The packed sets of ``../shared/data`` are unpacked once, into $CLRFAST_BENCH_CACHE, by default a folder in the temporary
one.
"""

from __future__ import annotations

import functools
import importlib.resources
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..environment import ROOT

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
def digits(standardised: bool = True) -> Arrays:
    """Pixels from 0 to 1 if they are not standardised."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    if standardised:
        images = (images - images.mean()) / images.std()
    return _split(images, torch.tensor(data.target), 360)


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


def _descriptions() -> list[str]:
    """Of the data sets that scikit-learn bundles."""
    folder = importlib.resources.files("sklearn.datasets") / "descr"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    return [file.read_text(encoding="utf-8") for file in files]


@functools.cache
def texts() -> tuple[Tensor, ...]:
    """The descriptions of data sets as numbers of characters; rare ones share one."""
    texts = _descriptions()
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


@functools.cache
def neighbours(n_words: int, reach: int) -> Arrays:
    """Pairs of words at most ``reach`` apart, of the most frequent ones; the last sixth of every text validates."""
    texts = [re.findall("[a-z]+", text.lower()) for text in _descriptions()]
    frequent = Counter(word for text in texts for word in text).most_common(n_words)
    number = {word: i for i, (word, _) in enumerate(frequent)}
    parts: list[Tensor] = []
    for first, last in ((0.0, 5 / 6), (5 / 6, 1.0)):
        pairs: list[tuple[int, int]] = []
        for text in texts:
            known = [number[word] for word in text[int(first * len(text)) : int(last * len(text))] if word in number]
            for distance in range(1, reach + 1):
                pairs += zip(known, known[distance:], strict=False)
        ordered = torch.tensor(pairs)
        both = torch.cat([ordered, ordered.flip(1)])
        parts += both.unbind(1)
    return tuple(parts)  # type: ignore[return-value]


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


@functools.cache
def pixels(every: int) -> Arrays:
    """``[n, 2]`` places from -1 to 1 in every so manyth row and column of a photograph, and their colours."""
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("flower.jpg")[::every, ::every].astype(np.float32)
    rows, columns = (torch.linspace(-1, 1, n) for n in photograph.shape[:2])
    return _split(torch.cartesian_prod(rows, columns), _standardised(photograph.reshape(-1, 3)), 1500)


@functools.cache
def ellipses(size: int) -> Arrays:
    """``[n, 1, size, size]`` noisy images of an ellipse in front of a rectangle as bright, and the ellipse's mask."""
    rng = np.random.default_rng(0)
    n = 1500
    y, x = np.mgrid[:size, :size]

    def place(low: float, high: float) -> np.ndarray:
        """``[4, n, 1, 1]``: two coordinates of the centre and two half widths, in pixels."""
        centre, half = rng.uniform(0.2, 0.8, (2, n)), rng.uniform(low, high, (2, n))
        return size * np.concatenate([centre, half])[:, :, None, None]

    top, left, high, wide = place(0.12, 0.3)
    mask = ((y - top) / high) ** 2 + ((x - left) / wide) ** 2 < 1
    top, left, high, wide = place(0.1, 0.25)
    rectangle = (np.abs(y - top) < high) & (np.abs(x - left) < wide)
    images = (mask | rectangle) * rng.uniform(1, 2, (n, 1, 1)) + 0.4 * rng.normal(size=mask.shape)
    inputs, targets = (torch.tensor(part, dtype=torch.float32).unsqueeze(1) for part in (images, mask))
    return _split(inputs, targets, 300)


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


@functools.cache
def hourly_load(length: int) -> Arrays:
    """``[n, 1, length]`` hours of a load with days, weeks and weather in it, and the next; the last fifth validates."""
    rng = np.random.default_rng(0)
    hours = np.arange(24 * 7 * 30)
    weather = np.zeros(len(hours))
    for hour, change in enumerate(rng.normal(size=len(hours))[1:], 1):
        weather[hour] = 0.97 * weather[hour - 1] + 0.1 * change
    day = np.sin(2 * np.pi * hours / 24) + 0.5 * np.sin(4 * np.pi * hours / 24 + 1)
    weekend = hours // 24 % 7 >= 5
    load = day * np.where(weekend, 0.5, 1.0) + weather + (0.05 + 0.1 * (day > 0)) * rng.normal(size=len(hours))
    windows = _standardised(load).unfold(0, length + 1, 1)
    cut = len(windows) * 4 // 5
    train, val = windows[:cut].unsqueeze(1), windows[cut + length :].unsqueeze(1)  # no hour is in both
    return train[:, :, :-1], train[:, 0, -1], val[:, :, :-1], val[:, 0, -1]


@functools.cache
def motions(length: int) -> Arrays:
    """``[n, 3, length]`` accelerations of a wrist at 16 Hz in units of gravity, and which of five motions it makes.

    Each has its own range of frequencies and strengths, the first hardly any; they are unevenly frequent.
    """
    rng = np.random.default_rng(0)
    n = 3000
    labels = rng.choice(5, size=n, p=[0.35, 0.3, 0.15, 0.1, 0.1])
    frequency = np.array([0.5, 1.7, 2.6, 1.7, 3.5])[labels] * rng.uniform(0.85, 1.15, n)
    strength = np.array([0.05, 0.3, 0.9, 0.5, 0.4])[labels] * rng.uniform(0.7, 1.3, n)
    overtone = np.array([0.0, 0.3, 0.5, 1.0, 0.0])[labels]
    phase = 2 * np.pi * (frequency[:, None] * np.arange(length) / 16 + rng.random((n, 1)))
    swing = strength[:, None] * (np.sin(phase) + overtone[:, None] * np.sin(2 * phase))
    down, along = rng.normal(size=(2, n, 3, 1)) * 0.3 + np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])[:, None, :, None]
    series = down + swing[:, None] * along + 0.1 * rng.normal(size=(n, 3, length))
    return _split(torch.tensor(series, dtype=torch.float32), torch.tensor(labels), 600)


@functools.cache
def pendulums(n_samples: int, interval: float) -> Arrays:
    """Angles and angular velocities of damped pendulums, ``[n, 2]``, and the next samples, ``[n, n_samples, 2]``."""
    generator = torch.Generator().manual_seed(0)
    state = torch.rand(2500, 2, generator=generator, dtype=torch.float64) * 4 - 2
    start, samples, substeps = state, [], 50
    for number in range(n_samples * substeps):
        angle, velocity = state.unbind(1)
        change = torch.stack([velocity, -4 * angle.sin() - 0.3 * velocity], 1)
        state = state + interval / substeps * change
        if number % substeps == substeps - 1:
            samples.append(state)
    measured = torch.stack(samples, 1) + 0.02 * torch.randn(2500, n_samples, 2, generator=generator)
    return _split(start.float(), measured.float(), 500)


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


@functools.cache
def clicks(n_values: int) -> Arrays:
    """Six columns of categories, numbered through, and whether an advertisement was clicked: one in ten was."""
    rng = np.random.default_rng(0)
    n = 12000
    popular = 1 / np.arange(2, n_values + 2)
    values = rng.choice(n_values, size=(n, 6), p=popular / popular.sum())
    weights, hidden = rng.normal(size=(6, n_values)) * 0.5, rng.normal(size=(6, n_values, 2)) * 0.4
    column = np.arange(6)
    chosen = hidden[column, values]
    score = weights[column, values].sum(1) + (chosen.sum(1) ** 2 - (chosen**2).sum(1)).sum(1)
    clicked = rng.random(n) < 1 / (1 + np.exp(3 - score))
    return _split(torch.tensor(values + n_values * column), torch.tensor(clicked, dtype=torch.float32), 2000)


@functools.cache
def lifetimes() -> Arrays:
    """Eight columns, how long each of the samples was watched, and whether its end was seen (1) or not, ``[n, 2]``."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3500, 8))
    log_risk = inputs[:, 0] + 0.8 * inputs[:, 1] * inputs[:, 2] + np.abs(inputs[:, 3]) - 0.5 * inputs[:, 4]
    end = (rng.exponential(size=len(inputs)) / np.exp(log_risk)) ** 0.7
    last_seen = rng.uniform(0.2, 2.0, size=len(inputs))
    targets = np.stack([np.minimum(end, last_seen), end <= last_seen], 1)
    return _split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 700)


@functools.cache
def arm() -> Arrays:
    """Where the hand of an arm of two parts is, ``[n, 2]``, and the arm's two angles: mostly, two pairs lead there."""
    rng = np.random.default_rng(0)
    shoulder, elbow = rng.uniform(0, np.pi / 2, 4000), rng.uniform(-2.5, 2.5, 4000)
    hand = np.stack(
        [np.cos(shoulder) + 0.8 * np.cos(shoulder + elbow), np.sin(shoulder) + 0.8 * np.sin(shoulder + elbow)]
    )
    hand += 0.05 * rng.normal(size=hand.shape)
    angles = np.stack([shoulder, elbow], 1)
    return _split(torch.tensor(hand.T, dtype=torch.float32), torch.tensor(angles, dtype=torch.float32), 800)


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
