"""``Study``: all measurements of a search for a recipe, and their JSON form, from which a search can continue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .. import _saving as saving
from .._fields import Fields
from ..finder import LRCurve
from ._batch_size import BatchSizes
from ._momentum import MomentumTrials
from ._optimizers import OptimizerName
from ._pair_trials import PairTrials
from ._study_fields import READERS
from ._trials import PendingTrials
from ._weight_decay import WeightDecayTrials

_FORMAT = "clrfast.Recipe/1"

_REQUIRED = ("budget", "planned_steps", "steps", "model", "range_test")
"""Fields that a file must hold."""


@dataclass(frozen=True, eq=False)
class Study:
    """All measurements of a search, in their order; None for those that were not made, or not yet.

    Attributes:
        budget: limit on the steps of the search.
        planned_steps: length of the training that the recipe is for.
        steps: steps of the search so far, including those that a kill has lost.
        model: description of the model that distinguishes it from others: its class, parameter tensors and elements.
        batch_size: batch size of the task's loader; None if the loader has none.
        optimizer: name of the optimizer that the recipe is for.
        range_test: the first range test.
        batch_sizes: the batch sizes that fit.
        range_test_after_batch_size, range_test_after_weight_decay: the later range tests.
        weight_decay_trials, momentum_trials: the short trials.
        pair_trials: the long trials with rates and weight decays, in place of everything after the batch size.
        pair_trials_complete: whether no more of those will run.
        seconds_per_step: time of a step of the short trials, including validation, if the budget was a time.
        pending_trials: trials with weight decays, or after those with momenta, some of which have not finished.
        started_steps: in a file, the steps of the trials that ran when it was written. A kill loses them.
    """

    budget: int
    planned_steps: int
    steps: int
    model: str
    batch_size: int | None
    optimizer: OptimizerName = "sgd"
    range_test: LRCurve | None = None
    batch_sizes: BatchSizes | None = None
    range_test_after_batch_size: LRCurve | None = None
    weight_decay_trials: WeightDecayTrials | None = None
    range_test_after_weight_decay: LRCurve | None = None
    momentum_trials: MomentumTrials | None = None
    pair_trials: PairTrials | None = None
    pair_trials_complete: bool = False
    seconds_per_step: float | None = None
    pending_trials: PendingTrials | None = None
    started_steps: int = 0

    @property
    def remaining_steps(self) -> int:
        """Steps that are left of the budget."""
        return self.budget - self.steps

    @property
    def range_tests(self) -> tuple[LRCurve, ...]:
        """The range tests, in their order."""
        curves = self.range_test, self.range_test_after_batch_size, self.range_test_after_weight_decay
        return tuple(curve for curve in curves if curve is not None)

    def write(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write the study as JSON, with ``more`` entries for human readers. An interruption leaves the old file."""
        saving.write_json(path, _FORMAT, {**more, **saving.to_plain(self)})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Study:
        """Read a file that ``write`` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        remedy = "give another path, or delete the file to begin anew"
        return saving.read_json(path, _FORMAT, cls._from_fields, "recipe", remedy)

    @classmethod
    def _from_fields(cls, data: Fields) -> Study:
        known = {name: read(data, name) for name, read in READERS.items() if name in _REQUIRED or data.has(name)}
        return cls(**{"batch_size": None} | known)
