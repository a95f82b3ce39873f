"""Schedule: one curve each for lr, momentum and weight decay, for one or several parameter groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .curves import Constant, Curve, CurveLike, Tabulated, sampled

QUANTITIES = ("lr", "momentum", "weight_decay")
"""The columns of a table, in order."""


@dataclass(frozen=True)
class Schedule:
    """The hyper-parameters of a run as functions of the step.

    Args:
        lr, momentum, weight_decay: a curve, a number (constant), a function of an array of steps, or a
            sequence of these with one entry per parameter group. ``momentum`` and ``weight_decay`` may be
            None: the optimizer then keeps the values that its parameter groups have.
        total_steps: length of the run in optimizer steps, >= 1. Policies such as ``one_cycle`` set it.

    A single entry serves every parameter group. Past the last step every value stays what it was there.

    >>> Schedule(lr=0.1, momentum=0.5, total_steps=2).table().tolist()  # [total_steps, n_groups, 3]
    [[[0.10000000149011612, 0.5, 0.0]], [[0.10000000149011612, 0.5, 0.0]]]
    """

    lr: CurveLike | Sequence[CurveLike]
    momentum: CurveLike | Sequence[CurveLike] | None = None
    weight_decay: CurveLike | Sequence[CurveLike] | None = None
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if self.lr is None:
            raise ValueError("lr: got None; a schedule needs a curve or a number for lr")
        if self.total_steps is not None:
            object.__setattr__(self, "total_steps", _checked_total_steps(self.total_steps))
        for name in QUANTITIES:
            object.__setattr__(self, name, _normalised(name, getattr(self, name)))
        self.n_groups  # noqa: B018 - raises where the quantities disagree

    @property
    def n_groups(self) -> int:
        """Number of parameter groups that the schedule tells apart: 1 if it is the same for all."""
        lengths = {name: len(getattr(self, name)) for name in QUANTITIES if isinstance(getattr(self, name), tuple)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"schedule: the quantities disagree about the number of groups: {lengths}")
        return next(iter(lengths.values()), 1)

    def table(self, total_steps: int | None = None) -> NDArray[np.float32]:
        """The schedule as numbers.

        Args:
            total_steps: rows wanted, >= 1; None takes the schedule's own.
        Returns:
            float32 ``[total_steps, n_groups, 3]``; the last axis is lr, momentum, weight_decay. A quantity
            that is None is 0.
        Raises:
            ValueError: no or a bad ``total_steps``; a value that is negative or not finite in float32.
        """
        total_steps = self.total_steps if total_steps is None else _checked_total_steps(total_steps)
        if total_steps is None:
            raise ValueError("total_steps: got None, and the schedule has none of its own; give the length in steps")
        table = np.zeros((total_steps, self.n_groups, len(QUANTITIES)), dtype=np.float32)
        for column, name in enumerate(QUANTITIES):
            for group, curve in enumerate(self._curves(name)):
                if curve is not None:
                    values = sampled(curve, total_steps)
                    _require_valid(name, values)
                    table[:, group, column] = values
        return table

    def bound_to(self, param_groups: Sequence[Mapping[str, Any]]) -> Schedule:
        """This schedule with one explicit curve per parameter group, ready for a checkpoint.

        Quantities that are None become the groups' own constants, and plain functions become tables.

        Raises:
            ValueError: the schedule tells another number of groups apart, or has no ``total_steps``.
        """
        if self.n_groups not in (1, len(param_groups)):
            raise ValueError(
                f"schedule: it has {self.n_groups} groups, but the optimizer has {len(param_groups)}; "
                "give one curve for all groups, or exactly one per group"
            )
        total_steps = self.total_steps
        if total_steps is None:
            raise ValueError("schedule: it has no total_steps; give it, for example Schedule(lr=..., total_steps=1000)")

        def explicit(curve: CurveLike | None, own: float) -> Curve:
            if curve is None:
                return Constant(float(own))
            if isinstance(curve, Curve):
                return curve
            return Tabulated(tuple(sampled(curve, total_steps).tolist()))

        columns = {}
        for name in QUANTITIES:
            curves = self._curves(name)
            curves = curves * (len(param_groups) if len(curves) == 1 else 1)
            columns[name] = tuple(
                explicit(curve, group[name]) for curve, group in zip(curves, param_groups, strict=True)
            )
        return Schedule(**columns, total_steps=total_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; ``from_dict`` reads it back.

        Raises:
            ValueError: a curve is a plain function; ``bound_to`` turns those into tables first.
        """
        return {"total_steps": self.total_steps, **{name: _to_plain(name, getattr(self, name)) for name in QUANTITIES}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Schedule:
        """The schedule that ``to_dict`` described."""

        def revived(value: Any) -> Any:
            if isinstance(value, Mapping):
                return Curve.from_dict(value)
            return None if value is None else [revived(item) for item in value]

        return Schedule(**{name: revived(data[name]) for name in QUANTITIES}, total_steps=data["total_steps"])

    def _curves(self, name: str) -> tuple[CurveLike | None, ...]:
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,)


def _normalised(name: str, value: Any) -> Any:
    """Numbers become constants and sequences tuples, so that equal schedules compare equal."""
    if value is None or callable(value):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ValueError(f"{name}: got an empty sequence; give one curve per parameter group")
        return tuple(_normalised(name, item) for item in value)
    try:
        return Constant(float(value))
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {value!r}; give a curve, a number or a function of the step") from None


def _to_plain(name: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple):
        return [_to_plain(name, item) for item in value]
    if isinstance(value, Curve):
        return value.to_dict()
    raise ValueError(f"{name}: {value!r} is a plain function and has no dict form; call schedule.bound_to first")


def _checked_total_steps(total_steps: Any) -> int:
    if isinstance(total_steps, bool) or total_steps != int(total_steps) or total_steps < 1:
        raise ValueError(f"total_steps: got {total_steps!r}; give a whole number of steps, at least 1")
    return int(total_steps)


def _require_valid(name: str, values: NDArray[np.float64]) -> None:
    with np.errstate(over="ignore"):
        bad = ~(np.isfinite(values.astype(np.float32)) & (values >= 0))
    if bad.any():
        step = int(bad.argmax())
        raise ValueError(f"{name}: got {values[step]} at step {step}; every value must be finite (float32) and >= 0")
