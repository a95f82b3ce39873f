"""English prose, the descriptions of the data sets that scikit-learn bundles; and generated reviews."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from .arrays import Arrays, split


def descriptions() -> list[str]:
    """Return the descriptions of the data sets that scikit-learn bundles."""
    folder = importlib.resources.files("sklearn.datasets") / "descr"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    return [file.read_text(encoding="utf-8") for file in files]


@functools.cache
def texts() -> tuple[Tensor, ...]:
    """Return the descriptions as character indices; rare characters share one index."""
    texts = descriptions()
    everything = "".join(texts)
    number = {char: i for i, char in enumerate(sorted(c for c in set(everything) if everything.count(c) >= 5))}
    return tuple(torch.tensor([number.get(char, len(number)) for char in text]) for text in texts)


def n_characters() -> int:
    return 1 + max(int(text.max()) for text in texts())


def _windows(text: Tensor, length: int, stride: int) -> Tensor:
    return text.unfold(0, length, stride)


@functools.cache
def characters(length: int) -> Arrays:
    """Return ``windows_with_targets`` of all texts."""
    return windows_with_targets(texts(), length)


def windows_with_targets(chosen: tuple[Tensor, ...], length: int) -> Arrays:
    """Return ``[n, length]`` characters, and the next character at every place.

    The last sixth of every text is for validation.
    """
    cuts = [(text, len(text) * 5 // 6) for text in chosen]
    train = torch.cat([_windows(text[:cut], length + 1, 3) for text, cut in cuts])
    val = torch.cat([_windows(text[cut:], length + 1, length + 1) for text, cut in cuts])
    return train[:, :-1], train[:, 1:], val[:, :-1], val[:, 1:]


@functools.cache
def backwards(length: int) -> Arrays:
    """Return what ``characters`` does for texts that are read from their end."""
    parts: list[Tensor] = []
    train, train_next, val, val_next = characters(length)
    for text, following in ((train, train_next), (val, val_next)):
        reversed_text = torch.cat([text, following[:, -1:]], 1).flip(1)
        parts += [reversed_text[:, :-1], reversed_text[:, 1:]]
    return tuple(parts)  # type: ignore[return-value]


def _stretches(length: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield label, part and windows ``[n, length]`` for stretches of every text.

    A stretch is two lengths long. Every third one is for validation (part 1), so that both parts cover all of the text.
    """
    for label, text in enumerate(texts()):
        for number, stretch in enumerate(text.split(2 * length)):
            if len(stretch) >= length:
                yield label, int(number % 3 == 2), _windows(stretch, length, 8)


@functools.cache
def snippets(length: int) -> Arrays:
    """Return standardized character counts ``[n, characters]`` of snippets, and the index of their text."""
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
    """Return hashed trigrams ``[n, length - 2]`` of snippets, and the index of their text."""
    hashed: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: tuple[list[int], list[int]] = ([], [])
    for label, part, windows in _stretches(length):
        hashed[part].append(((windows[:, :-2] * 131 + windows[:, 1:-1]) * 131 + windows[:, 2:]) % n_buckets)
        labels[part].extend([label] * len(windows))
    return torch.cat(hashed[0]), torch.tensor(labels[0]), torch.cat(hashed[1]), torch.tensor(labels[1])


@functools.cache
def neighbours(n_words: int, reach: int) -> Arrays:
    """Return pairs of frequent words at most ``reach`` words apart.

    The last sixth of every text is for validation.
    """
    texts = [re.findall("[a-z]+", text.lower()) for text in descriptions()]
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


@functools.cache
def reviews(length: int) -> tuple[int, Arrays]:
    """Return the number of words, and generated reviews ``[n, length]`` of words with whether they praise (1) or not.

    Word 0 negates the word behind it. The next 20 words praise and the 20 after them blame, each with its own strength;
    all others are neutral. The most frequent words are neutral.
    """
    generator = torch.Generator().manual_seed(0)
    n_words, n = 120, 5000
    frequent = 1 / torch.arange(5.0, n_words + 5)
    frequent[:41] = frequent[41:].mean() * 3
    frequent[0] = 0.1 * frequent.sum()
    words = torch.multinomial(frequent, n * length, replacement=True, generator=generator).view(n, length)
    strength = torch.zeros(n_words)
    strength[1:41] = (1 + torch.rand(40, generator=generator)) * torch.tensor([1.0, -1.0]).repeat_interleave(20)
    sign = torch.ones(n, length)
    sign[:, 1:] -= 2.0 * (words[:, :-1] == 0)
    score = (sign * strength[words]).sum(1)
    return n_words, split(words, (score > score.median()).long(), 800)


@functools.cache
def run_together(length: int) -> Arrays:
    """Return letters ``[n, length]`` of prose without spaces, and whether a word ends at a letter (1) or not (0)."""
    words = [word for text in descriptions() for word in re.findall("[a-z]+", text.lower())]
    letters = torch.tensor([ord(letter) - ord("a") for word in words for letter in word])
    ends = torch.zeros(len(letters))
    ends[torch.tensor([len(word) for word in words]).cumsum(0) - 1] = 1
    return split(_windows(letters, length, length), _windows(ends, length, length), 800)


DATE_CHARACTERS = " -,./0123456789abcdefghijklmnopqrstuvwxyz"
DATE_LENGTHS = 18, 10
"""Characters of a written date, and of one by ISO 8601."""


@functools.cache
def dates() -> Arrays:
    """Return written dates with all but the last character of their form by ISO 8601, ``[n, 28]``, and that form.

    The ten characters of the form stand behind the 18 of the written date, after a space.
    """
    months = ["january", "february", "march", "april", "may", "june"]
    months += ["july", "august", "september", "october", "november", "december"]
    generator = torch.Generator().manual_seed(0)
    rows: list[str] = []
    for number in range(1600):
        year, month, day = (
            int(torch.randint(low, high, (), generator=generator)) for low, high in ((1950, 2050), (1, 13), (1, 29))
        )
        name = months[month - 1]
        written = (
            f"{day} {name} {year}",
            f"{name} {day}, {year}",
            f"{day:02}.{month:02}.{year}",
            f"{day}. {name[:3]} {year}",
            f"{month}/{day}/{year}",
        )[number % 5]
        rows.append(f"{written:<18} {year}-{month:02}-{day:02}")
    characters = torch.tensor([[DATE_CHARACTERS.index(character) for character in row] for row in rows])
    return split(characters[:, :-1], characters[:, -DATE_LENGTHS[1] :], 800)
