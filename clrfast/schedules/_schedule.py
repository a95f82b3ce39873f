"""Schedule: one curve each for lr, momentum and weight decay, for one or several parameter groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import plot
from .._checks import is_whole, require_positive
from .._fields import Fields
from ._composition import Joined, Scaled, Shifted, Stretched
from ._curves import Constant, Curve, CurveLike, Linear, Tabulated, as_curve, from_plain
from ._group_values import base_rates_of, lr_scales_of, quantity_of
from ._table import QUANTITIES, check_total_steps, require_valid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Schedule:
    """The hyper-parameters of a run as functions of the step.

    Args:
        lr, momentum, weight_decay: a curve, a number (constant), a function of an array of steps, or a sequence of
            these with one entry per parameter group. If ``momentum`` or ``weight_decay`` is None, the parameter groups
            keep their own values.
        total_steps: length of the run in optimizer steps, >= 1. Policies such as ``one_cycle`` set it.

    Raises:
        ValueError: an argument is not a curve, or the quantities have different numbers of groups.

    A single entry serves every parameter group. Past the last step the last values stay.

    Examples:
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
            object.__setattr__(self, "total_steps", check_total_steps(self.total_steps))
        for name in QUANTITIES:
            object.__setattr__(self, name, _normalize(name, getattr(self, name)))
        self.n_groups  # noqa: B018 - raises where the quantities disagree

    @property
    def n_groups(self) -> int:
        """Number of parameter groups with curves of their own; 1 if all share one."""
        lengths = {name: len(getattr(self, name)) for name in QUANTITIES if isinstance(getattr(self, name), tuple)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"schedule: the quantities disagree about the number of groups: {lengths}")
        return next(iter(lengths.values()), 1)

    def table(self, total_steps: int | None = None) -> NDArray[np.float32]:
        """Evaluate the schedule at every step.

        Args:
            total_steps: number of rows, >= 1; None takes the schedule's own.
        Returns:
            float32 ``[total_steps, n_groups, 3]``; the last axis is lr, momentum, weight_decay. A quantity
            that is None is 0.
        Raises:
            ValueError: ``total_steps`` is missing or bad; a value is negative or not finite in float32.
        """
        total_steps = self.total_steps if total_steps is None else check_total_steps(total_steps)
        if total_steps is None:
            raise ValueError("total_steps: got None, and the schedule has none of its own; give the length in steps")
        steps = np.arange(total_steps, dtype=np.float64)
        table = np.zeros((total_steps, self.n_groups, len(QUANTITIES)), dtype=np.float32)
        for column, name in enumerate(QUANTITIES):
            curves = self._curves(name)
            for group, curve in enumerate(curves):
                if curve is not None:
                    values = curve(steps)
                    require_valid(name, values)
                    served = slice(None) if len(curves) == 1 else slice(group, group + 1)  # one curve serves all groups
                    table[:, served, column] = values[:, None]
        return table

    def bound_to(self, param_groups: Sequence[Mapping[str, Any]]) -> Schedule:
        """Return this schedule with one explicit curve per parameter group, ready for a checkpoint.

        Quantities that are None become the groups' own constants, and plain functions become tables. The rate of a
        group is multiplied by its entry "lr_scale", if it has one (timm's layer decay).

        Raises:
            ValueError: the schedule has another number of groups, or no ``total_steps``.
        """
        self.require_groups(len(param_groups))
        plain = self.without_functions().scaled_for(param_groups)
        columns = {}
        for name in QUANTITIES:
            curves = plain._curves(name)
            curves = curves * (len(param_groups) if len(curves) == 1 else 1)
            columns[name] = tuple(
                Constant(float(quantity_of(group, name))) if curve is None else curve
                for curve, group in zip(curves, param_groups, strict=True)
            )
        return Schedule(**columns, total_steps=self.total_steps)

    def group(self, index: int) -> Schedule:
        """Return the schedule of one parameter group."""
        columns = [self._curves(name) for name in QUANTITIES]
        lr, momentum, weight_decay = (curves[index if len(curves) > 1 else 0] for curves in columns)
        assert lr is not None
        return Schedule(lr, momentum, weight_decay, self.total_steps)

    @staticmethod
    def from_groups(schedules: Sequence[Schedule]) -> Schedule:
        """Join the schedules of single groups to one schedule; the inverse of ``group``.

        Args:
            schedules: one per group, bound (see ``bound_to``), all of one length.
        Raises:
            ValueError: there is none, or their ``total_steps`` differ.
        """
        lengths = {schedule.total_steps for schedule in schedules}
        if len(lengths) != 1:
            raise ValueError(f"schedules: their total_steps are {sorted(map(str, lengths))}; give one length for all")
        columns = {name: tuple(getattr(schedule, name) for schedule in schedules) for name in QUANTITIES}
        return Schedule(**columns, total_steps=lengths.pop())

    def require_groups(self, n_groups: int) -> None:
        """Raise a ValueError unless the schedule has one curve for all groups or exactly one for each."""
        if self.n_groups not in (1, n_groups):
            raise ValueError(
                f"schedule: it has {self.n_groups} groups, but the optimizer has {n_groups}; "
                "give one curve for all groups, or exactly one per group"
            )

    def without_functions(self) -> Schedule:
        """Return the same schedule with tables in place of plain functions, so that it has a dict form.

        Raises:
            ValueError: the schedule has no ``total_steps``.
        """
        total_steps = self.total_steps
        if total_steps is None:
            raise ValueError("schedule: it has no total_steps; give it, for example Schedule(lr=..., total_steps=1000)")

        def plain(curve: Curve) -> Curve:
            try:
                curve.to_dict()
            except ValueError:
                return Tabulated(tuple(curve(np.arange(total_steps)).tolist()))
            return curve

        return self._map(plain, total_steps)

    def continues(self, saved: Schedule) -> bool:
        """Return whether this is ``saved``, or ``saved`` extended to a longer run."""

        def same(own: Curve | None, theirs: Curve | None) -> bool:
            if isinstance(own, Tabulated) and isinstance(theirs, Tabulated):
                return own.values[: len(theirs.values)] == theirs.values
            return own == theirs

        if (self.total_steps or 0) < (saved.total_steps or 0):
            return False
        pairs = [(self._curves(name), saved._curves(name)) for name in QUANTITIES]
        return all(len(own) == len(theirs) and all(map(same, own, theirs)) for own, theirs in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Convert the schedule to plain dicts, lists, strings and numbers, which ``from_dict`` reads.

        Raises:
            ValueError: a curve is or contains a plain function; ``bound_to`` turns those into tables.
        """

        def plain(value: Any) -> Any:
            if isinstance(value, tuple):
                return [plain(item) for item in value]
            return None if value is None else value.to_dict()

        return {"total_steps": self.total_steps, **{name: plain(getattr(self, name)) for name in QUANTITIES}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Schedule:
        """Make the schedule that ``to_dict`` described.

        Text that reads as a number is accepted as one, because YAML reads 1e-3 as text.

        Raises:
            ValueError: an entry is missing, unknown or bad; the message names it.
        """
        entries = Fields(data, "schedule")
        entries.require_known(*QUANTITIES, "total_steps")
        columns = {name: from_plain(name, data.get(name)) for name in (*QUANTITIES, "total_steps")}
        return Schedule(**columns)

    def for_groups(self, param_groups: Sequence[Mapping[str, Any]]) -> Schedule:
        """Return this schedule with the ratios between the rates of ``param_groups`` (differential learning rates).

        The group with the highest ``lr`` follows the schedule, the others follow it times lr / highest lr. A rate that
        a schedule has written counts without its "lr_scale"; see ``scaled_for``. If some groups have ``weight_decay`` 0
        and others do not, those with 0 keep it.

        Raises:
            ValueError: the schedule already has one curve per group, or no group has an ``lr`` above 0.
        """
        if isinstance(self.lr, tuple):
            raise ValueError(f"schedule: it already has {len(self.lr)} curves for lr; give one for all groups")
        assert isinstance(self.lr, Curve)
        rates = base_rates_of(param_groups)
        highest = max(rates, default=0.0)
        if not highest > 0:
            raise ValueError(f"param_groups: their lr are {rates}; give at least one above 0, for the ratios")
        lr = [Scaled(self.lr, rate / highest) for rate in rates]
        exempt = [group.get("weight_decay") == 0 for group in param_groups]
        weight_decay = self.weight_decay
        if isinstance(weight_decay, Curve) and any(exempt) and not all(exempt):
            weight_decay = [Constant(0.0) if is_exempt else weight_decay for is_exempt in exempt]
        return dataclasses.replace(self, lr=lr, weight_decay=weight_decay)

    def scaled_for(self, param_groups: Sequence[Mapping[str, Any]]) -> Schedule:
        """Return this schedule with each group's rate multiplied by its entry "lr_scale", where a group has one.

        timm's ``param_groups_layer_decay`` writes that entry, and timm's schedulers multiply by it.

        Raises:
            ValueError: an "lr_scale" is not a finite number >= 0.
        """
        scales = lr_scales_of(param_groups)
        if all(scale == 1 for scale in scales):
            return self
        curves = self.lr if isinstance(self.lr, tuple) else (self.lr,) * len(scales)
        lr = [curve if scale == 1 else Scaled(curve, scale) for curve, scale in zip(curves, scales, strict=True)]
        return dataclasses.replace(self, lr=lr)

    def with_warm_up(self, warm_up_steps: int, *, start_frac: float = 0.0) -> Schedule:
        """Return this schedule with a warm-up before it, in which lr rises linearly to its first value.

        Args:
            warm_up_steps: length of the warm-up, >= 1; it lengthens the run.
            start_frac: lr at step 0, as a fraction of its first value, in [0, 1].
        Raises:
            ValueError: an argument is outside its range.
        """
        if not is_whole(warm_up_steps) or warm_up_steps < 1:
            raise ValueError(f"warm_up_steps: got {warm_up_steps!r}; give a whole number of steps, at least 1")
        if not 0 <= start_frac <= 1:
            raise ValueError(f"start_frac: got {start_frac}; give a fraction in [0, 1]")

        def warmed_up(curve: Curve) -> Curve:
            first = float(curve(0))
            return Joined((Linear(start_frac * first, first, warm_up_steps), curve), (warm_up_steps,))

        longer = None if self.total_steps is None else self.total_steps + warm_up_steps
        later = self._map(lambda curve: Shifted(curve, warm_up_steps), longer)
        lr = [warmed_up(curve) for curve in self._curves("lr") if curve is not None]
        return dataclasses.replace(later, lr=lr if isinstance(self.lr, tuple) else lr[0])

    def in_steps(self, steps_per_epoch: float) -> Schedule:
        """Convert a schedule given in epochs to steps: its curves at ``step / steps_per_epoch``.

        This suits policies that are functions of time, such as the annealing ones. Those that reach their ends at the
        first and the last step (``one_cycle`` and its forms, ``lr_ramp``) need steps from the beginning:
        ``total_steps=epochs * steps_per_epoch``.

        Raises:
            ValueError: ``steps_per_epoch`` is not a finite number above 0.
        """
        require_positive(steps_per_epoch=steps_per_epoch)
        total = None if self.total_steps is None else round(self.total_steps * steps_per_epoch)
        return self._map(lambda curve: Stretched(curve, steps_per_epoch), total)

    def extended_to(self, total_steps: int) -> Schedule:
        """Return the same curves over a longer run; a curve that has ended keeps its last value.

        A checkpoint of the shorter run continues under the longer schedule without a warning.

        Raises:
            ValueError: ``total_steps`` is less than before.
        """
        if self.total_steps is not None and total_steps < self.total_steps:
            raise ValueError(f"total_steps: got {total_steps}, less than the {self.total_steps} before; give more")
        return dataclasses.replace(self, total_steps=total_steps)

    def plot(self, *, total_steps: int | None = None) -> Figure:
        """Draw lr, momentum and weight decay over the run; see ``clrfast.plot.schedule``.

        Args:
            total_steps: steps to draw; None takes the schedule's own.
        """
        table = self.table(total_steps)
        return plot.schedule(
            {name: table[:, :, i] for i, name in enumerate(QUANTITIES) if getattr(self, name) is not None}
        )

    def _map(self, change: Callable[[Curve], Curve], total_steps: int | None) -> Schedule:
        def mapped(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(mapped(item) for item in value)
            return None if value is None else change(value)

        return Schedule(**{name: mapped(getattr(self, name)) for name in QUANTITIES}, total_steps=total_steps)

    def _curves(self, name: str) -> tuple[Curve | None, ...]:
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,)


def _normalize(name: str, value: Any) -> Any:
    """Convert to curves, and a sequence to a tuple, so that equal schedules compare equal."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if not value:
            raise ValueError(f"{name}: got an empty sequence; give one curve per parameter group")
        return tuple(None if item is None and name != "lr" else as_curve(name, item) for item in value)
    return None if value is None else as_curve(name, value)
