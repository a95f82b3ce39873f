"""Images that scikit-learn bundles, and generated ones."""

from __future__ import annotations

import functools

import numpy as np
import torch

from .arrays import Arrays, split, standardize


@functools.cache
def digits(standardized: bool = True) -> Arrays:
    """Return the 1,797 digits ``[n, 1, 8, 8]``, standardized as a whole or as pixels in [0, 1], and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    if standardized:
        images = (images - images.mean()) / images.std()
    return split(images, torch.tensor(data.target), 360)


@functools.cache
def mislabelled_digits(share: float) -> Arrays:
    """Return the digits; that share of the training labels is drawn at random."""
    images, labels, val_images, val_labels = digits()
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(labels), generator=generator) < share
    random_labels = torch.randint(0, 10, (len(labels),), generator=generator)
    return images, torch.where(wrong, random_labels, labels), val_images, val_labels


@functools.cache
def noisy_patches(size: int) -> Arrays:
    """Return grey patches ``[n, 1, size, size]`` of two photographs, with noise as inputs and without it as targets.

    The noise has half of the pixels' standard deviation.
    """
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image.mean(-1), dtype=torch.float32) for image in load_sample_images().images]
    patches = torch.cat([image.unfold(0, size, size).unfold(1, size, size).flatten(0, 1) for image in photographs])
    patches = ((patches - patches.mean()) / patches.std()).unsqueeze(1)
    noise = 0.5 * torch.randn(patches.shape, generator=torch.Generator().manual_seed(0))
    return split(patches + noise, patches, 600)


@functools.cache
def pixels(every: int) -> Arrays:
    """Return positions ``[n, 2]`` in a photograph, from -1 to 1, and the colours there.

    Args:
        every: distance in pixels of the rows and columns that are taken.
    """
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("flower.jpg")[::every, ::every].astype(np.float32)
    rows, columns = (torch.linspace(-1, 1, n) for n in photograph.shape[:2])
    return split(torch.cartesian_prod(rows, columns), standardize(photograph.reshape(-1, 3)), 1500)


@functools.cache
def ellipses(size: int) -> Arrays:
    """Return noisy images ``[n, 1, size, size]`` of an ellipse before a rectangle, and the mask of the ellipse.

    Both shapes are equally bright.
    """
    rng = np.random.default_rng(0)
    n = 1500
    y, x = np.mgrid[:size, :size]

    def place(low: float, high: float) -> np.ndarray:
        """Return two coordinates of a centre and two half widths, in pixels, ``[4, n, 1, 1]``."""
        centre, half = rng.uniform(0.2, 0.8, (2, n)), rng.uniform(low, high, (2, n))
        return size * np.concatenate([centre, half])[:, :, None, None]

    top, left, high, wide = place(0.12, 0.3)
    mask = ((y - top) / high) ** 2 + ((x - left) / wide) ** 2 < 1
    top, left, high, wide = place(0.1, 0.25)
    rectangle = (np.abs(y - top) < high) & (np.abs(x - left) < wide)
    images = (mask | rectangle) * rng.uniform(1, 2, (n, 1, 1)) + 0.4 * rng.normal(size=mask.shape)
    inputs, targets = (torch.tensor(part, dtype=torch.float32).unsqueeze(1) for part in (images, mask))
    return split(inputs, targets, 300)


@functools.cache
def digit_strings(n_digits: int) -> Arrays:
    """Return images ``[n, 1, 8, 8 * n_digits]`` of digits side by side, and their classes plus one, ``[n, n_digits]``.

    The training strings are made of the training digits only.
    """
    rng = np.random.default_rng(0)
    images, labels, val_images, val_labels = digits()
    parts = []
    for single, classes, n in ((images, labels, 3000), (val_images, val_labels, 400)):
        chosen = torch.tensor(rng.integers(len(single), size=(n, n_digits)))
        parts += [single[chosen].permute(0, 2, 3, 1, 4).flatten(3), classes[chosen] + 1]
    return tuple(parts)  # type: ignore[return-value]
