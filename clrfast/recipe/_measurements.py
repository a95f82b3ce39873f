"""What the parts of a short recipe measured, and their JSON, in which an interrupted search is found again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, cast, get_args

import numpy as np

from .. import _saving as saving
from .._checks import parse_float, short_repr
from .._fields import Fields
from ..finder import LRCurve, NoSuggestionError
from ._batch_size import BatchSizes, LimitedBy, StepCost
from ._history import History
from ._momentum import Momenta
from ._pair_search import Pairs
from ._runner import LOOKS
from ._short_runs import Begun, Job, Runs
from ._weight_decay import WeightDecays

_FORMAT = "clrfast.Recipe/1"


@dataclass(frozen=True, eq=False)
class Parts:
    """What was measured, in order; None for what was not, or not yet.

    Attributes:
        budget: updates that the search may make.
        planned_steps: of the training that it is for.
        steps: updates that it has made, as the budget counts them, those that a kill has lost included.
        model: tells one model from another: its class, its parameter tensors and their elements.
        batch_size: of the loader that was given; None where it tells none.
        rate: the first range test.
        batch_sizes: what fits, and how fast it is.
        rate_after_batch_size, rate_after_weight_decay: the range tests made anew.
        weight_decays, momenta: the short runs.
        pairs: the long runs with rates and weight decays, which replace all after the batch size.
        pairs_ended: whether all of those were made.
        seconds_per_update: of the short runs, with their looks at the validation data, where the budget was a time.
        begun: the runs with weight decays, or after these with momenta, that are not all made yet.
        under_way: in a file, the updates that began when it was written: those of a kill that came before the next.
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
    begun: Begun | None = None
    under_way: int = 0

    @property
    def curves(self) -> tuple[LRCurve, ...]:
        """The range tests, in order."""
        curves = self.rate, self.rate_after_batch_size, self.rate_after_weight_decay
        return tuple(curve for curve in curves if curve is not None)

    def write(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write all as JSON, with ``more`` for its readers; whoever interrupts finds the old file or the new one."""
        saving.write_json(path, _FORMAT, {**more, **saving.to_plain(self)})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Parts:
        """Read what ``write`` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        remedy = "give another path, or delete the file to begin anew"
        return saving.read_json(path, _FORMAT, cls._of_plain, "recipe", remedy)

    @classmethod
    def _of_plain(cls, data: Fields) -> Parts:
        required = ("budget", "planned_steps", "steps", "model", "rate")
        held = {name: of(data, name) for name, of in _READ.items() if name in required or data.has(name)}
        return cls(**{"batch_size": None} | held)


def _rate(data: Fields, name: str) -> LRCurve:
    """The first range test, which is kept only with an answer."""
    curve = _curve(data, name)
    try:
        curve.suggest()
    except NoSuggestionError as error:
        raise ValueError(f"{data.path(name)}: this curve has no answer: {error}") from None
    return curve


def _curve(data: Fields, name: str) -> LRCurve:
    return LRCurve.from_plain(data.nested(name))


def _history(data: Fields) -> History:
    """A run by this package, which looks at the validation data before its first update."""
    data.require_known(*(f.name for f in fields(History)))
    train_loss, val_loss, val_steps = map(data.numbers, ("train_loss", "val_loss", "val_steps"))
    lr = data.numbers("lr") if data.has("lr") else None
    weight_decay = data.finite("weight_decay", 0.0) if data.has("weight_decay") else None
    with data.prefix_errors():
        history = History(train_loss, val_loss, val_steps, lr, weight_decay)
    if val_steps[0] != 0:
        raise ValueError(
            f"{data.path('val_steps')}: got {short_repr(val_steps.tolist())}; give steps that begin with 0"
        )
    return history


def _repeats(data: Fields, n_values: int) -> tuple[Runs, ...]:
    """The runs of each of so many values, as many of each."""
    runs = tuple(tuple(map(_history, row)) for row in data.rows_of_dicts("runs"))
    if len(runs) != n_values or len({len(row) for row in runs}) != 1 or len(runs[0]) < 2:
        raise ValueError(
            f"{data.path('runs')}: got {[len(row) for row in runs]} runs for {n_values} values; give each as many, at "
            "least 2"
        )
    return runs


def _weight_decays(data: Fields, name: str) -> WeightDecays:
    of = data.nested(name)
    of.require_known("values", "runs", "max_lr")
    values = of.ascending("values", 0.0)
    return WeightDecays(values, _repeats(of, len(values)), of.positive("max_lr"))


def _momenta(data: Fields, name: str) -> Momenta:
    of = data.nested(name)
    of.require_known("values", "runs", "max_lr", "cyclical")
    values, cyclical = of.ascending("values", 0.0), tuple(map(_history, of.dicts("cyclical")))
    return Momenta(values, _repeats(of, len(values)), of.positive("max_lr"), cyclical)


def _pairs(data: Fields, name: str) -> Pairs:
    of = data.nested(name)
    of.require_known("max_lr", "weight_decay", "steps", "runs")
    rates, decays = (of.finite_numbers(entry, np.finfo(float).tiny) for entry in ("max_lr", "weight_decay"))
    runs = tuple(map(_history, of.dicts("runs")))
    if not len(rates) == len(decays) == len(runs) > 0:
        raise ValueError(f"{of.path('runs')}: got {len(rates)} rates, {len(decays)} decays and {len(runs)} runs")
    return Pairs(rates, decays, of.integer("steps", 1), runs)


def _begun(data: Fields, name: str) -> Begun:
    of = data.nested(name)
    of.require_known(*(f.name for f in fields(Begun)))
    jobs, runs = of.values("jobs"), tuple(map(_history, of.dicts("runs")))
    if len(jobs) != len(runs):
        raise ValueError(f"{of.path('jobs')}: got {len(jobs)} for {len(runs)} runs; give one for each")
    return Begun(
        tuple(of.finite_numbers("values", 0.0).tolist()),
        of.integer("steps", LOOKS),
        of.positive("max_lr"),
        of.boolean("refine"),
        tuple(_job(f"{of.path('jobs')}[{i}]", job) for i, job in enumerate(jobs)),
        runs,
    )


def _job(path: str, value: Any) -> Job:
    try:
        momentum, weight_decay, repeat = value
        if isinstance(momentum, list):
            upper, lower = (parse_float(path, bound) for bound in momentum)
            return (upper, lower), parse_float(path, weight_decay), int(parse_float(path, repeat))
        return parse_float(path, momentum), parse_float(path, weight_decay), int(parse_float(path, repeat))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{path}: got {short_repr(value)}; give momentum, weight decay and number of the repeat"
        ) from None


def _batch_sizes(data: Fields, name: str) -> BatchSizes:
    of = data.nested(name)
    of.require_known(*(f.name for f in fields(BatchSizes)))
    limited_by = of.text("limited_by")
    if limited_by not in get_args(LimitedBy):
        raise ValueError(f"{of.path('limited_by')}: got {short_repr(limited_by)}; give one of {get_args(LimitedBy)}")
    return BatchSizes(
        of.integer("largest", 1),
        of.integer("fastest", 1),
        cast(LimitedBy, limited_by),
        of.text("reason"),
        tuple(map(_step_cost, of.dicts("costs"))),
    )


def _step_cost(data: Fields) -> StepCost:
    data.require_known(*(f.name for f in fields(StepCost)))
    whole = (data.integer(name, 0) for name in ("peak_bytes", "kept_bytes"))
    return StepCost(data.integer("batch_size", 1), data.positive("seconds"), *whole)


def _count(least: int) -> Callable[[Fields, str], int]:
    return lambda data, name: data.integer(name, least)


_READ: dict[str, Callable[[Fields, str], Any]] = {
    "budget": _count(0),
    "planned_steps": _count(1),
    "steps": _count(0),
    "model": Fields.text,
    "batch_size": _count(1),
    "rate": _rate,
    "batch_sizes": _batch_sizes,
    "rate_after_batch_size": _curve,
    "weight_decays": _weight_decays,
    "rate_after_weight_decay": _curve,
    "momenta": _momenta,
    "pairs": _pairs,
    "pairs_ended": Fields.boolean,
    "seconds_per_update": Fields.positive,
    "begun": _begun,
    "under_way": _count(0),
}
"""How each field of ``Parts`` is read; what else a file has is for its readers."""
