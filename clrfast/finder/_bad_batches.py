"""``BadBatches``: finds and leaves out batches whose loss is not finite even on the initial weights."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from .._distributed import Ranks
from .._torch_compat import tree_leaves, tree_map_only
from ..training._eager_step import EagerStep
from ._cost import Cost

KEPT_BYTES = 2**28
"""Maximum memory, in bytes, of the batches that a run keeps until the host has read their losses. At least one batch is
kept."""

MAX_BAD = 10
"""Maximum number of bad batches, found one by one or skipped in a row, before the data are refused."""

N_CONTROLS = 3
"""Number of other batches that are tried on the initial weights. A batch without a finite loss is bad only if one of
these has a finite loss."""


class BadBatches:
    """The bad batches found so far, which are left out of all further runs.

    If a bad batch contains values that are not finite, all further batches with such values are left out, because
    another order of the data puts these samples into other batches.

    Args:
        cost: counts the forward passes; None counts nothing.
    """

    def __init__(self, cost: Cost | None = None):
        self._cost = cost or Cost()
        self._bad: list[Any] = []
        self._values_are_bad = False
        self._numbers: deque[tuple[int, int]] = deque(maxlen=1000)  # index and id: no batch is kept alive

    def numbered(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Iterate over ``loader``, and remember the indices of its latest batches for warnings."""
        return _Numbered(loader, self._numbers)

    def copy(self, batch: Any) -> Any:
        """Copy the tensors of ``batch``; a warning of the copy gives the index of the original."""
        copied = tree_map_only(Tensor, Tensor.clone, batch)
        self._numbers += [(number, id(copied)) for number in self._find_numbers(batch)[-1:]]
        return copied

    def without_bad(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Iterate over the batches that are not bad.

        Raises:
            ValueError: too many batches in a row are bad.
        """
        in_a_row = 0
        for batch in batches:
            in_a_row = in_a_row + 1 if self._is_bad(batch) else 0
            if in_a_row > MAX_BAD:
                raise ValueError(f"loader: more than {MAX_BAD} batches in a row do not give a finite loss{_ADVICE}")
            if not in_a_row:
                yield batch

    def find_in(self, recent: RecentBatches, others: Iterator[Any], step: EagerStep, ranks: Ranks) -> bool:
        """Find the bad batches among the recent ones, on the weights as they are now, and warn about them.

        If none of the next three of the ``others`` gives a finite loss either, no batch is bad: the data are not the
        cause.

        Returns:
            Whether a batch was found on any of the ranks.
        Raises:
            ValueError: too many were found.
        """
        found = [(batch, loss) for batch in recent.batches if not math.isfinite(loss := self._loss(step, batch))]
        if not any(ranks.all_gather("batches whose loss is not finite", len(found))):
            return False
        finite = (math.isfinite(self._loss(step, batch)) for batch in islice(others, N_CONTROLS))
        # Several ranks evaluate all of them, because ranks may wait for each other in each forward pass.
        any_finite = any(finite) if ranks.world_size == 1 else any(list(finite))
        if not all(ranks.all_gather("a batch whose loss is finite", any_finite)):
            return False
        for batch, loss in found:
            self._bad.append(batch)
            self._values_are_bad = self._values_are_bad or not _is_finite(batch)
            of_rank = "" if ranks.world_size == 1 else f" of rank {ranks.rank}"
            warnings.warn(
                f"loader: {self._name(batch)}{of_rank} gives a loss of {loss} on the initial weights; the run is "
                f"repeated without it{_ADVICE}",
                stacklevel=2,
            )
        if len(self._bad) > MAX_BAD:
            raise ValueError(
                f"loader: {len(self._bad)} batches give a loss that is not finite on the initial weights{_ADVICE}"
            )
        return True

    def _loss(self, step: EagerStep, batch: Any) -> float:
        self._cost.extra_forward_passes += 1
        with torch.enable_grad():  # a loss may contain a derivative
            return float(step.compute_loss(batch).detach().mean())

    def _name(self, batch: Any) -> str:
        numbers = self._find_numbers(batch)
        return f"batch {numbers[-1]}" if numbers else "a batch"

    def _find_numbers(self, batch: Any) -> list[int]:
        return [number for number, other in self._numbers if other == id(batch)]

    def _is_bad(self, batch: Any) -> bool:
        if not self._bad:
            return False
        if self._values_are_bad and not _is_finite(batch):
            return True
        return any(_equal(batch, bad) for bad in self._bad)


_ADVICE = "; check the data for NaN, infinite values, and targets that the loss ignores"


class RecentBatches:
    """An iterable over ``batches`` that keeps the most recent ones: ``n`` of them, or as many as fit ``KEPT_BYTES``.

    Attributes:
        batches: the batches that are kept, oldest first.
    """

    def __init__(self, batches: Iterator[Any], n: int):
        self._batches, self._n = batches, n
        self.batches: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.batches.append(batch)
            while len(self.batches) > self._n or (
                len(self.batches) > 1 and sum(map(count_bytes, self.batches)) > KEPT_BYTES
            ):
                self.batches.popleft()
            yield batch


class _Numbered:
    def __init__(self, loader: Iterable[Any], numbers: deque[tuple[int, int]]):
        self._loader, self._latest = loader, numbers

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._loader):
            self._latest.append((number, id(batch)))
            yield batch


def count_bytes(batch: Any) -> int:
    """Count the bytes of the tensors in ``batch``."""
    return sum(tensor.nbytes for tensor in _tensors(batch))


def _tensors(batch: Any) -> list[Tensor]:
    leaves = tree_leaves(dict(batch) if hasattr(batch, "items") else batch)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _is_finite(batch: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(batch) if tensor.is_floating_point())


def _equal(batch: Any, other: Any) -> bool:
    if batch is other:
        return True
    ours, theirs = _tensors(batch), _tensors(other)
    same = len(ours) == len(theirs) > 0 and all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True))
    return same and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
