"""Generated points in the plane, and a generated graph."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from .arrays import Arrays, split, standardize


@functools.cache
def moons() -> Arrays:
    """Return points ``[n, 2]`` of two crescents, and whether a point is of the second one (1) or not (0)."""
    from sklearn.datasets import make_moons

    points, second = make_moons(2000, noise=0.1, random_state=0)
    return split(standardize(points), torch.tensor(second, dtype=torch.float32), 400)


@functools.cache
def spirals() -> Arrays:
    """Return points ``[n, 2]`` of three spiral arms that do not touch, and the index of the arm."""
    rng = np.random.default_rng(0)
    arm, way = rng.integers(3, size=2400), np.sqrt(rng.uniform(0.02, 1, 2400))
    angle = 2 * np.pi * arm / 3 + 1.2 * np.pi * way
    points = (way * np.stack([np.cos(angle), np.sin(angle)])).T + 0.02 * rng.normal(size=(2400, 2))
    return split(standardize(points), torch.tensor(arm), 400)


@functools.cache
def papers() -> tuple[Tensor, Tensor, Tensor]:
    """Return a graph of 300 papers that cite one another: adjacency, words and subjects.

    The adjacency ``[300, 300]`` has self loops and is normalized; the frequencies of the words of a paper, of
    ``[300, 100]``, sum to one; it has one of five subjects and cites mostly papers of its own.
    """
    rng = np.random.default_rng(0)
    subject = rng.integers(5, size=300)
    same = subject[:, None] == subject
    cites = np.triu(rng.random(same.shape) < np.where(same, 0.05, 0.005), 1)
    adjacency = cites + cites.T + np.eye(300)
    scale = 1 / np.sqrt(adjacency.sum(1))
    normalized = scale[:, None] * adjacency * scale
    frequent = np.where(rng.random((5, 100)) < 0.15, 0.25, 0.04)
    words = rng.random((300, 100)) < frequent[subject]
    words = words / np.maximum(words.sum(1, keepdims=True), 1)
    return *(torch.tensor(part, dtype=torch.float32) for part in (normalized, words)), torch.tensor(subject)


@functools.cache
def subjects_of_papers(n_train: int) -> Arrays:
    """Return indices of papers, and their subjects; all papers but ``n_train`` are for validation."""
    subject = papers()[2]
    return split(torch.arange(len(subject)), subject, len(subject) - n_train)


@functools.cache
def surfaces(n_points: int) -> Arrays:
    """Return noisy points ``[n, n_points, 3]`` of surfaces turned around the vertical axis, and which of four it is.

    The surfaces are a sphere, a cube, a cylinder without its ends and a torus, of similar sizes.
    """
    rng = np.random.default_rng(0)
    n = 2400
    shape = (n, n_points)
    sphere = rng.normal(size=(*shape, 3))
    sphere /= np.linalg.norm(sphere, axis=2, keepdims=True)
    cube = rng.uniform(-1, 1, (*shape, 3))
    cube /= np.abs(cube).max(2, keepdims=True)
    angle, other = rng.uniform(-np.pi, np.pi, (2, *shape))
    cylinder = np.stack([np.cos(angle), np.sin(angle), rng.uniform(-1, 1, shape)], 2)
    ring = 1 + 0.4 * np.cos(other)
    torus = np.stack([ring * np.cos(angle), ring * np.sin(angle), 0.4 * np.sin(other)], 2)
    label = rng.integers(4, size=n)
    points = np.stack([sphere, 0.8 * cube, 0.85 * cylinder, 0.95 * torus])[label, np.arange(n)]
    turn = rng.uniform(-np.pi, np.pi, (n, 1))
    x, y, z = np.moveaxis(points, 2, 0)
    points = np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y, z], 2)
    points = points * rng.uniform(0.9, 1.1, (n, 1, 1)) + 0.03 * rng.normal(size=points.shape)
    return split(torch.tensor(points, dtype=torch.float32), torch.tensor(label), 400)
