"""``PairSampler``: places pairs of a rate and a weight decay by ``next_pair``, as a sampler of Optuna."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from ._optimizers import OPTIMIZERS
from ._pair_sampler import DECAYS, MAX_RATE_EXPONENT, MIN_RATE_EXPONENT, RATE_RATIO, PairPoint
from ._plan import first_rates, next_point
from ._study import Study

if TYPE_CHECKING:
    from ._storage import Claim, TrialStore

MARGIN = 1.01
"""Factor by which the ranges of the parameters exceed the lattice, so that rounding does not put its ends outside."""


class NoPairError(Exception):
    """No improvement is expected from any further pair."""


class PairStudy(optuna.Study):
    """A study that shows its trials with pairs alone: range tests have no parameters, which would confuse samplers."""

    def get_trials(
        self, deepcopy: bool = True, states: Container[optuna.trial.TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in super().get_trials(deepcopy, states) if _is_pair(trial)]

    def _get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:  # what the samplers of Optuna call
        return [trial for trial in super()._get_trials(*args, **options) if _is_pair(trial)]


def _is_pair(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get("stage") == "pair")


class PairSampler(BaseSampler):
    """Places pairs by a Gaussian process for each optimizer; see ``next_pair``.

    Args:
        store: the trials of the search.
    """

    def __init__(self, store: TrialStore):
        self._store = store

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        found, _ = self._store.read()
        space: dict[str, BaseDistribution] = dict(_optimizer_distribution(found))
        for optimizer in found.settings.optimizers:
            space |= _ranges(found, optimizer)
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the pair of the next trial.

        Raises:
            NoPairError: see there.
        """
        found, running = self._store.read()
        point = next_point(found, running)
        if point is None:
            raise NoPairError
        values = (point.max_lr, point.weight_decay)
        return {"optimizer": point.optimizer} | dict(zip(_ranges(found, point.optimizer), values, strict=True))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"{param_name}: the search has no such parameter; give find_recipe a sampler of Optuna's")


def suggest_pair(claim: Claim, optuna_study: optuna.Study, study: Study) -> PairPoint:
    """Return the pair that the sampler of a study suggests for a claimed trial.

    Raises:
        NoPairError: of a ``PairSampler``.
    """
    pairs = PairStudy(optuna_study.study_name, optuna_study._storage, optuna_study.sampler)
    trial = optuna.trial.Trial(pairs, claim.trial_id)
    names = study.settings.optimizers
    for name, distribution in _optimizer_distribution(study).items():
        optimizer = trial.suggest_categorical(name, distribution.choices)
    if len(names) == 1:
        (optimizer,) = names
    ranges = _ranges(study, str(optimizer)).items()
    max_lr, weight_decay = (trial.suggest_float(name, each.low, each.high, log=True) for name, each in ranges)
    return PairPoint(str(optimizer), max_lr, weight_decay)


def _optimizer_distribution(study: Study) -> dict[str, CategoricalDistribution]:
    names = study.settings.optimizers
    return {"optimizer": CategoricalDistribution(names)} if len(names) > 1 else {}


def _ranges(study: Study, optimizer: str) -> dict[str, FloatDistribution]:
    """Return the distributions of the rate and of the weight decay, by the names of the parameters."""
    suffix = f" of {optimizer}" if len(study.settings.optimizers) > 1 else ""
    first = first_rates(study)[optimizer]
    rates = (first * RATE_RATIO**exponent for exponent in (MIN_RATE_EXPONENT, MAX_RATE_EXPONENT))
    decays = (OPTIMIZERS[optimizer].scaled(decay) for decay in (DECAYS[0], DECAYS[-1]))
    return {
        f"{name}{suffix}": FloatDistribution(low / MARGIN, high * MARGIN, log=True)
        for name, (low, high) in (("learning rate", rates), ("weight decay", decays))
    }
