"""LRCurve: the record of a range test."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .suggest import METHODS, MIN_POINTS, NoSuggestionError, Suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

StopReason = Literal["completed", "diverged", "non-finite"]

NOISE_FACTOR = 2.5
"""A fall of fewer median distances of the loss from its smoothed curve is no answer: 94 of 100 curves of 100 points
that are nothing but noise fall by less."""

_FORMAT = "clrfast.LRCurve/1"


@dataclass(frozen=True, eq=False)
class LRCurve:
    """Loss over learning rate, as a range test measured it.

    Attributes:
        lr: float64 ``[n]``, ascending.
        loss: float64 ``[n]``, raw; ``loss[i]`` was measured after the update with ``lr[i]``, on the next batch.
        initial_loss: the loss before the first update.
        stopped: "completed" (reached max_lr), "diverged" or "non-finite".
        stop_reason: one sentence that says where and why it stopped.
    """

    lr: NDArray[np.float64]
    loss: NDArray[np.float64]
    initial_loss: float
    stopped: StopReason
    stop_reason: str

    def __post_init__(self) -> None:
        if self.lr.ndim != 1 or self.lr.shape != self.loss.shape:
            raise ValueError(
                f"lr, loss: got shapes {self.lr.shape} and {self.loss.shape}; give two arrays of one length"
            )
        if self.stopped not in get_args(StopReason):
            raise ValueError(f"stopped: got {self.stopped!r}; give one of {get_args(StopReason)}")

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """float64 ``[n]``: the loss without its noise; see the function of this name."""
        return smoothed(self.loss)

    @property
    def divergence_lr(self) -> float | None:
        """The rate at which the smoothed loss, past its minimum, has climbed above all that it was before it; the
        last rate if the run was stopped before that; None if neither happened."""
        smooth = self.smoothed
        if np.isfinite(smooth).any():
            lowest = int(np.nanargmin(smooth))
            above = np.flatnonzero(~(smooth[lowest:] <= np.nanmax(smooth[: lowest + 1])))
            if len(above) and lowest > 0:
                return float(self.lr[lowest + above[0]])
        return None if self.stopped == "completed" else float(self.lr[-1])

    def suggest(self, method: str = "edge") -> Suggestion:
        """The learning rate that this curve suggests.

        Args:
            method: "edge", "steepest" or "minimum_tenth"; see the functions of these names.
        Raises:
            NoSuggestionError: the curve has no valid answer; the message says why.
        """
        if method not in METHODS:
            raise ValueError(f"method: got {method!r}; give one of {sorted(METHODS)}")
        smooth = self.smoothed
        lowest = int(np.nanargmin(smooth)) if np.isfinite(smooth).any() else 0
        if len(smooth) > 4 * MIN_POINTS:
            if lowest < MIN_POINTS:
                raise NoSuggestionError(f"the loss never falls: it is lowest at {self.lr[lowest]:.3g}; lower min_lr")
            fall = float(np.median(smooth[: (lowest + 1) // 2]) - smooth[lowest])
            noise = float(np.median(np.abs(self.loss - smooth)[:lowest]))
            if fall < NOISE_FACTOR * noise:
                raise NoSuggestionError(
                    f"the loss falls by {max(fall, 0):.3g} only, too little beside its usual distance from the "
                    f"smoothed curve ({noise:.3g}): raise max_lr, take larger batches or more steps"
                )
        return METHODS[method](self.lr, smooth)

    def plot(self, ax: Axes | None = None, *, suggestion: Suggestion | None = None) -> Axes:
        """Draw loss over log lr; see ``clrfast.plot.lr_curve``."""
        from ..plot import lr_curve

        return lr_curve(self, ax, suggestion=suggestion)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the curve as JSON; numbers that are not finite become strings."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        Path(path).write_text(
            json.dumps({"format": _FORMAT, **{k: _plain(v) for k, v in data.items()}}, indent=1) + "\n"
        )

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


def smoothed(loss: ArrayLike, width_frac: float = 0.02) -> NDArray[np.float64]:
    """Centred moving average with Gaussian weights.

        smoothed[i] = sum_j w[i, j] * loss[j] / sum_j w[i, j],   w[i, j] = exp(-((i - j) / width) ** 2 / 2)

    Looking to both sides it has no lag: a running average of the past shows the minimum of 100 steps at two to
    three times its rate.

    Args:
        loss: ``[n]``; a value that is not finite has no weight.
        width_frac: width of the weights as a fraction of n, at least half a point.
    Returns:
        float64 ``[n]``, NaN where the loss is not finite.

    >>> smoothed([1.0, 1.0, 4.0, 1.0, 1.0]).round(2).tolist()
    [1.0, 1.32, 3.36, 1.32, 1.0]
    """
    loss = np.asarray(loss, dtype=np.float64)
    finite = np.isfinite(loss)
    index = np.arange(len(loss))
    width = max(width_frac * len(loss), 0.5)
    weights = np.exp(-(((index[finite, None] - index[finite]) / width) ** 2) / 2)
    result = np.full(loss.shape, math.nan)
    result[finite] = weights @ loss[finite] / weights.sum(axis=1)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(x) for x in value.tolist()]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
