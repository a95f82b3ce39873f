"""How often another seed fails at a good pair of rate and weight decay, by how far above it a run failed.

python -m benchmarks.recipe_quality.stability_edge

It trains nothing: the oracle of recipe.py holds trainings of every task with two seeds on a grid of half decades. Of
each seed the best pairs are taken, for only such a pair is chosen, and told apart by the lowest rate above theirs at
which that seed failed with any decay; the share of them at which the other seed failed stands beside the (ratio)**4 of
``recipe.Pairs``. A training has failed that ended above the middle between no training and the best pair.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..result_files import RESULTS, read_cache
from .comparison import PER_DECADE

N_BEST = 4
"""Pairs of each task and seed."""

APART = (1, 2)
"""Rates between the pair and the failure."""


def other_failed(losses: np.ndarray, untrained: np.ndarray, apart: int) -> Iterator[bool]:
    """For each of the best pairs of each seed that counts: whether the other seed failed.

    Args:
        losses: ``[2, rates, decays]``, inf where not finite.
        untrained: ``[2]``.
        apart: >= 1.
    """
    failed = ~(losses <= (untrained[:, None, None] + losses.min(axis=(1, 2), keepdims=True)) / 2)
    for seed, loss in enumerate(losses):
        for at in np.argsort(loss, axis=None, kind="stable")[:N_BEST]:
            rate, decay = np.unravel_index(at, loss.shape)
            above = np.flatnonzero(failed[seed, rate + 1 :].any(axis=1))
            if len(above) and above[0] + 1 == apart:
                yield bool(failed[1 - seed, rate, decay])


def main() -> None:
    kept = read_cache(RESULTS / "recipe_quality_oracle.json")
    print(f"{'ratio':>6}  {'failed':>7}  {'counted':>7}  {'of':>5}")
    for apart in APART:
        failed = [
            other
            for entry in kept.values()
            for other in other_failed(np.array(entry["losses"]), np.array(entry["untrained"]), apart)
        ]
        ratio = 10 ** (-apart / PER_DECADE)
        print(f"{ratio:>6.2f}  {np.mean(failed):>7.4f}  {ratio**4:>7.4f}  {len(failed):>5}")


if __name__ == "__main__":
    main()
