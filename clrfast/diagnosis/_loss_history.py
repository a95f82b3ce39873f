"""The losses of one training run. Pure NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .._checks import is_whole
from ..finder._smoothing import Floats


@dataclass(frozen=True, eq=False)
class History:
    """The losses of one training run and its settings, as far as they are known.

    Args:
        train_loss: ``[n]``, n >= 1: the training loss of each step, before its update. A step may also be another unit
            of time, such as an epoch.
        val_loss: ``[m]``, m >= 1: the loss on held-out data.
        val_steps: whole numbers ``[m]``, ascending, in [0, n]: the number of updates before each value of
            ``val_loss``. None spaces them evenly, with the last one after step n.
        lr: ``[n]`` or one number, >= 0: the learning rate of each step.
        weight_decay: >= 0.
        total_steps: length of the whole training, >= n, if these losses are only its beginning.
    Raises:
        ValueError: a shape or a value is wrong.
    """

    train_loss: ArrayLike
    val_loss: ArrayLike
    val_steps: ArrayLike | None = None
    lr: ArrayLike | float | None = None
    weight_decay: float | None = None
    total_steps: int | None = None

    def __post_init__(self) -> None:
        train, val = (self._vector(name) for name in ("train_loss", "val_loss"))
        n, m = len(train), len(val)
        steps = np.arange(1, m + 1) * n // m if self.val_steps is None else np.asarray(self.val_steps)
        if steps.shape != (m,) or (np.diff(steps) <= 0).any() or steps[0] < 0 or steps[-1] > n or (steps % 1).any():
            raise ValueError(
                f"val_steps: got {self.val_steps} for {m} values of val_loss and {n} of train_loss; give the number of "
                f"updates before each, ascending, from 0 to {n}"
            )
        if self.lr is not None:
            lr = np.asarray(self.lr, dtype=np.float64)
            if lr.shape not in ((), (n,)) or not ((lr >= 0) & np.isfinite(lr)).all():
                raise ValueError(f"lr: got {self.lr}; give one rate, or one for each of the {n} steps, >= 0 and finite")
            object.__setattr__(self, "lr", np.broadcast_to(lr, (n,)))
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: got {self.weight_decay!r}; give a finite number, at least 0")
        if self.total_steps is not None and not (is_whole(self.total_steps) and self.total_steps >= n):
            raise ValueError(f"total_steps: got {self.total_steps!r}; give a whole number, at least the {n} steps made")
        object.__setattr__(self, "val_steps", steps.astype(np.int64))

    def __repr__(self) -> str:
        train, val = np.asarray(self.train_loss), np.asarray(self.val_loss)
        losses = f"train_loss {train[0]:.3g} to {train[-1]:.3g}, val_loss {val[0]:.3g} to {val[-1]:.3g}"
        return f"History({len(train)} steps, validations: {len(val)}, {losses})"

    def _vector(self, name: str) -> Floats:
        values = np.asarray(getattr(self, name), dtype=np.float64)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"{name}: got shape {values.shape}; give one loss per step, at least one")
        object.__setattr__(self, name, values)
        return values
