"""Batches whose loss is not finite on the initial weights: the data are the cause then, not the rate."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from .._ranks import Ranks
from .._torch_compat import tree_leaves
from ..training._eager_step import EagerStep

KEPT_BYTES = 2**28
"""Memory of batches that a sweep keeps until the host has seen their losses; at least one batch is kept."""

MOST_BAD = 10
"""Batches that are left out one by one, and in a row, before the data are refused."""

CONTROLS = 3
"""Batches one of which must give a finite loss on the initial weights for others to be called bad."""


class BadBatches:
    """The batches of a loader that are left out, by what was found on the way.

    A batch is left out if it is one that was found before or, once one with values that are not finite was, if it
    holds such values, too: in another order of the data they are in another batch.
    """

    def __init__(self) -> None:
        self._bad: list[Any] = []
        self._values_too = False
        self._numbers: deque[tuple[int, int]] = deque(maxlen=1000)  # index and id, so that no batch is held

    def numbered(self, loader: Iterable[Any]) -> Iterable[Any]:
        """``loader``, the latest of whose batches are known by their index."""
        return _Numbered(loader, self._numbers)

    def left_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The other batches.

        Raises:
            ValueError: too many in a row are bad.
        """
        in_a_row = 0
        for batch in batches:
            in_a_row = in_a_row + 1 if self._is_bad(batch) else 0
            if in_a_row > MOST_BAD:
                raise ValueError(f"loader: more than {MOST_BAD} batches in a row do not give a finite loss{_ADVICE}")
            if not in_a_row:
                yield batch

    def found_in(self, latest: Latest, others: Iterator[Any], step: EagerStep, ranks: Ranks) -> bool:
        """Whether some of the latest batches give a loss that is not finite on the weights as they are now, on any of
        the ranks; these are left out from now on, and a warning names them. Not where the next three of the ``others``
        give no finite loss either: then it is not the data.

        Raises:
            ValueError: too many were found.
        """
        found = [(batch, loss) for batch in latest.batches if not math.isfinite(loss := _loss(step, batch))]
        if not any(ranks.gather("batches whose loss is not finite", len(found))):
            return False
        finite = (math.isfinite(_loss(step, batch)) for batch in islice(others, CONTROLS))
        # Ranks may wait for each other in each forward pass.
        sound = any(finite) if ranks.count == 1 else any(list(finite))
        if not all(ranks.gather("a batch whose loss is finite", sound)):
            return False
        for batch, loss in found:
            self._bad.append(batch)
            self._values_too = self._values_too or not _is_finite(batch)
            of_rank = "" if ranks.count == 1 else f" of rank {ranks.index}"
            warnings.warn(
                f"loader: {self._name(batch)}{of_rank} gives a loss of {loss} on the initial weights; the sweep is "
                f"made again without it{_ADVICE}",
                stacklevel=2,
            )
        if len(self._bad) > MOST_BAD:
            raise ValueError(
                f"loader: {len(self._bad)} batches give a loss that is not finite on the initial weights{_ADVICE}"
            )
        return True

    def _name(self, batch: Any) -> str:
        numbers = [number for number, other in self._numbers if other == id(batch)]
        return f"batch {numbers[-1]}" if numbers else "a batch"

    def _is_bad(self, batch: Any) -> bool:
        if not self._bad:
            return False
        if self._values_too and not _is_finite(batch):
            return True
        return any(_equal(batch, bad) for bad in self._bad)


_ADVICE = "; look in the data for NaN, infinite values, and targets that the loss ignores"


class Latest:
    """``batches``, of which the latest are kept: ``n`` of them, or as many as fit ``KEPT_BYTES``."""

    def __init__(self, batches: Iterator[Any], n: int):
        self._batches, self._n = batches, n
        self.batches: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.batches.append(batch)
            while len(self.batches) > self._n or (len(self.batches) > 1 and self._bytes() > KEPT_BYTES):
                self.batches.popleft()
            yield batch

    def _bytes(self) -> int:
        return sum(tensor.nbytes for batch in self.batches for tensor in _tensors(batch))


class _Numbered:
    def __init__(self, loader: Iterable[Any], numbers: deque[tuple[int, int]]):
        self._loader, self._latest = loader, numbers

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._loader):
            self._latest.append((number, id(batch)))
            yield batch


def _loss(step: EagerStep, batch: Any) -> float:
    with torch.enable_grad():  # a loss may hold a derivative
        return float(step.loss(batch).detach().mean())


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
