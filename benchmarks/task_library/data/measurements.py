"""Tables as measurements, machines and markets give them; all are generated."""

from __future__ import annotations

import functools

import numpy as np
import torch

from .arrays import Arrays, split, standardize


@functools.cache
def rare_faults() -> Arrays:
    """Return 24 columns of a machine's state, and whether it has a fault (1) or not (0): 4 % have one."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        *(8000, 24),
        n_informative=8,
        n_redundant=4,
        n_clusters_per_class=2,
        weights=[0.965],
        flip_y=0.005,
        class_sep=1.5,
        random_state=1,
    )
    return split(standardize(inputs), torch.tensor(targets, dtype=torch.float32), 2000)


@functools.cache
def genes(n_train: int) -> Arrays:
    """Return the activities of 400 genes in three kinds of tissue, ``[n, 400]``, and the kind; 300 for validation.

    Each kind raises or lowers 40 genes. Eight hidden factors drive all genes together.
    """
    rng = np.random.default_rng(0)
    n = n_train + 300
    kind = rng.integers(3, size=n)
    shift = (rng.random((3, 400)) < 0.1) * rng.normal(size=(3, 400))
    activity = shift[kind] + 0.5 * rng.normal(size=(n, 8)) @ rng.normal(size=(8, 400)) + rng.normal(size=(n, 400))
    return split(standardize(activity), torch.tensor(kind), 300)


@functools.cache
def oscillators() -> Arrays:
    """Return four columns of a damped oscillator, and its displacement at a time, with a little noise.

    The columns are the time, the frequency, the damping and the phase at the start, standardized.
    """
    rng = np.random.default_rng(0)
    time, frequency, damping, phase = rng.uniform([0, 0.5, 0.0, 0], [3, 2.0, 0.6, np.pi], (4000, 4)).T
    displacement = np.exp(-damping * time) * np.cos(frequency * time + phase)
    displacement += 0.02 * rng.normal(size=len(time))
    columns = np.stack([time, frequency, damping, phase], 1)
    return split(standardize(columns), torch.tensor(displacement, dtype=torch.float32), 800)


@functools.cache
def tracks() -> Arrays:
    """Return six columns of a moving body, and its position ``[n, 2]`` after one unit of time.

    The columns are the position, the velocity, the speed of the wind and its direction. The wind blurs the position
    along its own direction.
    """
    rng = np.random.default_rng(0)
    n = 4000
    position, velocity = rng.normal(size=(2, n, 2))
    speed, direction = rng.uniform(0, 1, n), rng.uniform(-np.pi, np.pi, n)
    wind = np.stack([np.cos(direction), np.sin(direction)], 1)
    blur = (0.3 * speed * rng.normal(size=n))[:, None] * wind + 0.03 * rng.normal(size=(n, 2))
    inputs = np.concatenate([position, velocity, speed[:, None], direction[:, None]], 1)
    targets = position + velocity - 0.3 * np.tanh(velocity) + blur
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 800)


@functools.cache
def smooth_functions(n_outputs: int) -> Arrays:
    """Return eight normal columns, and ``n_outputs`` smooth random functions of them, without noise."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(6000, 8))
    waves = np.cos(inputs @ (0.35 * rng.normal(size=(8, 200))) + rng.uniform(0, 2 * np.pi, 200))
    targets = standardize(waves @ rng.normal(size=(200, n_outputs)))
    return split(torch.tensor(inputs, dtype=torch.float32), targets, 1000)


@functools.cache
def chemical_sensors() -> Arrays:
    """Return 32 columns of a sensor array, and which of five gases it meets; 3 % of the labels are wrong."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        *(5000, 32), n_informative=10, n_redundant=10, n_classes=5, n_clusters_per_class=2, flip_y=0.03, random_state=2
    )
    return split(standardize(inputs), torch.tensor(targets), 1000)


@functools.cache
def house_prices(n_first: int, n_second: int) -> tuple[Arrays, Arrays]:
    """Return twelve columns of houses and their prices in thousands, in one town and in another with other prices.

    Args:
        n_first, n_second: houses of each town; 400 of each are for validation.
    """
    rng = np.random.default_rng(0)
    towns: list[Arrays] = []
    for n, base, of_area, of_age in ((n_first, 5.2, 0.35, -0.15), (n_second, 5.6, 0.45, 0.05)):
        columns = rng.normal(size=(n, 12))
        log_price = base + of_area * columns[:, 0] + of_age * columns[:, 1] + 0.1 * columns[:, 2] * columns[:, 3]
        log_price += 0.1 * np.tanh(columns[:, 4] + columns[:, 5]) + 0.05 * rng.normal(size=n)
        inputs, prices = (torch.tensor(part, dtype=torch.float32) for part in (columns, np.exp(log_price)))
        towns.append(split(inputs, prices, 400))
    return towns[0], towns[1]


@functools.cache
def tasted_wines() -> Arrays:
    """Return eleven correlated columns of a wine, and its grade from 0 to 5 by a taster who is often off by one."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(1800, 5))
    columns = hidden @ rng.normal(size=(5, 11)) + 0.7 * rng.normal(size=(1800, 11))
    taste = hidden[:, 0] - hidden[:, 1] * hidden[:, 2] + np.tanh(2 * hidden[:, 3]) + 0.6 * rng.normal(size=1800)
    grade = np.digitize(taste, [-2.2, -1.0, 0.0, 1.0, 2.2])
    return split(standardize(columns), torch.tensor(grade), 800)


@functools.cache
def claims() -> Arrays:
    """Return columns ``[n, 6]`` of insured cars, and the number of claims, a Poisson variable.

    The first two columns are the indices of one of 30 regions and of one of 20 makes; the others are normal.
    """
    rng = np.random.default_rng(0)
    n = 2500
    region, make = rng.integers(30, size=n), rng.integers(20, size=n)
    numbers = rng.normal(size=(n, 4))
    log_mean = 0.5 * rng.normal(size=30)[region] + 0.5 * rng.normal(size=20)[make] + 0.5 * np.abs(numbers[:, 0]) - 0.3
    log_mean += 0.4 * numbers[:, 1] * rng.choice([-1, 1], size=20)[make]
    inputs = np.column_stack([region, make, numbers])
    targets = rng.poisson(np.exp(np.minimum(log_mean, 3)))
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 1000)
