"""Tables that scikit-learn bundles, and generated ones."""

from __future__ import annotations

import functools

import numpy as np
import torch

from .arrays import Arrays, split, standardize


@functools.cache
def bundled(name: str, n_val: int) -> Arrays:
    """Return a classification data set of scikit-learn by the name of its ``load_`` function, standardized."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    return split(standardize(data.data), torch.tensor(data.target), n_val)


@functools.cache
def diabetes(standardized: bool) -> Arrays:
    """Return the ten columns of the diabetes data, and the progression of the disease, standardized or as it is."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    targets = standardize(data.target) if standardized else torch.tensor(data.target, dtype=torch.float32)
    return split(standardize(data.data), targets, 122)


@functools.cache
def wine_alcohol(n_val: int) -> Arrays:
    """Return twelve columns of the wine data, and the alcohol of the wines, all standardized."""
    from sklearn.datasets import load_wine

    columns = standardize(load_wine().data)
    return split(columns[:, 1:], columns[:, 0], n_val)


@functools.cache
def covertype_like() -> Arrays:
    """Return 54 columns and seven uneven classes, as Covertype has them."""
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
    return split(standardize(inputs), torch.tensor(targets), 1000)


@functools.cache
def friedman() -> Arrays:
    """Return Friedman's first regression problem, with noise of standard deviation 1."""
    from sklearn.datasets import make_friedman1

    inputs, targets = make_friedman1(2500, noise=1.0, random_state=0)
    return split(standardize(inputs), standardize(targets), 500)


@functools.cache
def friedman2() -> Arrays:
    """Return Friedman's second regression problem: the impedance of a circuit in ohms, some hundreds."""
    from sklearn.datasets import make_friedman2

    inputs, targets = make_friedman2(3000, noise=50.0, random_state=0)
    return split(standardize(inputs), torch.tensor(targets, dtype=torch.float32), 600)


@functools.cache
def teacher() -> Arrays:
    """Return 20 normal inputs and the output of a random ReLU network with a little noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2500, 20, generator=generator)
    first = torch.randn(20, 8, generator=generator) / 20**0.5
    second = torch.randn(8, generator=generator)
    targets = (inputs @ first).relu() @ second
    targets = (targets - targets.mean()) / targets.std() + 0.1 * torch.randn(2500, generator=generator)
    return split(inputs, targets, 500)


@functools.cache
def ratings(n_rows: int, n_columns: int) -> Arrays:
    """Return indices ``[n, 2]`` into a matrix of rank 3, and its entries with a little noise."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(n_rows, 3, generator=generator), torch.randn(3, n_columns, generator=generator)
    matrix = 2.5 * left @ right / 3**0.5 + 0.1 * torch.randn(n_rows, n_columns, generator=generator)
    index = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_columns))
    return split(index, matrix.flatten(), 600)


@functools.cache
def purchases(n_customers: int, n_products: int) -> Arrays:
    """Return indices ``[n, 2]`` of customers and products, and whether a customer bought it (1) or not (0)."""
    rng = np.random.default_rng(0)
    tastes, products = rng.normal(size=(n_customers, 4)), rng.normal(size=(n_products, 4))
    score = tastes @ products.T + rng.normal(size=n_products) - 1
    bought = rng.random(score.shape) < 1 / (1 + np.exp(-1.5 * score))
    index = torch.cartesian_prod(torch.arange(n_customers), torch.arange(n_products))
    return split(index, torch.tensor(bought.flatten(), dtype=torch.float32), 3000)


@functools.cache
def linear_map() -> Arrays:
    """Return 16 normal inputs and a linear map of them, with singular values from 2 to 0.2 and a little noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2500, 16, generator=generator)
    spectrum = torch.diag(torch.linspace(2.0, 0.2, 16))
    left, right = (torch.linalg.qr(torch.randn(16, 16, generator=generator))[0] for _ in range(2))
    targets = inputs @ left @ spectrum @ right
    return split(inputs, targets + 0.1 * torch.randn(2500, 16, generator=generator), 500)


@functools.cache
def gaussian_quantiles() -> Arrays:
    """Return three columns and four classes: shells around the origin."""
    from sklearn.datasets import make_gaussian_quantiles

    inputs, targets = make_gaussian_quantiles(n_samples=3000, n_features=3, n_classes=4, random_state=0)
    return split(standardize(inputs), torch.tensor(targets), 600)


@functools.cache
def multilabel() -> Arrays:
    """Return 40 counts, and for each of twelve labels whether the sample has it (1) or not (0)."""
    from sklearn.datasets import make_multilabel_classification

    inputs, targets = make_multilabel_classification(
        n_samples=4000, n_features=40, n_classes=12, n_labels=3, random_state=0
    )
    return split(standardize(inputs), torch.tensor(targets, dtype=torch.float32), 800)


@functools.cache
def counts() -> Arrays:
    """Return eight columns and a Poisson variable; the logarithm of its mean is a smooth function of the columns."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(7000, 8))
    log_mean = 1 + 0.7 * np.sin(inputs[:, 0]) + 0.5 * inputs[:, 1] * np.tanh(inputs[:, 2]) - 0.4 * inputs[:, 3]
    targets = rng.poisson(np.exp(log_mean))
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 1000)


@functools.cache
def uneven_noise() -> Arrays:
    """Return five columns and a smooth function of them; two of the columns decide how noisy it is."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(4000, 5))
    exact = np.sin(1.5 * inputs[:, 0]) + 0.5 * inputs[:, 1] * inputs[:, 2]
    noise = 0.03 * np.exp(1.2 * np.tanh(inputs[:, 3] + inputs[:, 4]))
    targets = exact + noise * rng.normal(size=len(exact))
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 800)


@functools.cache
def curved_sheet() -> Arrays:
    """Return points ``[n, 6]`` near a curved sheet of three dimensions; inputs and targets are the same."""
    generator = torch.Generator().manual_seed(0)
    sheet = torch.randn(4000, 3, generator=generator)
    bent = torch.tanh(sheet @ torch.randn(3, 3, generator=generator))
    points = torch.cat([sheet, bent + 0.05 * torch.randn(4000, 3, generator=generator)], 1)
    return split(points, points, 800)


@functools.cache
def clicks(n_values: int) -> Arrays:
    """Return six categorical columns as indices, and whether an advertisement was clicked: about one in ten was.

    Args:
        n_values: categories per column. The columns' indices do not overlap.
    """
    rng = np.random.default_rng(0)
    n = 12000
    popular = 1 / np.arange(2, n_values + 2)
    values = rng.choice(n_values, size=(n, 6), p=popular / popular.sum())
    weights, hidden = rng.normal(size=(6, n_values)) * 0.5, rng.normal(size=(6, n_values, 2)) * 0.4
    column = np.arange(6)
    chosen = hidden[column, values]
    score = weights[column, values].sum(1) + (chosen.sum(1) ** 2 - (chosen**2).sum(1)).sum(1)
    clicked = rng.random(n) < 1 / (1 + np.exp(3 - score))
    return split(torch.tensor(values + n_values * column), torch.tensor(clicked, dtype=torch.float32), 2000)


@functools.cache
def lifetimes() -> Arrays:
    """Return eight columns, and targets ``[n, 2]``: the observed time, and whether the end was seen (1) or not (0)."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3500, 8))
    log_risk = inputs[:, 0] + 0.8 * inputs[:, 1] * inputs[:, 2] + np.abs(inputs[:, 3]) - 0.5 * inputs[:, 4]
    end = (rng.exponential(size=len(inputs)) / np.exp(log_risk)) ** 0.7
    last_seen = rng.uniform(0.2, 2.0, size=len(inputs))
    targets = np.stack([np.minimum(end, last_seen), end <= last_seen], 1)
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 700)


@functools.cache
def arm() -> Arrays:
    """Return positions ``[n, 2]`` of the hand of an arm with two joints, and the joints' angles ``[n, 2]``.

    Most positions have two pairs of angles.
    """
    rng = np.random.default_rng(0)
    shoulder, elbow = rng.uniform(0, np.pi / 2, 4000), rng.uniform(-2.5, 2.5, 4000)
    hand = np.stack(
        [np.cos(shoulder) + 0.8 * np.cos(shoulder + elbow), np.sin(shoulder) + 0.8 * np.sin(shoulder + elbow)]
    )
    hand += 0.05 * rng.normal(size=hand.shape)
    angles = np.stack([shoulder, elbow], 1)
    return split(torch.tensor(hand.T, dtype=torch.float32), torch.tensor(angles, dtype=torch.float32), 800)


@functools.cache
def outliers() -> Arrays:
    """Return 15 columns, and targets ``[n, 2]``: a smooth function of the columns, and the weight of the sample.

    5 % of the targets are far off, in the validation samples, too. The weights of all samples sum to one.
    """
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2500, 15))
    exact = inputs[:, :5].sum(1) + 2 * np.sin(2 * inputs[:, 5]) + inputs[:, 6] * inputs[:, 7]
    far = rng.random(len(exact)) < 0.05
    values = exact + np.where(far, 30, 0.1) * rng.normal(size=len(exact))
    weights = rng.uniform(0.5, 1.5, size=len(exact))
    targets = np.stack([values, weights / weights.sum()], 1)
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 500)


@functools.cache
def visitors() -> Arrays:
    """Return ten columns and the visitors of a day, a Poisson variable around a thousand."""
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, size=(4000, 10))
    log_mean = 6.8 + 0.6 * np.sin(3 * inputs[:, 0]) + 0.5 * inputs[:, 1] * inputs[:, 2] - 0.4 * np.abs(inputs[:, 3])
    targets = rng.poisson(np.exp(log_mean + 0.2 * inputs[:, 4:].sum(1)))
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 800)


@functools.cache
def coatings() -> Arrays:
    """Return six columns and the thickness of a coating in metres, some thousandths, as a difference from the mean."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3000, 6))
    exact = np.tanh(inputs[:, 0] + inputs[:, 1]) + 0.7 * np.cos(2 * inputs[:, 2]) + 0.5 * inputs[:, 3] * inputs[:, 4]
    thickness = 0.004 * (exact + 0.1 * rng.normal(size=len(exact)))
    targets = torch.tensor(thickness - thickness.mean(), dtype=torch.float32)
    return split(torch.tensor(inputs, dtype=torch.float32), targets, 600)


@functools.cache
def queries(n_documents: int) -> Arrays:
    """Return 20 columns of the documents of every query, ``[n, n_documents, 20]``, and their relevance, 0 to 4.

    The columns of all documents of a query share an offset that says nothing about their relevance.
    """
    rng = np.random.default_rng(0)
    own, of_query = rng.normal(size=(2000, n_documents, 20)), rng.normal(size=(2000, 1, 20))
    match = own[..., 0] + np.tanh(2 * own[..., 1]) + own[..., 2] * own[..., 3] + 0.5 * rng.normal(size=own.shape[:2])
    relevance = np.digitize(match, [-0.5, 0.5, 1.5, 2.5])
    inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in (own + of_query, relevance))
    return split(inputs, targets, 400)
