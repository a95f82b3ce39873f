"""Data that fits on the device: shuffled, gathered and augmented there, so that an epoch takes no copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .._checks import is_whole

Augment = Callable[[Tensor, torch.Generator], Tensor]


class DeviceDataset:
    """Batches of tensors that lie on one device, as an iterable in place of a DataLoader.

    The permutation of each epoch, the gathering of each batch and its augmentation are a few operations on that
    device; the host neither copies nor waits.

    Args:
        tensors: ``[n, ...]`` each, for example ``(inputs, targets)``, or a single tensor; used where they are, so move
            them to the device first.
        batch_size: in [1, n].
        shuffle: whether every epoch has another order. Batches that are neither shuffled nor augmented are parts of
            ``tensors`` themselves: a model that writes to its inputs, outside of a captured step, changes them.
        augment: ``augment(inputs, generator) -> inputs``, applied to the first tensor of each batch, for example
            ``crop_and_flip()``; random numbers are to come from the generator, which is on the tensors' device.
        drop_last: leave out the last batch of an epoch if it is not full; a captured step wants a graph of its own for
            it.
        seed: of ``generator``, which order and augmentation come from.

    Attributes:
        generator: its state is all that the next epoch depends on.

    Raises:
        ValueError: an argument that cannot be used; the message names it.
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
        self.n_samples = _samples(self.tensors)
        if not is_whole(batch_size) or not 1 <= batch_size <= self.n_samples:
            raise ValueError(f"batch_size: got {batch_size!r}; give a whole number from 1 to {self.n_samples}")
        if augment is not None and not callable(augment):
            raise ValueError(f"augment: got {augment!r}; give augment(inputs, generator) -> inputs, or None")
        self.batch_size, self.shuffle, self.augment, self.drop_last = int(batch_size), shuffle, augment, drop_last
        self.generator = torch.Generator(self.tensors[0].device).manual_seed(seed)

    def __len__(self) -> int:
        """Batches of an epoch."""
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
    """Augmentation of images ``[n, c, h, w]``: each is padded by zeros, cropped back at random, and mirrored or not.

    Args:
        padding: pixels on each side, at least 0; crops begin at 0 to ``2 * padding``.

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


def _samples(tensors: tuple[Any, ...]) -> int:
    """Samples of the dataset.

    Raises:
        ValueError: the tensors do not belong together.
    """
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.dim() for tensor in tensors):
        raise ValueError("tensors: give one or more tensors with a first dimension for the samples")
    if len({len(tensor) for tensor in tensors}) > 1:
        raise ValueError(f"tensors: they have {[len(tensor) for tensor in tensors]} samples; give equally many of each")
    if len({tensor.device for tensor in tensors}) > 1:
        devices = [str(tensor.device) for tensor in tensors]
        raise ValueError(f"tensors: they are on {devices}; move them all to the model's device")
    if not len(tensors[0]):
        raise ValueError("tensors: they have no samples")
    return len(tensors[0])
