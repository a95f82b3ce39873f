"""Data whose second part differs from the first: what a model is pre-trained on, and what it is fine-tuned on."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .arrays import Arrays, split
from .tabular import covertype_like
from .text import texts, windows_with_targets


def classes(arrays: Arrays, first: int, end: int) -> Arrays:
    """Return the samples of the classes from ``first`` to ``end - 1``, which become 0, 1 and so on."""
    parts: list[Tensor] = []
    for inputs, labels in (arrays[:2], arrays[2:]):
        chosen = (labels >= first) & (labels < end)
        parts += [inputs[chosen], labels[chosen] - first]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def balanced_covertype(n_per_class: int) -> Arrays:
    """Return samples of ``covertype_like`` with equally frequent classes, at most ``n_per_class`` of each."""
    parts: list[Tensor] = []
    for inputs, labels in (covertype_like()[:2], covertype_like()[2:]):
        index = torch.cat([(labels == label).nonzero()[:n_per_class, 0].repeat(20)[:n_per_class] for label in range(7)])
        parts += [inputs[index], labels[index]]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def two_teachers() -> tuple[Arrays, Arrays]:
    """Return the outputs of a random ReLU network, and 300 noisy ones after its first layer has drifted by a sixth."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(3500, 20, generator=generator)
    first, drift = torch.randn(2, 20, 8, generator=generator) / 20**0.5
    second = torch.randn(8, generator=generator)
    noise = torch.randn(3500, generator=generator)
    before = (inputs @ first).relu() @ second
    after = (inputs @ (first + drift / 6)).relu() @ second + 0.3 * noise
    return split(inputs[:2700], before[:2700], 200), split(inputs[2700:], after[2700:], 500)


@functools.cache
def latent_columns() -> tuple[Arrays, Arrays]:
    """Return 48 noisy columns that depend on six hidden ones, as targets of themselves, and 400 with a regression.

    A fifth of the inputs of the first part is masked with zeros.
    """
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(4900, 6, generator=generator)
    mixed = (0.7 * hidden @ torch.randn(6, 48, generator=generator)).sin()
    columns = mixed + 0.2 * torch.randn(mixed.shape, generator=generator)
    targets = hidden[:, 0] + hidden[:, 1].sin() + 0.3 * torch.randn(4900, generator=generator)
    masked = columns * (torch.rand(columns.shape, generator=generator) > 0.2)
    return split(masked[:4000], columns[:4000], 400), split(columns[4000:], targets[4000:], 500)


@functools.cache
def two_languages(length: int) -> tuple[Arrays, Arrays]:
    """Return next-character tasks in all texts but the last two, and in those two."""
    return windows_with_targets(texts()[:-2], length), windows_with_targets(texts()[-2:], length)


@functools.cache
def labelled_windows(length: int) -> Arrays:
    """Return windows ``[n, length]`` of all texts, and the index of their text; the last sixth is for validation."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for label, text in enumerate(texts()):
        cut = len(text) * 5 // 6
        for part, piece in zip(parts, (text[:cut], text[cut:]), strict=True):
            windows = piece.unfold(0, length, length)
            part.append(torch.cat([windows, torch.full((len(windows), 1), label)], 1))
    train, val = (torch.cat(part) for part in parts)
    return train[:, :-1], train[:, -1], val[:, :-1], val[:, -1]
