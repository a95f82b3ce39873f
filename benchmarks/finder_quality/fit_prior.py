"""Compute the coefficients of clrfast's prior from the best rates of AdamW.

python -m benchmarks.finder_quality.fit_prior

    log2 lr = a + b * log2(number of trained parameters) + c * (1 with normalisation layers, else 0)

The oracle has the best rates. The error is that of a fit to the tasks of all other modules. Tasks whose data are not
here are left out.
"""

from __future__ import annotations

import math

import numpy as np

from clrfast.finder._prior import is_normalized

from ..oracle import cached_oracles
from ..task_library.definition import TaskDefinition
from ..task_library.selection import select_tasks
from .optimizers import OPTIMIZERS
from .regret import RegretCurve
from .tasks import SPLITS

FITTED_SPLITS = ("development", "fine_tuning")

GOOD_REGRET = 0.02
"""Regret that lowers a rate's weight in the centre of the good rates by a factor of e."""


def main() -> None:
    definitions = select_tasks([*FITTED_SPLITS], SPLITS)
    oracles = cached_oracles(OPTIMIZERS["adamw"].grid.name)
    terms = np.array([find_terms(definition) for definition in definitions])
    centres = np.array([good_centre(RegretCurve(oracles[definition.name])) for definition in definitions])
    families = np.array([definition.make.__module__ for definition in definitions])
    errors = np.concatenate(
        [
            terms[families == family] @ fit(terms[families != family], centres[families != family])
            - centres[families == family]
            for family in np.unique(families)
        ]
    )
    a, b, c = fit(terms, centres)
    print(f"{len(centres)} tasks: a = {a:.2f}, b = {b:.2f}, c = {c:.2f}")
    print(f"error on tasks of other modules: {np.sqrt((errors**2).mean()):.2f} octaves")


def find_terms(definition: TaskDefinition) -> tuple[float, float, float]:
    """Return the terms of the regression: 1, log2 of the number of trained parameters, 1 with normalisation layers."""
    model = definition.make(0).model
    return 1.0, math.log2(sum(p.numel() for p in model.parameters() if p.requires_grad)), float(is_normalized(model))


def good_centre(curve: RegretCurve) -> float:
    """Return the mean of log2 lr over the grid, in which a rate has the weight ``exp(-regret / GOOD_REGRET)``."""
    return float(np.average(np.log2(curve.rates), weights=np.exp(-curve.regrets / GOOD_REGRET)))


def fit(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the coefficients of least squares."""
    return np.linalg.lstsq(terms, values, rcond=None)[0]


if __name__ == "__main__":
    main()
