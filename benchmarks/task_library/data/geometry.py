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


@functools.cache
def heaps(n_points: int) -> Arrays:
    """Return points ``[n, n_points, 2]`` in random order, and the number of heaps that they form, less one: 0 to 3."""
    rng = np.random.default_rng(0)
    n = 2000
    label = rng.integers(4, size=n)
    centres = rng.uniform(-1.5, 1.5, (n, 4, 2))
    member = rng.integers(1 + label[:, None], size=(n, n_points))
    points = centres[np.arange(n)[:, None], member] + 0.2 * rng.normal(size=(n, n_points, 2))
    return split(torch.tensor(points, dtype=torch.float32), torch.tensor(label), 800)


@functools.cache
def diffused_moons() -> Arrays:
    """Return points of two crescents behind noise, with a time as third column, ``[n, 3]``, and the noise ``[n, 2]``.

    From time 0 to time 1 the share of the noise rises from none to all.
    """
    parts: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for points in moons()[::2]:
        time = torch.rand(len(points), 1, generator=generator)
        noise = torch.randn(points.shape, generator=generator)
        angle = 0.5 * torch.pi * time
        parts += [torch.cat([angle.cos() * points + angle.sin() * noise, time], 1), noise]
    return tuple(parts)  # type: ignore[return-value]


@functools.cache
def facts(n_entities: int, n_relations: int) -> Arrays:
    """Return pairs ``[n, 2]`` of an entity and a relation, and another entity to which it has the relation.

    Entities are hidden points in space and relations are steps; three facts of each pair lead close to the step's end.
    """
    rng = np.random.default_rng(0)
    places, steps = rng.normal(size=(n_entities, 3)), rng.normal(size=(n_relations, 3))
    ends = places[:, None] + steps  # [entities, relations, 3]
    closeness = -4 * np.square(ends[:, :, None] - places).sum(3)
    noisy = closeness + rng.gumbel(size=closeness.shape)
    others = np.argsort(-noisy, axis=2)[:, :, :3]
    pairs = np.argwhere(np.ones((n_entities, n_relations))).repeat(3, axis=0)
    return split(torch.tensor(pairs), torch.tensor(others.reshape(-1)), 800)


@functools.cache
def molecules(n_atoms: int) -> Arrays:
    """Return generated molecules of at most ``n_atoms`` atoms, and a property of each, standardized.

    The inputs ``[n, n_atoms, 4 + n_atoms]`` are the kind of every atom, one of four, and its bonds to the others.
    Atoms, pairs of bound atoms and rings add to the property; there is noise.
    """
    rng = np.random.default_rng(0)
    n = 1600
    of_kind, of_bond = rng.normal(size=4), rng.normal(size=(4, 4))
    inputs, values = np.zeros((n, n_atoms, 4 + n_atoms)), np.zeros(n)
    for molecule in range(n):
        size = rng.integers(n_atoms // 2, n_atoms + 1)
        kind = rng.choice(4, size=size, p=[0.5, 0.2, 0.2, 0.1])
        bonds = {(int(rng.integers(max(0, atom - 3), atom)), atom) for atom in range(1, size)}
        n_rings = rng.integers(3)
        bonds |= {(atom, atom + 4) for atom in rng.integers(size - 4, size=n_rings).tolist()} if size > 4 else set()
        inputs[molecule, np.arange(size), kind] = 1
        for first, second in sorted(bonds):
            inputs[molecule, first, 4 + second] = inputs[molecule, second, 4 + first] = 1
            values[molecule] += of_bond[kind[first], kind[second]] + of_bond[kind[second], kind[first]]
        values[molecule] += 2 * of_kind[kind].sum() + (len(bonds) - size + 1) + 0.5 * rng.normal()
    return split(torch.tensor(inputs, dtype=torch.float32), standardize(values), 800)
