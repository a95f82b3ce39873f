"""A torch LR scheduler that applies a schedule to any optimizer."""

from __future__ import annotations

import operator
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._torch_compat import has_stepped
from ._follow_lr import FollowLR
from ._group_values import (
    base_rates_of,
    external_factor,
    initial_factor,
    lr_scales_of,
    momentum_of,
    record_initial,
    record_scheduled,
    set_momentum,
)
from ._schedule import Schedule
from ._table import row_at
from ._warnings import (
    EpochStepDetector,
    chosen_weight_decays,
    describe_differences,
    report_past_end,
    warn_cut_cycle,
    warn_of_other_decay,
    warn_past_end,
    warn_user,
)


class ScheduleLR(LRScheduler):
    """Sets lr, momentum and weight decay of an optimizer's groups to the values of a schedule, on the host.

        lr           = schedule.lr(step) * initial_lr / highest initial_lr * lr_scale * factor
        momentum     = schedule.momentum(step)
        weight_decay = schedule.weight_decay(step) * initial_weight_decay / highest initial_weight_decay

    As with torch's own schedulers, the groups keep the initial ratios of their rates and weight decays; the highest
    follows the schedule. A quantity with one curve per group has no ratio. The next ``step()`` includes a group that is
    added later, with its ratio to the same highest value; if another scheduler writes its rate before that, give the
    group "initial_lr". ``lr_scale`` is the group's entry of that name (timm's layer decay), 1 by default. ``factor`` is
    the product of the factors of other schedulers, in a ``ChainedScheduler`` or on the same optimizer. A change in it
    is lost while the schedule's rate is 0.

    For optimizers with ``betas``, the first of them is the momentum. Past the end the last values stay. Warns once if
    the run continues past the end, if the schedule ends in mid-cycle, if it replaces different momenta by one, or if
    ``step()`` is called once per epoch.

    Args:
        optimizer: any torch optimizer without a schedule of its own.
        schedule: with ``total_steps``; a quantity that is None is left unchanged.
        follow_updates: advance the schedule in ``step()`` only if ``optimizer.step()`` has run since the last call.
            This suits loops that always call both: an update that ``GradScaler`` skips, or a micro-batch whose
            gradients are only accumulated, does not advance the schedule.
        last_epoch: as in torch, the last step made, -1 for a new run. Otherwise the groups must have "initial_lr",
            which the optimizer's ``load_state_dict`` restores.
    Raises:
        ValueError: the schedule has no ``total_steps``, does not fit the groups, or sets a quantity that a group does
            not have; or an "lr_scale" is not a finite number >= 0.
        KeyError: ``last_epoch`` is given, and a group has no "initial_lr".
    """

    # No attribute `total_steps`: at that step Accelerate would silently stop calling the scheduler, which would hide
    # a wrong number.

    def __init__(self, optimizer: Optimizer, schedule: Schedule, *, follow_updates: bool = False, last_epoch: int = -1):
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule: got {schedule!r}; give a clrfast.Schedule, for example clrfast.one_cycle(...)")
        if getattr(optimizer, "schedule", None) is not None:
            raise ValueError("optimizer: it follows a schedule of its own already; make it without one")
        schedule.require_groups(len(optimizer.param_groups))
        _require_quantities(schedule, optimizer.param_groups)
        self._schedule = schedule.without_functions()
        self._table = schedule.table()
        warn_cut_cycle(schedule)
        if schedule.momentum is not None and not isinstance(schedule.momentum, tuple):
            _warn_single_momentum(optimizer.param_groups)
        if schedule.weight_decay is not None and not any("initial_lr" in group for group in optimizer.param_groups):
            self._warn_of_other_decay(chosen_weight_decays(optimizer))
        self._groups: list[dict[str, Any]] = []
        self._highest: dict[str, float] = {}
        self._ratios: dict[str, list[float]] = {}
        self._rates_are_scaled: bool | None = None
        self._warned_past_end = False
        self._follow_updates = follow_updates
        self._updated = False
        self._detector: EpochStepDetector | None = EpochStepDetector(len(self._table))
        self.optimizer = optimizer
        self._register()
        super().__init__(optimizer, last_epoch)

    def _warn_of_other_decay(self, given: list[float | None]) -> None:
        """Warn of weight decays that the schedule replaces. Under one curve, those that differ are ratios."""
        if isinstance(self._schedule.weight_decay, tuple):
            warn_of_other_decay(given, self._table[:, :, 2])
        elif len(set(given)) == 1:
            warn_of_other_decay(given[:1], self._table[:, :1, 2])

    def step(self, epoch: int | None = None) -> None:
        """Advance to the next row of the table."""
        if self._follow_updates and not self._updated:
            return
        self._update_ratios()
        self._updated = False
        super().step(epoch)
        if self.last_epoch > len(self._table) and not self._warned_past_end:
            if self._follow_updates:
                warn_past_end(len(self._table))
            self._warned_past_end = self._follow_updates or report_past_end(len(self._table), self.last_epoch)
        if self._detector is not None and self._step_count > 1:
            self._detector.end_interval()
            if self._detector.done:
                self._detector = None
                if not self._follow_updates:
                    self._hook.remove()

    def _initial_step(self) -> None:
        self._updated = True  # the first row needs no update before it
        super()._initial_step()

    def _update_ratios(self) -> None:
        """Compute the ratios between the parameter groups, if the groups have changed.

        Raises:
            ValueError: the schedule has one curve per group, for another number of groups; or an "lr_scale" is not a
                finite number >= 0.
        """
        groups = self.optimizer.param_groups
        if len(groups) == len(self._groups) and all(map(operator.is_, groups, self._groups)):
            return
        self._schedule.require_groups(len(groups))
        self._lr_scales = lr_scales_of(groups)
        # New groups, or loaded ones of a run without a scheduler.
        all_new = not any("initial_lr" in group for group in groups)
        for name in ("lr", "weight_decay"):
            curves = getattr(self._schedule, name)
            if curves is None or isinstance(curves, tuple):
                self._ratios[name] = [1.0] * len(groups)
                continue
            values = record_initial(groups, name)
            if name == "lr":
                values = self._without_scales(values)
            if all_new or name not in self._highest:
                self._highest[name] = max(values)
            highest = self._highest[name]
            self._ratios[name] = [value / highest if highest else 1.0 for value in values]
        self._groups = list(groups)

    def _without_scales(self, rates: list[float]) -> list[float]:
        """Return the initial rates of the groups without their "lr_scale", if the first groups' rates contained it."""
        given = [{"lr": lr, "lr_scale": scale} for lr, scale in zip(rates, self._lr_scales, strict=True)]
        if self._rates_are_scaled is None:
            self._rates_are_scaled = base_rates_of(given) != rates
        if not self._rates_are_scaled:
            return rates
        return [lr / scale if scale else lr for lr, scale in zip(rates, self._lr_scales, strict=True)]

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates of the current row, and write its momentum and weight decay into the groups."""
        if self.last_epoch > 0:
            return self._rates([external_factor(group) for group in self.optimizer.param_groups])
        has_begun = bool(self.optimizer.state) or has_stepped(self.optimizer)
        return self._rates([1.0 if has_begun else initial_factor(group) for group in self.optimizer.param_groups])

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """Return the rates at ``last_epoch`` without other schedulers' factors; ``SequentialLR`` calls this."""
        self._update_ratios()
        return self._rates([1.0] * len(self.optimizer.param_groups))

    def _rates(self, factors: Sequence[float | Tensor]) -> list[float | Tensor]:
        rows = row_at(self._table, self.last_epoch)
        schedule, ratios = self._schedule, self._ratios["lr"]
        rates: list[float | Tensor] = []
        for index, (group, factor) in enumerate(zip(self.optimizer.param_groups, factors, strict=True)):
            lr, momentum, weight_decay = rows[index if len(rows) > 1 else 0]
            rates.append(record_scheduled(group, lr * ratios[index] * self._lr_scales[index], factor))
            if schedule.momentum is not None:
                set_momentum(group, momentum)
            if schedule.weight_decay is not None:
                group["weight_decay"] = weight_decay * self._ratios["weight_decay"][index]
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule and the step as plain data."""
        return {
            "schedule": self._schedule.to_dict(),
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "updated": self._updated,
            "highest": dict(self._highest),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved step, and write its values into the optimizer's groups.

        This scheduler keeps its own schedule. It warns if the saved one differs, unless this one extends it. Load the
        optimizer's state first, because that restores the groups' saved values.

        Raises:
            ValueError: the state is another scheduler's.
        """
        if "schedule" not in state_dict:
            raise ValueError(
                f"state_dict: it is not a ScheduleLR's (it has {sorted(state_dict)}); load that of the same scheduler"
            )
        saved = Schedule.from_dict(state_dict["schedule"])
        if not self._schedule.continues(saved) and (differences := describe_differences(saved, self._schedule)):
            warnings.warn(
                f"load_state_dict: the saved schedule differs from the one given ({differences}); the given one is "
                "used from the saved step on.",
                stacklevel=2,
            )
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        self._updated = state_dict["updated"]
        self._update_ratios()
        self._highest.update(state_dict.get("highest", {}))
        self._groups = []  # so that the ratios are computed again, to the loaded highest value
        self._update_ratios()
        rates = self._rates([external_factor(group) for group in self.optimizer.param_groups])
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        shown = [group["lr"] for group in self.optimizer.param_groups]
        self._last_lr = [lr.clone() if isinstance(lr, Tensor) else lr for lr in shown]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hook"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()  # a copied optimizer has no hooks

    def _register(self) -> None:
        """Add a hook that counts the optimizer's updates, if they matter; the hook does not keep self alive."""
        if self._detector is None and not self._follow_updates:
            return
        reference = weakref.ref(self)

        def count(optimizer: Optimizer, *_: Any) -> None:
            scheduler = reference()
            if scheduler is not None:
                scheduler._count_update(optimizer)

        self._hook = self.optimizer.register_step_post_hook(count)

    def _count_update(self, optimizer: Optimizer) -> None:
        if self._detector is not None:
            self._detector.count_update()
        if self._follow_updates:
            # GradScaler always calls the step of an optimizer that skips updates itself; found_inf says whether it did.
            found_inf = getattr(optimizer, "found_inf", None)
            self._updated |= found_inf is None or not found_inf.item()


def as_lr_scheduler(
    optimizer: Optimizer, schedule: Schedule | None = None, *, follow_updates: bool = False, last_epoch: int = -1
) -> ScheduleLR | FollowLR:
    """Make a ``torch.optim.lr_scheduler.LRScheduler`` that applies ``schedule`` to ``optimizer``; see ``ScheduleLR``.

    Call its ``step()`` after every ``optimizer.step()``, not once per epoch.

    Args:
        schedule: None for an optimizer of clrfast with a schedule of its own. The scheduler then only reports the rate,
            for frameworks that require one; see ``FollowLR``.
        follow_updates: as in ``ScheduleLR``; a scheduled optimizer of clrfast follows its updates in any case.
        last_epoch: as in ``ScheduleLR``.
    Raises:
        ValueError: see ``ScheduleLR`` and ``FollowLR``; or ``last_epoch`` without ``schedule``.
    """
    if schedule is None:
        if last_epoch != -1:
            raise ValueError(
                f"last_epoch: got {last_epoch} without a schedule; a scheduled optimizer's position comes with its own "
                "load_state_dict"
            )
        return FollowLR(optimizer)
    return ScheduleLR(optimizer, schedule, follow_updates=follow_updates, last_epoch=last_epoch)


def _require_quantities(schedule: Schedule, param_groups: Sequence[dict[str, Any]]) -> None:
    """Raise a ValueError unless the groups have the quantities that ``schedule`` sets."""
    for index, group in enumerate(param_groups):
        if schedule.momentum is not None and not ("momentum" in group or "betas" in group):
            raise ValueError(f"schedule: param_groups[{index}] has neither momentum nor betas; give momentum=None")
        if schedule.weight_decay is not None and "weight_decay" not in group:
            raise ValueError(f"schedule: param_groups[{index}] has no weight_decay; give weight_decay=None")


def _warn_single_momentum(param_groups: Sequence[dict[str, Any]]) -> None:
    own = [float(momentum_of(group)) for group in param_groups]
    if len(set(own)) > 1:
        warn_user(
            f"the schedule replaces the parameter groups' own momentum ({', '.join(f'{value:g}' for value in own)}) by "
            "one for all; give a sequence with a curve per group, or momentum=None"
        )
