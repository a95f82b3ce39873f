"""Searches of rate and weight decay as Optuna and a plain grid make them.

Both settings are log-uniform over the ranges of the full grid. Every trial is a training of the planned length, and the
answer is the trial with the lowest validation loss at its end. TPE and the Gaussian process would by default draw their
first ten trials at random, which is more than the budget holds: here a third of the trials is random, at least three.

pip install optuna scipy
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..peer_packages import quiet
from .searched_task import Answer, SearchedTask

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

MIN_RANDOM_TRIALS = 3

REDUCTION_FACTOR = 3
"""A third of the trials at a ninth of the training continues to a third of it, and a third of those to the end."""


def random_search(searched: SearchedTask) -> Answer:
    """Search with Optuna's ``RandomSampler``."""
    from optuna.samplers import RandomSampler

    return _optuna_search(searched, lambda: RandomSampler(seed=searched.sampler_seed))


def tpe(searched: SearchedTask) -> Answer:
    """Search with Optuna's ``TPESampler``, which models rate and weight decay together."""
    from optuna.samplers import TPESampler

    n_random = random_trials(searched)
    return _optuna_search(
        searched, lambda: TPESampler(n_startup_trials=n_random, multivariate=True, seed=searched.sampler_seed)
    )


def gaussian_process(searched: SearchedTask) -> Answer:
    """Search with Optuna's ``GPSampler``."""
    from optuna.samplers import GPSampler

    n_random = random_trials(searched)
    return _optuna_search(searched, lambda: GPSampler(n_startup_trials=n_random, seed=searched.sampler_seed))


def asha(searched: SearchedTask) -> Answer:
    """Search at random, and end bad trials early by asynchronous successive halving (Li et al. 2018)."""
    from optuna.samplers import RandomSampler

    return _optuna_search(searched, lambda: RandomSampler(seed=searched.sampler_seed), _halving)


def asha_tpe(searched: SearchedTask) -> Answer:
    """Search with ``TPESampler``, and end bad trials early. It makes more than ten trials, so the default applies."""
    from optuna.samplers import TPESampler

    return _optuna_search(searched, lambda: TPESampler(multivariate=True, seed=searched.sampler_seed), _halving)


def coarse_grid(searched: SearchedTask) -> Answer:
    """Train at every cell of a grid that fits into the budget."""
    n_rates, n_decays = grid_shape(searched.n_trainings)
    rates, decays = centres(*searched.lr_range, n_rates), centres(*searched.weight_decay_range, n_decays)
    losses = {cell: searched.train(*cell) for cell in itertools.product(rates, decays)}
    return searched.answer(*min(losses, key=losses.__getitem__))


def grid_shape(n_trainings: int) -> tuple[int, int]:
    """Return the numbers of rates and of weight decays, with at least as many rates.

        n_decays = floor(sqrt(n_trainings)),  n_rates = floor(n_trainings / n_decays)

    >>> grid_shape(8), grid_shape(13)
    ((4, 2), (4, 3))
    """
    n_decays = math.isqrt(n_trainings)
    return n_trainings // n_decays, n_decays


def centres(low: float, high: float, n: int) -> list[float]:
    """Return the geometric centres of ``n`` equal parts of the logarithmic range from ``low`` to ``high``.

    >>> [round(x, 3) for x in centres(0.01, 1.0, 2)]
    [0.032, 0.316]
    """
    places = (np.arange(n) + 0.5) / n
    return [float(x) for x in low * (high / low) ** places]


def random_trials(searched: SearchedTask) -> int:
    """Return how many trials of a model-based search are random."""
    return max(MIN_RANDOM_TRIALS, searched.n_trainings // 3)


def _halving() -> BasePruner:
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION_FACTOR)


def _optuna_search(
    searched: SearchedTask, make_sampler: Callable[[], BaseSampler], make_pruner: Callable[[], BasePruner] | None = None
) -> Answer:
    """Make trials while a whole training fits into the budget, and return the best one that was not ended early."""
    import optuna

    with quiet():
        study = optuna.create_study(
            sampler=make_sampler(), pruner=optuna.pruners.NopPruner() if make_pruner is None else make_pruner()
        )
        while searched.can_train():
            trial = study.ask()
            lr = trial.suggest_float("lr", *searched.lr_range, log=True)
            weight_decay = trial.suggest_float("weight_decay", *searched.weight_decay_range, log=True)

            def report(ninths: int, loss: float, trial: optuna.Trial = trial) -> None:
                trial.report(loss, ninths)
                if trial.should_prune():
                    raise optuna.TrialPruned

            try:
                loss = searched.train(lr, weight_decay, None if make_pruner is None else report)
            except optuna.TrialPruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, loss)
    return searched.answer(study.best_params["lr"], study.best_params["weight_decay"])
