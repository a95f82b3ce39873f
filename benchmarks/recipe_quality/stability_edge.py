"""How often another seed diverges at a good pair of rate and weight decay, by the distance to a rate that diverged.

python -m benchmarks.recipe_quality.stability_edge

Nothing is trained: the oracle holds trainings of every task with two seeds, at two rates per decade. The best pairs of
each seed count, because only such pairs are chosen. They are grouped by the lowest rate above theirs at which that seed
failed with any weight decay. The share of pairs at which the other seed failed is compared with the ``failure_chance``
that the search of pairs assumes. A training fails if it ends above the middle between no training and the best pair.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clrfast.recipe._pair_sampler import failure_chance

from ..oracle import cached_oracles
from .reference import SGD_GRID

N_BEST = 4
"""Best pairs of each task and seed that count."""

DISTANCES = (1, 2)
"""Distances from a pair to the failure, in steps of the grid of rates."""


def other_seed_failed(losses: np.ndarray, untrained: np.ndarray, distance: int) -> Iterator[bool]:
    """Yield whether the other seed failed, for the best pairs of each seed at ``distance`` below a failure.

    Args:
        losses: ``[2, rates, decays]``, inf where not finite.
        untrained: ``[2]``.
        distance: >= 1.
    """
    failed = ~(losses <= (untrained[:, None, None] + losses.min(axis=(1, 2), keepdims=True)) / 2)
    for seed, loss in enumerate(losses):
        for at in np.argsort(loss, axis=None, kind="stable")[:N_BEST]:
            rate, decay = np.unravel_index(at, loss.shape)
            above = np.flatnonzero(failed[seed, rate + 1 :].any(axis=1))
            if len(above) and above[0] + 1 == distance:
                yield bool(failed[1 - seed, rate, decay])


def main() -> None:
    oracles = cached_oracles(SGD_GRID.name)
    print(f"{'ratio':>6}  {'failed':>7}  {'assumed':>7}  {'of':>5}")
    for distance in DISTANCES:
        failed = [
            other
            for oracle in oracles.values()
            for other in other_seed_failed(np.array(oracle.losses), np.array(oracle.untrained), distance)
        ]
        ratio = 10 ** (-distance / SGD_GRID.rates_per_decade)
        print(f"{ratio:>6.2f}  {np.mean(failed):>7.4f}  {failure_chance(np.array(ratio)):>7.4f}  {len(failed):>5}")


if __name__ == "__main__":
    main()
