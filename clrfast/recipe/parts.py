"""What the parts of a short recipe measured, and their JSON, in which an interrupted search is found again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..finder import LRCurve
from .batch_size import BatchSizes, StepCost
from .history import History
from .momentum import Momenta
from .runs import Runs, ShortRuns
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

    @property
    def curves(self) -> tuple[LRCurve, ...]:
        """The range tests, in order."""
        curves = self.rate, self.rate_after_batch_size, self.rate_after_weight_decay
        return tuple(curve for curve in curves if curve is not None)

    def write(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write all as JSON, with ``more`` for its readers; whoever interrupts finds the old file or the new one."""
        data = {"format": _FORMAT, **more, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}
        new = Path(f"{os.fspath(path)}.new")
        new.write_text(json.dumps(data, indent=1) + "\n")
        os.replace(new, path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Parts:
        """Read what ``write`` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            data = json.loads(Path(path).read_text())
            if data.pop("format") != _FORMAT:
                raise ValueError("unknown format")
            of: dict[str, Any] = {f.name: data[f.name] for f in fields(cls)}
            for name, read in _READ.items():
                of[name] = None if of[name] is None else read(of[name])
            return cls(**of)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(
                f"path: {os.fspath(path)} does not hold a saved recipe ({type(error).__name__}: {error}); give another "
                "path, or delete the file to begin anew"
            ) from None


def _plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts; numbers that are not finite become strings."""
    if isinstance(value, LRCurve):
        return value._plain()
    if isinstance(value, ShortRuns):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, BatchSizes):
        return asdict(value)
    if isinstance(value, History):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, tuple | list):
        return [_plain(x) for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _history(data: dict[str, Any]) -> History:
    return History(**data | {name: [float(x) for x in data[name]] for name in ("train_loss", "val_loss")})


def _runs(data: list[list[dict[str, Any]]]) -> tuple[Runs, ...]:
    return tuple(tuple(_history(history) for history in runs) for runs in data)


def _weight_decays(data: dict[str, Any]) -> WeightDecays:
    return WeightDecays(np.array(data["values"]), _runs(data["runs"]), data["max_lr"])


def _momenta(data: dict[str, Any]) -> Momenta:
    cyclical = tuple(_history(history) for history in data["cyclical"])
    return Momenta(np.array(data["values"]), _runs(data["runs"]), data["max_lr"], cyclical)


def _batch_sizes(data: dict[str, Any]) -> BatchSizes:
    return BatchSizes(**data | {"costs": tuple(StepCost(**cost) for cost in data["costs"])})


_READ: dict[str, Callable[[Any], Any]] = {
    "rate": LRCurve._of_plain,
    "batch_sizes": _batch_sizes,
    "rate_after_batch_size": LRCurve._of_plain,
    "weight_decays": _weight_decays,
    "rate_after_weight_decay": LRCurve._of_plain,
    "momenta": _momenta,
}
