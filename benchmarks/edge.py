"""How often other seeds fail at a rate that one seed bore, by how far above it that seed failed.

python -m benchmarks.edge

It trains nothing: the oracle of regret.py holds trainings of every task with several seeds at 8 rates per decade. Of
each seed the rates are taken that it bore, and that were better than half a decade lower, for only such a rate is
chosen; the share of the other seeds that failed there stands beside the (ratio)**2 / 2 that ``recipe.Pairs`` counts on.
A training has failed that ended above the middle between no training and the best rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from . import measure

PER_DECADE = 8
"""Rates in regret_oracle.json."""

APART = (1, 2, 3, 4, 6, 8, 12)
"""Rates between the one borne and the one at which the seed failed."""


def others_failed(losses: np.ndarray, untrained: np.ndarray, apart: int) -> Iterator[bool]:
    """For each rate of each seed that counts: whether each of the other seeds failed.

    Args:
        losses: ``[seeds, rates]``, inf where not finite.
        untrained: ``[seeds]``.
        apart: >= 1.
    """
    failed = ~(losses <= (untrained[:, None] + losses.min(axis=1, keepdims=True)) / 2)
    half = PER_DECADE // 2
    for seed, loss in enumerate(losses):
        for at in range(half, len(loss) - apart):
            if not failed[seed, at] and failed[seed, at + apart] and loss[at] < loss[at - half]:
                yield from np.delete(failed[:, at], seed).tolist()


def main() -> None:
    kept = measure.kept(measure.RESULTS / "regret_oracle.json")
    print(f"{'ratio':>6}  {'failed':>7}  {'counted':>7}  {'of':>5}")
    for apart in APART:
        failed: list[bool] = []
        for entry in kept.values():
            losses = np.array(entry["losses"], dtype=np.float64)
            failed += others_failed(np.where(np.isnan(losses), math.inf, losses), np.array(entry["untrained"]), apart)
        ratio = 10 ** (-apart / PER_DECADE)
        print(f"{ratio:>6.2f}  {np.mean(failed):>7.3f}  {ratio**2 / 2:>7.3f}  {len(failed):>5}")


if __name__ == "__main__":
    main()
