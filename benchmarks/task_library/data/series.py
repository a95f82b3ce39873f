"""Generated time series."""

from __future__ import annotations

import functools

import numpy as np
import torch

from .arrays import Arrays, split, standardize


@functools.cache
def lorenz(n: int, length: int, ahead: int) -> Arrays:
    """Return stretches ``[n, length, 1]`` of the Lorenz system's x, and its value ``ahead`` samples later."""
    state = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = []
    step, n_transient = 0.005, 400  # the first samples come after the transient; every tenth step is a sample
    for number in range(n_transient + 10 * (length + ahead)):
        x, y, z = state.unbind(1)
        state = state + step * torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], 1)
        if number >= n_transient and number % 10 == 9:
            samples.append(state[:, 0])
    series = torch.stack(samples, 1).float()
    series = (series - series.mean()) / series.std()
    return split(series[:, :length].unsqueeze(-1), series[:, -1], n // 5)


@functools.cache
def waveforms() -> Arrays:
    """Return Breiman's waveforms ``[n, 1, 21]``: each of three classes mixes two of three triangles, with noise."""
    rng = np.random.default_rng(0)
    n = 3500
    triangles = np.maximum(0, 6 - np.abs(np.arange(21) - np.array([[6], [14], [10]])))
    labels = rng.integers(3, size=n)
    share = rng.random((n, 1))
    series = share * triangles[labels] + (1 - share) * triangles[(labels + 1) % 3] + rng.normal(size=(n, 21))
    return split(standardize(series).unsqueeze(1), torch.tensor(labels), 700)


def _load() -> np.ndarray:
    """Return hours of a load with daily, weekly and weather patterns."""
    rng = np.random.default_rng(0)
    hours = np.arange(24 * 7 * 30)
    weather = np.zeros(len(hours))
    for hour, change in enumerate(rng.normal(size=len(hours))[1:], 1):
        weather[hour] = 0.97 * weather[hour - 1] + 0.1 * change
    day = np.sin(2 * np.pi * hours / 24) + 0.5 * np.sin(4 * np.pi * hours / 24 + 1)
    weekend = hours // 24 % 7 >= 5
    load: np.ndarray = (
        day * np.where(weekend, 0.5, 1.0) + weather + (0.05 + 0.1 * (day > 0)) * rng.normal(size=len(hours))
    )
    return load


@functools.cache
def hourly_load(length: int) -> Arrays:
    """Return ``[n, 1, length]`` hours of a load with daily, weekly and weather patterns, and the next hour.

    The last fifth of the time is for validation.
    """
    windows = standardize(_load()).unfold(0, length + 1, 1)
    cut = len(windows) * 4 // 5
    train, val = windows[:cut].unsqueeze(1), windows[cut + length :].unsqueeze(1)  # no hour is in both
    return train[:, :, :-1], train[:, 0, -1], val[:, :, :-1], val[:, 0, -1]


@functools.cache
def day_ahead_load(n_past: int) -> Arrays:
    """Return ``[n, n_past]`` hours of the load of ``hourly_load``, standardized, and the next 24 hours in gigawatts.

    The gigawatts are those above the mean; their standard deviation is 3. The last fifth of the time is for validation.
    """
    windows = standardize(_load()).unfold(0, n_past + 24, 1)
    past, ahead = windows[:, :n_past], 3 * windows[:, n_past:]
    cut = len(windows) * 4 // 5
    val = cut + n_past + 23  # no hour is in both
    return past[:cut], ahead[:cut], past[val:], ahead[val:]


@functools.cache
def marked_numbers(length: int) -> Arrays:
    """Return series ``[n, length, 2]`` of random numbers, two of which are marked, and the sum of these two."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(4000, length, generator=generator)
    places = torch.rand(4000, length, generator=generator).argsort(1)[:, :2]
    marks = torch.zeros_like(numbers).scatter(1, places, 1.0)
    return split(torch.stack([numbers, marks], 2), (numbers * marks).sum(1), 800)


@functools.cache
def motions(length: int) -> Arrays:
    """Return accelerations ``[n, 3, length]`` of a wrist, in g at 16 Hz, and the index of one of five motions.

    Each motion has its own range of frequencies and strengths; the first hardly moves. The classes are uneven.
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
    return split(torch.tensor(series, dtype=torch.float32), torch.tensor(labels), 600)


@functools.cache
def pendulums(n_samples: int, interval: float) -> Arrays:
    """Return states ``[n, 2]`` of damped pendulums, angle and angular velocity, and the next ``n_samples`` states.

    The targets are ``[n, n_samples, 2]``, ``interval`` time units apart, with a little noise.
    """
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
    return split(start.float(), measured.float(), 500)


@functools.cache
def heartbeats(length: int, patient: int, n: int) -> Arrays:
    """Return ``[n, 1, length]`` samples of a patient's heartbeats, and their kind; 400 are for validation.

    The kinds are normal, without the first wave, with a broad middle wave, and with an inverted last wave. The waves of
    every patient have their own places, heights and widths. The base line drifts.
    """
    rng = np.random.default_rng(patient)
    place = np.array([0.25, 0.5, 0.75]) + 0.04 * rng.normal(size=3)
    height = np.array([0.3, 1.2, 0.5]) * rng.uniform(0.7, 1.3, 3)
    width = np.array([0.04, 0.02, 0.06]) * rng.uniform(0.8, 1.2, 3)
    kind = rng.integers(4, size=n)
    heights = height * (1 + 0.15 * rng.normal(size=(n, 3)))
    widths = np.tile(width, (n, 1))
    heights[kind == 1, 0] = 0
    widths[kind == 2, 1] *= 2
    heights[kind == 3, 2] *= -1
    time = np.linspace(0, 1, length)
    shifted = place + 0.04 * rng.normal(size=(n, 1)) + 0.01 * rng.normal(size=(n, 3))
    waves = heights[..., None] * np.exp(-0.5 * ((time - shifted[..., None]) / widths[..., None]) ** 2)
    drift = 0.3 * np.sin(2 * np.pi * (rng.uniform(0.2, 0.8, (n, 1)) * time + rng.random((n, 1))))
    series = waves.sum(1) + drift + 0.1 * rng.normal(size=(n, length))
    return split(torch.tensor(series, dtype=torch.float32).unsqueeze(1), torch.tensor(kind), 400)


@functools.cache
def delayed_feedback(length: int, ahead: int) -> Arrays:
    """Return noisy stretches ``[n, 1, length]`` of Mackey and Glass's chaotic series, and its value ``ahead`` later."""
    rng = np.random.default_rng(0)
    n, delay, n_transient = 1500, 17, 100
    values = [rng.uniform(0.5, 1.3, n)] * (delay + 1)
    for _ in range(n_transient + 2 * (length + ahead)):
        late = values[-1 - delay]
        values.append(values[-1] + 0.2 * late / (1 + late**10) - 0.1 * values[-1])
    series = standardize(np.stack(values[-2 * (length + ahead) :: 2], 1).reshape(-1, 1)).view(n, length + ahead)
    noise = torch.randn(series.shape, generator=torch.Generator().manual_seed(0))
    noisy = series + 0.15 * noise
    return split(noisy[:, None, :length], noisy[:, -1], 700)


@functools.cache
def chords() -> Arrays:
    """Return spectra ``[n, 48]`` of one to four notes at once, and which of ten notes sound, ``[n, 10]``.

    A note has overtones, whose strengths vary from sample to sample.
    """
    rng = np.random.default_rng(0)
    n = 1600
    order = rng.random((n, 10)).argsort(1)
    sounds = order < rng.integers(1, 5, size=(n, 1))
    spectra = 0.35 * rng.normal(size=(n, 48))
    for overtone, interval in enumerate((0, 12, 19, 24)):
        strength = sounds * rng.uniform(0.3, 1.5, (n, 10)) / (1 + 0.3 * overtone)
        for note in range(10):
            spectra[:, 2 * note + interval] += strength[:, note]
    return split(standardize(spectra), torch.tensor(sounds, dtype=torch.float32), 800)


@functools.cache
def motifs(length: int) -> Arrays:
    """Return genetic sequences ``[n, 4, length]``, and which of two motifs of eight letters they contain.

    The classes are none, the first, the second and both. A tenth of a motif's letters are random.
    """
    rng = np.random.default_rng(0)
    n = 1800
    letters, label = rng.integers(4, size=(n, length)), rng.integers(4, size=n)
    for number, motif in enumerate(rng.integers(4, size=(2, 8))):
        copies = np.where(rng.random((n, 8)) < 0.1, rng.integers(4, size=(n, 8)), motif)
        start = rng.integers(length // 2 - 8, size=n) + number * (length // 2)
        contains = label >> number & 1 == 1
        places = (start[:, None] + np.arange(8))[contains]
        letters[contains.nonzero()[0][:, None], places] = copies[contains]
    half = length // 2
    swapped = np.where((rng.random(n) < 0.5)[:, None], np.roll(letters, half, axis=1), letters)
    one_hot = np.eye(4)[swapped].transpose(0, 2, 1)
    return split(torch.tensor(one_hot, dtype=torch.float32), torch.tensor(label), 800)
