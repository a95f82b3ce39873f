"""LRCurve: the record of a range test."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .suggest import METHODS, Suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

StopReason = Literal["completed", "diverged", "non-finite"]

_FORMAT = "clrfast.LRCurve/1"


@dataclass(frozen=True, eq=False)
class LRCurve:
    """Loss over learning rate, as a range test measured it.

    Attributes:
        lr: float64 ``[n]``, ascending.
        loss: float64 ``[n]``, raw; ``loss[i]`` was measured after the update with ``lr[i]``, on the next batch.
        initial_loss: the loss before the first update.
        smoothing: weight of the past in ``smoothed``.
        stopped: "completed" (reached max_lr), "diverged" or "non-finite".
        stop_reason: one sentence that says where and why it stopped.
    """

    lr: NDArray[np.float64]
    loss: NDArray[np.float64]
    initial_loss: float
    smoothing: float
    stopped: StopReason
    stop_reason: str

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """float64 ``[n]``: the loss's moving average, corrected for its start, the initial loss included."""
        return smoothed(np.concatenate(([self.initial_loss], self.loss)), self.smoothing)[1:]

    def suggest(self, method: str = "minimum_tenth") -> Suggestion:
        """The learning rate that this curve suggests.

        Args:
            method: "minimum_tenth" or "steepest"; see the functions of these names.
        Raises:
            NoSuggestionError: the curve has no valid answer; the message says why.
        """
        if method not in METHODS:
            raise ValueError(f"method: got {method!r}; give one of {sorted(METHODS)}")
        return METHODS[method](self.lr, self.smoothed)

    def plot(self, ax: Axes | None = None, *, suggestion: Suggestion | None = None) -> Axes:
        """Draw loss over log lr; see ``clrfast.plot.lr_curve``."""
        from ..plot import lr_curve

        return lr_curve(self, ax, suggestion=suggestion)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the curve as JSON; numbers that are not finite become strings."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        Path(path).write_text(json.dumps({"format": _FORMAT, **{k: _plain(v) for k, v in data.items()}}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LRCurve:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            data = json.loads(Path(path).read_text())
            if data.pop("format") != _FORMAT:
                raise ValueError("unknown format")
            for name in ("lr", "loss"):
                data[name] = np.array([float(x) for x in data[name]])
            data["initial_loss"] = float(data["initial_loss"])
            return cls(**data)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"path: {os.fspath(path)} does not hold a saved LRCurve ({error})") from None


def smoothed(loss: ArrayLike, smoothing: float) -> NDArray[np.float64]:
    """Exponential moving average, corrected for its start.

        average = smoothing * average + (1 - smoothing) * loss,   weight likewise with 1,   smoothed = average / weight

    Args:
        loss: ``[n]``; a value that is not finite does not enter the average.
        smoothing: weight of the past, in [0, 1).
    Returns:
        float64 ``[n]``, NaN where the loss is not finite.

    >>> smoothed([1.0, 2.0], 0.5).round(4).tolist()
    [1.0, 1.6667]
    """
    average, weight, result = 0.0, 0.0, []
    for value in np.asarray(loss, dtype=np.float64):
        if math.isfinite(value):
            average = smoothing * average + (1 - smoothing) * value
            weight = smoothing * weight + (1 - smoothing)
            result.append(average / weight)
        else:
            result.append(math.nan)
    return np.array(result)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(x) for x in value.tolist()]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
