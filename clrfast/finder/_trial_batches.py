"""``TrialBatches``: probe batches, and the training batches that every trial takes in the same order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from .._distributed import Ranks
from ._bad_batches import BadBatches, count_bytes
from ._metrics import count_samples

N_PROBE_SAMPLES = 512
"""Number of samples on which a trial is judged, in whole batches. The noise of their mean loss is a few per cent of the
spread between samples."""

MIN_PROBES, MAX_PROBES = 3, 16
"""Minimum and maximum number of probe batches."""

MAX_PROBE_FRAC = 0.2
"""Maximum fraction of the batches of a data set that become probes."""

KEPT_BYTES = 2**28
"""Maximum memory, in bytes, of the training batches that are kept for the next trial."""


class TrialBatches:
    """Probe batches, and the batches on which all trials train, in the same order in each.

    One pass over a small data set is kept in memory: its first batches are the probes, and the trials cycle through the
    others. The next batches of a large data set are the probes, and those after them train the first trial and are kept
    for the others. If they exceed 256 MiB, a trial continues with new batches. All batches that are kept are copies,
    because a loader may write its next batch into the same memory.

    Args:
        stream: the batches of ``loader``, without end.
        loader: the training data.
        n_needed: number of batches that a trial needs at most.
        bad: copies the batches, and knows their indices.
        ranks: the ranks that make the trials together. All take the same number of probes.
    Attributes:
        probes: the probe batches, at least one.
        training: the batches for other runs, without end; in a small data set, no probe is among them.
    """

    def __init__(self, stream: Iterator[Any], loader: Iterable[Any], n_needed: int, bad: BadBatches, ranks: Ranks):
        self._kept: list[Any] = []
        self._copy = bad.copy
        self._bytes_left: float = KEPT_BYTES
        self._source: Iterator[Any] | None = stream
        n_batches, first = _count_batches(loader), next(stream)
        n_probes = _choose_n_probes(first, n_batches)
        is_small = n_batches < n_probes + n_needed
        chosen = ranks.all_gather("the number of batches", (n_probes, is_small))
        n_probes = min(n for n, _ in chosen)
        if not all(small for _, small in chosen):
            self.probes = [bad.copy(batch) for batch in chain((first,), islice(stream, n_probes - 1))]
            self.training = stream
            return
        one_pass = iter(bad.numbered(loader))
        self.probes = [bad.copy(batch) for batch in islice(one_pass, n_probes)]
        if all(map(self._keep, one_pass)):
            self._kept = self._kept or self.probes  # all data are in one batch
            self._source = None
        self.training = iter(self)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the training batches of a trial, without end."""
        while True:
            yield from list(self._kept)
            if self._source is not None:
                break
        for batch in self._source:
            self._keep(batch)
            yield batch

    def _keep(self, batch: Any) -> bool:
        """Keep ``batch`` for the next trial if it and all before it fit into the memory; return whether it was kept."""
        self._bytes_left -= count_bytes(batch)
        if self._bytes_left >= 0:
            self._kept.append(self._copy(batch))
        return self._bytes_left >= 0


def _count_batches(loader: Any) -> float:
    """Count the batches of ``loader``; inf if it has no length."""
    try:
        return len(loader)
    except TypeError:
        return math.inf


def _choose_n_probes(batch: Any, n_batches: float) -> int:
    wanted = min(max(math.ceil(N_PROBE_SAMPLES / max(count_samples(batch), 1)), MIN_PROBES), MAX_PROBES)
    return min(wanted, max(int(min(MAX_PROBE_FRAC * n_batches, MAX_PROBES)), 1))
