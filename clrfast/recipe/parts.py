"""What the parts of a short recipe measured, and their JSON, in which an interrupted search is found again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .. import saving
from ..finder import LRCurve
from .batch_size import BatchSizes, StepCost
from .history import History
from .momentum import Momenta
from .pairs import Pairs
from .runs import Runs
from .weight_decay import WeightDecays

_FORMAT = "clrfast.Recipe/1"


@dataclass(frozen=True, eq=False)
class Parts:
    """What was measured, in order; None for what was not, or not yet.

    Attributes:
        budget: updates that the search may make.
        planned_steps: of the training that it is for.
        steps: updates that it has made, as the budget counts them.
        model: tells one model from another: its class, its parameter tensors and their elements.
        batch_size: of the loader that was given; None where it tells none.
        rate: the first range test.
        batch_sizes: what fits, and how fast it is.
        rate_after_batch_size, rate_after_weight_decay: the range tests made anew.
        weight_decays, momenta: the short runs.
        pairs: the long runs with rates and weight decays, which replace all after the batch size.
        pairs_ended: whether all of those were made.
        seconds_per_update: of the short runs, with their looks at the validation data, where the budget was a time.
    """

    budget: int
    planned_steps: int
    steps: int
    model: str
    batch_size: int | None
    rate: LRCurve | None = None
    batch_sizes: BatchSizes | None = None
    rate_after_batch_size: LRCurve | None = None
    weight_decays: WeightDecays | None = None
    rate_after_weight_decay: LRCurve | None = None
    momenta: Momenta | None = None
    pairs: Pairs | None = None
    pairs_ended: bool = False
    seconds_per_update: float | None = None

    @property
    def curves(self) -> tuple[LRCurve, ...]:
        """The range tests, in order."""
        curves = self.rate, self.rate_after_batch_size, self.rate_after_weight_decay
        return tuple(curve for curve in curves if curve is not None)

    def write(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write all as JSON, with ``more`` for its readers; whoever interrupts finds the old file or the new one."""
        saving.write(path, _FORMAT, {**more, **saving.plain(self)})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Parts:
        """Read what ``write`` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        remedy = "give another path, or delete the file to begin anew"
        return saving.read(path, _FORMAT, cls._of_plain, "recipe", remedy)

    @classmethod
    def _of_plain(cls, data: dict[str, Any]) -> Parts:
        of: dict[str, Any] = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        for name, made in _MADE.items():
            of[name] = None if of.get(name) is None else made(of[name])
        return cls(**of)


def _history(data: dict[str, Any]) -> History:
    return History(**data | {name: [float(x) for x in data[name]] for name in ("train_loss", "val_loss")})


def _runs(data: list[list[dict[str, Any]]]) -> tuple[Runs, ...]:
    return tuple(tuple(_history(history) for history in runs) for runs in data)


def _weight_decays(data: dict[str, Any]) -> WeightDecays:
    return WeightDecays(np.array(data["values"]), _runs(data["runs"]), data["max_lr"])


def _momenta(data: dict[str, Any]) -> Momenta:
    cyclical = tuple(_history(history) for history in data["cyclical"])
    return Momenta(np.array(data["values"]), _runs(data["runs"]), data["max_lr"], cyclical)


def _pairs(data: dict[str, Any]) -> Pairs:
    ((*runs,),) = _runs([data["runs"]])
    return Pairs(np.array(data["max_lr"]), np.array(data["weight_decay"]), data["steps"], tuple(runs))


def _batch_sizes(data: dict[str, Any]) -> BatchSizes:
    return BatchSizes(**data | {"costs": tuple(StepCost(**cost) for cost in data["costs"])})


_MADE: dict[str, Callable[[Any], Any]] = {
    "rate": LRCurve.of_plain,
    "batch_sizes": _batch_sizes,
    "rate_after_batch_size": LRCurve.of_plain,
    "weight_decays": _weight_decays,
    "rate_after_weight_decay": LRCurve.of_plain,
    "momenta": _momenta,
    "pairs": _pairs,
}
