"""``DeviceDataset``: shuffles, gathers and augments batches on the device, so that none is copied from the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .._checks import is_whole

Augment = Callable[[Tensor, torch.Generator], Tensor]


class DeviceDataset:
    """An iterable over batches of tensors on one device, in place of a DataLoader.

    A few operations on that device permute each epoch, gather each batch and augment it. The host neither copies nor
    waits.

    Args:
        tensors: a tensor ``[n, ...]``, or several, for example ``(inputs, targets)``. They are used where they are;
            move them to the device first.
        batch_size: number of samples in [1, n].
        shuffle: whether every epoch has a new order. Without shuffling and augmentation, batches are views of
            ``tensors``: a model that writes to its inputs changes the data, except in a captured step.
        augment: ``augment(inputs, generator) -> inputs``, applied to the first tensor of each batch, for example
            ``crop_and_flip()``. Its random numbers must come from the generator, which is on the tensors' device.
        drop_last: whether to leave out an incomplete last batch; a captured step needs another graph for it.
        seed: seed of ``generator``.

    Attributes:
        generator: source of the order and the augmentation. The next epoch depends on its state alone.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        tensors: Tensor | Sequence[Tensor],
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: Augment | None = None,
        drop_last: bool = False,
        seed: int = 0,
    ):
        self.single = isinstance(tensors, Tensor)
        self.tensors: tuple[Tensor, ...] = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
        self.n_samples = _count_samples(self.tensors)
        if not is_whole(batch_size) or not 1 <= batch_size <= self.n_samples:
            raise ValueError(f"batch_size: got {batch_size!r}; give a whole number from 1 to {self.n_samples}")
        if augment is not None and not callable(augment):
            raise ValueError(f"augment: got {augment!r}; give augment(inputs, generator) -> inputs, or None")
        self.batch_size, self.shuffle, self.augment, self.drop_last = int(batch_size), shuffle, augment, drop_last
        self.generator = torch.Generator(self.tensors[0].device).manual_seed(seed)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.n_samples // self.batch_size if self.drop_last else -(-self.n_samples // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        device = self.tensors[0].device
        order = torch.randperm(self.n_samples, generator=self.generator, device=device) if self.shuffle else None
        for index in range(len(self)):
            chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
            first, *others = (tensor[chosen] if order is None else tensor[order[chosen]] for tensor in self.tensors)
            if self.augment is not None:
                first = self.augment(first, self.generator)
            yield first if self.single else (first, *others)


def crop_and_flip(padding: int = 4) -> Augment:
    """Return a function that pads images ``[n, c, h, w]`` with zeros, crops them at random and mirrors half of them.

    Args:
        padding: number of pixels added on each side, at least 0. Crops have the original size and start between 0 and
            ``2 * padding``, both included.
    Raises:
        ValueError: ``padding`` is out of range; the returned function also refuses other shapes.

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.
    """
    if not is_whole(padding) or padding < 0:
        raise ValueError(f"padding: got {padding!r}; give a whole number of pixels, at least 0")

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        if images.dim() != 4:
            raise ValueError(f"images: got shape {tuple(images.shape)}; give [n, channels, height, width]")
        n, channels, height, width = images.shape
        options: dict[str, Any] = {"generator": generator, "device": images.device}
        top, left = torch.randint(2 * padding + 1, (2, n, 1), **options)
        mirrored = torch.randint(2, (n, 1), **options).bool()
        x = torch.arange(width, device=images.device)
        rows = top + torch.arange(height, device=images.device)
        columns = left + torch.where(mirrored, x.flip(0), x)
        image, channel = (torch.arange(size, device=images.device) for size in (n, channels))
        padded = functional.pad(images, (padding,) * 4)
        return padded[
            image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
        ]

    return augment


def _count_samples(tensors: tuple[Any, ...]) -> int:
    """Return the number of samples.

    Raises:
        ValueError: the tensors differ in their number of samples or device, or have no samples.
    """
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.dim() for tensor in tensors):
        raise ValueError("tensors: give one or more tensors with a first dimension for the samples")
    if len({len(tensor) for tensor in tensors}) > 1:
        raise ValueError(
            f"tensors: they have {[len(tensor) for tensor in tensors]} samples; give the same number of each"
        )
    if len({tensor.device for tensor in tensors}) > 1:
        devices = [str(tensor.device) for tensor in tensors]
        raise ValueError(f"tensors: they are on {devices}; move them all to the model's device")
    if not len(tensors[0]):
        raise ValueError("tensors: they have no samples")
    return len(tensors[0])
