"""MNIST, Fashion-MNIST and CIFAR-10, packed in ``../shared/data``.

They are unpacked once, into $CLRFAST_BENCH_CACHE, by default a folder in the system's temporary folder.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...environment import ROOT
from .arrays import Arrays

PACKED_DATA = ROOT.parent / "shared" / "data"
FOLDERS = {"fashion": "fashion-mnist", "mnist": "mnist", "cifar10": "cifar-10-batches-bin"}
"""Folder that ``unpack.py`` writes for each set."""


def unpack() -> bool:
    """Unpack the sets unless they are unpacked; return whether ``../shared/data`` exists."""
    here = (PACKED_DATA / "unpack.py").exists()
    if here:
        for name in FOLDERS:
            _unpacked(name)
    return here


@functools.cache
def _unpacked(name: str) -> Path:
    """Return the folder of an unpacked set. It is unpacked elsewhere and renamed: it is complete or missing."""
    cache = Path(os.environ.get("CLRFAST_BENCH_CACHE") or Path(tempfile.gettempdir()) / "clrfast-bench") / "data"
    folder = cache / FOLDERS[name]
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            command = [sys.executable, str(PACKED_DATA / "unpack.py"), unfinished, name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (Path(unfinished) / FOLDERS[name]).rename(folder)
    return folder


@functools.cache
def _grey(name: str, n_train: int, n_val: int) -> Arrays:
    """Return the first images of both parts of Fashion-MNIST or MNIST, with pixels in [0, 1]."""
    parts = []
    for split, n in (("train", n_train), ("t10k", n_val)):
        pixels = np.fromfile(_unpacked(name) / f"{split}-images-idx3-ubyte", np.uint8, count=16 + n * 784)[16:]
        labels = np.fromfile(_unpacked(name) / f"{split}-labels-idx1-ubyte", np.uint8, count=8 + n)[8:]
        images = torch.tensor(pixels.reshape(n, 1, 28, 28), dtype=torch.float32) / 255
        parts += [images, torch.tensor(labels, dtype=torch.int64)]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def fashion(n_train: int, n_val: int) -> Arrays:
    """Return the first images ``[n, 1, 28, 28]`` of Fashion-MNIST, standardized as a whole, and their classes."""
    train, train_labels, val, val_labels = _grey("fashion", n_train, n_val)
    return (train - 0.2860) / 0.3530, train_labels, (val - 0.2860) / 0.3530, val_labels


@functools.cache
def cifar(n_train: int, n_val: int) -> Arrays:
    """Return the first images ``[n, 3, 32, 32]`` of CIFAR-10, standardized by channel, and their classes."""
    mean, std = torch.tensor([0.4913, 0.4821, 0.4465]), torch.tensor([0.2452, 0.2428, 0.2606])
    parts = []
    for name, n in (("data_batch_1", n_train), ("test_batch", n_val)):
        rows = np.fromfile(_unpacked("cifar10") / f"{name}.bin", np.uint8, count=n * 3073).reshape(n, 3073)
        images = torch.tensor(rows[:, 1:].reshape(n, 3, 32, 32), dtype=torch.float32) / 255
        parts += [(images - mean[:, None, None]) / std[:, None, None], torch.tensor(rows[:, 0], dtype=torch.int64)]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def mnist(n_train: int, n_val: int) -> Arrays:
    """Return the first images ``[n, 1, 28, 28]`` of MNIST, with pixels in [0, 1], and their classes."""
    return _grey("mnist", n_train, n_val)


@functools.cache
def mnist_triplets(n_train: int, n_val: int) -> Arrays:
    """Return triplets ``[n, 3, 196]``: a digit, another of its class and one of another class, at half resolution.

    The targets are the classes of the first digits; a triplet loss does not need them.
    """
    generator = torch.Generator().manual_seed(0)

    def triplets(images: Tensor, labels: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(images, 2).flatten(1)
        same = labels[:, None] == labels
        positive, negative = (torch.multinomial(mask.float(), 1, generator=generator)[:, 0] for mask in (same, ~same))
        return torch.stack([small, small[positive], small[negative]], 1)

    train, train_labels, val, val_labels = mnist(n_train, n_val)
    return triplets(train, train_labels), train_labels, triplets(val, val_labels), val_labels


@functools.cache
def mnist_pairs(n_train: int, n_val: int) -> Arrays:
    """Return pairs ``[n, 2, 14, 14]`` of digits at half resolution, and whether both are of one class (1) or not (0).

    Every digit is the first of one pair, and half of the pairs are of one class.
    """
    generator = torch.Generator().manual_seed(0)
    parts: list[Tensor] = []
    arrays = mnist(n_train, n_val)
    for images, labels in (arrays[:2], arrays[2:]):
        small = nn.functional.avg_pool2d(images, 2)
        same = torch.rand(len(labels), generator=generator) < 0.5
        fits = (labels[:, None] == labels) == same[:, None]
        second = torch.multinomial(fits.float(), 1, generator=generator)[:, 0]
        parts += [torch.cat([small, small[second]], 1), same.float()]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def cifar_halved(n_train: int, n_val: int) -> Arrays:
    """Return images ``[n, 3, 8, 8]`` of CIFAR-10, and the same images at twice the resolution, ``[n, 3, 16, 16]``."""
    parts: list[Tensor] = []
    for images in cifar(n_train, n_val)[::2]:
        parts += [nn.functional.avg_pool2d(images, size) for size in (4, 2)]
    return tuple(parts)  # type: ignore[return-value]
