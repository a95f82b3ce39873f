"""The part of an optimizer that does not depend on its update rule: schedule, step, hooks, saving, copying."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch_compat import disable_dynamo, has_step_hooks, is_profiling
from ..schedules import QUANTITIES, Schedule
from ..schedules._group_values import base_rates_of, quantity_of
from ..schedules._warnings import chosen_weight_decays, warn_cut_cycle, warn_of_other_decay
from . import _backends as backends
from . import _capture as capture
from . import _saved_schedule as saved_schedule
from . import _state_dict as state_dicts
from ._control import StepControl
from ._counters import Counters, NoCounters
from ._options import agreed_clip_norm, comparable, require_clip_norm, warn_overridden
from ._parameters import devices_of
from ._protocols import GradScale, Update
from ._rule_optimizer import RuleOptimizer
from ._schedule_follower import ScheduleFollower

_COPIED = (
    "master_weights",
    "_requested_backend",
    "follower",
    "_expects_schedule",
    "_step_counts",
    "counters",
    "state_requested",
    "_clip_norm",
)
"""Attributes that pickling and copying keep, in addition to those of torch's optimizers."""

_OWN_DEFAULTS = ("schedule", "master_weights", "clip_norm", "backend")
"""Arguments that ``defaults`` has in addition to the options of a group."""

_ADDED_OPTIONS = {
    "nesterov": False,
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": False,
}
"""Options that groups saved by older versions of torch lack, and the values that they had then."""


class FusedOptimizer(RuleOptimizer):
    """Base class of optimizers that update all parameters in one call and can follow a schedule on the device.

    A subclass adds what depends on its update rule: the options of a group and their checks, and, where they differ
    from those here, the state of a parameter and its counter. The backends hold the rule itself.

    Args:
        params: as in torch.optim.
        options: the options of a group that the subclass has, by name: lr, momentum or betas, weight_decay, maximize,
            and those that the rule's ``constants`` reads.
        counters: the counters of the rule; None if its update does not depend on the number of updates before it.
        differentiable, schedule, master_weights, clip_norm, backend: see ``SGD``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        options: dict[str, Any],
        counters: Counters | None = None,
        *,
        differentiable: bool = False,
        schedule: Schedule | None = None,
        master_weights: bool = False,
        clip_norm: float | None = None,
        backend: str = "auto",
    ):
        name = type(self).__name__
        if isinstance(options["lr"], Schedule):
            raise ValueError(f"lr: got a Schedule; give it by name: clrfast.{name}(params, schedule=schedule)")
        if differentiable:
            raise ValueError(
                f"differentiable: got True, but autograd does not record this update; use torch.optim.{name} for that"
            )
        if backend not in backends.NAMES:
            raise ValueError(f"backend: got {backend!r}; give one of {backends.NAMES}")
        self.clip_norm = clip_norm
        self.master_weights = bool(master_weights)
        self._requested_backend = backend
        self._expects_schedule = schedule is not None
        self.follower: ScheduleFollower | None = None
        self.counters = NoCounters() if counters is None else counters
        self.grad_norm: Tensor | None = None
        """The norm of all gradients at the last step, before clipping: float64 ``[]`` on the first device. None
        without ``clip_norm``, and before the first step."""
        self.state_requested = False
        """Whether ``init_state`` was called, so that a saved state has all entries."""
        self.generation = 0
        """A number that grows whenever the memory that updates work on may have changed."""
        self._updates: list[Update] = []
        self._step_counts: dict[torch.device, Tensor] = {}
        self._unscales = False
        self._renew_step_lock()
        super().__init__(params, options)
        # With the arguments that groups do not have, so that type(optimizer)(params, **optimizer.defaults) is equal.
        self.defaults.update(schedule=None, master_weights=self.master_weights, clip_norm=clip_norm, backend=backend)
        self.backend  # noqa: B018 - raises where it does not work
        if schedule is not None:
            self.set_schedule(schedule)

    def _renew_step_lock(self) -> None:
        """Make the lock that lets one thread step at a time, because updates hold the gradients that they found."""
        self._step_lock = threading.RLock()
        _alive.add(self)

    def __repr__(self) -> str:
        lines = [type(self).__name__, f"Backend: {self.backend}"]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            shown = {name: value for name, value in group.items() if name not in ("params", saved_schedule.SCHEDULE)}
            lines += [f"    {name}: {shown[name]}" for name in sorted(shown)]
        return "\n".join(lines)

    @property
    def backend(self) -> str:
        """The backend in use: "torch", "cpp" or "cuda"."""
        return backends.resolve(self._requested_backend, self.param_groups)

    @property
    def clip_norm(self) -> float | None:
        """Maximum norm of all gradients together; None for no clipping. A new value takes effect at the next step."""
        return self._clip_norm

    @clip_norm.setter
    def clip_norm(self, clip_norm: float | None) -> None:
        require_clip_norm(clip_norm)
        self._clip_norm = clip_norm
        if hasattr(self, "defaults"):
            self.defaults["clip_norm"] = clip_norm

    # --------------------------------------------------------------------------------------------------- the schedule

    @property
    def controls(self) -> Mapping[torch.device, StepControl]:
        """The controls of the run, one per device, with equal contents; empty without a schedule."""
        return {} if self.follower is None else self.follower.controls

    @property
    def control(self) -> StepControl | None:
        """The control of the run on the first device; None without a schedule."""
        return None if self.follower is None else self.follower.control

    @property
    def schedule(self) -> Schedule | None:
        """The schedule, with one explicit curve per parameter group; None without one."""
        return None if self.follower is None else self.follower.bound

    def set_schedule(self, schedule: Schedule) -> StepControl:
        """Follow ``schedule`` from its step 0; momentum buffers stay as they are.

        Returns:
            The new control, which is also ``control``.
        Raises:
            ValueError: the schedule has no ``total_steps``, or does not fit the parameter groups.
        """
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule: got {schedule!r}; give a clrfast.Schedule, for example clrfast.one_cycle(...)")
        bound = schedule.bound_to(self.param_groups)
        # Later the groups have what a schedule has written.
        decays = chosen_weight_decays(self) if self.follower is None and schedule.weight_decay is not None else []
        rates = base_rates_of(self.param_groups)
        if not isinstance(schedule.lr, tuple) and len(set(rates)) > 1:
            warn_overridden(rates)
        warn_cut_cycle(schedule)
        control = self.follow(schedule, bound)
        if decays:
            warn_of_other_decay(decays, control.host_table[:, :, 2])
        return control

    def remove_schedule(self) -> None:
        """Keep the parameter groups' present values from now on; does nothing without a schedule."""
        if self.follower is None:
            return
        self.follower, self.defaults["schedule"] = None, None
        for group in self.param_groups:
            for name in saved_schedule.KEYS:
                group.pop(name, None)
        self.forget_updates()

    def follow(self, schedule: Schedule, bound: Schedule) -> StepControl:
        """Follow ``bound``, which is ``schedule`` with one explicit curve per parameter group, from its step 0."""
        self.follower = ScheduleFollower(self, schedule, bound)
        self.defaults["schedule"] = self.follower.given
        return self.follower.control

    @disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, which follows the schedule, if there is one, from the current step on.

        Raises:
            ValueError: an option is invalid, a parameter occurs twice, or the schedule has one curve per group and none
                for this one.
            RuntimeError: its parameters are on a device of another type.
        """
        follower = self.follower
        n_curves = 1 if follower is None else follower.given.n_groups
        if follower is not None and 1 != n_curves <= len(self.param_groups):
            raise ValueError(
                f"param_group: the schedule has curves for exactly {n_curves} groups; call set_schedule with one "
                "curve for all, or make a new optimizer"
            )
        self._check_options({**self.defaults, **param_group})
        own_lr, own_decay = "lr" in param_group, "weight_decay" in param_group
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        for name in {*_OWN_DEFAULTS, *saved_schedule.KEYS}:  # from the defaults or another optimizer
            added.pop(name, None)
        try:
            devices_of(self.param_groups)
            if len(set(map(id, added["params"]))) < len(added["params"]):
                raise ValueError("params: a parameter occurs twice in one group; give each once")
            if follower is not None and n_curves in (1, len(self.param_groups)):
                if own_lr and n_curves == 1:
                    warn_overridden([added["lr"]])
                decay = float(quantity_of(added, "weight_decay")) if own_decay else None
                follower.follow_groups(self)
                if n_curves == 1 and follower.given.weight_decay is not None:
                    warn_of_other_decay([decay], follower.control.host_table[:, -1:, 2])
        except (RuntimeError, ValueError):
            del self.param_groups[-1]
            raise
        self.forget_updates()

    # ------------------------------------------------------------------------------------------------------- the step

    def init_state(self) -> None:
        """Make the state and master weights of all trainable parameters now, not at their first update.

        Call it before a graph capture, because every replay creates again what was created in the capture.
        """
        if self.follower is not None:
            self.follower.follow_changed_groups(self)
        self._ensure_updates()
        self.state_requested = True
        for index, group in enumerate(self.param_groups):
            for param in group["params"]:
                if param.requires_grad:
                    self.ensure_state(index, param)

    @disable_dynamo
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        loss: Tensor | float | None = None,
        clip_norm: float | None = None,
    ) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: evaluates the model again and returns the loss.
            loss: under a schedule, the loss that led to these gradients, one element. It is recorded in
                ``control.losses`` without a synchronization. Default: what ``control.record`` was given, or else what
                the closure returns.
            clip_norm: the ``clip_norm`` of this step, for an optimizer without one.
        Returns:
            What the closure returned, or None.
        Raises:
            RuntimeError: a gradient cannot be used (sparse, complex, on another device); nothing has changed.
            ValueError: ``clip_norm`` is not above 0, or the optimizer has another one.
        """
        # torch wraps hooks and a profiler range around every step, at a higher cost than the update of a small model.
        if has_step_hooks(self) or is_profiling():
            given: dict[str, Any] = {"closure": closure, "loss": loss, "clip_norm": clip_norm}
            return _step_with_hooks(self, **{name: value for name, value in given.items() if value is not None})
        return self._step(closure, loss=loss, clip_norm=clip_norm)

    # Keeps torch.optim.Optimizer from wrapping `step` itself.
    step.hooked = True  # type: ignore[attr-defined]

    def has_hooks(self) -> bool:
        """Return whether a hook runs before or after a step, of this optimizer or of all."""
        return has_step_hooks(self)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler passes `grad_scale` and `found_inf` as tensors instead of waiting for the device."""
        return self._unscales or self.defaults.get("fused") is True

    @contextlib.contextmanager
    def unscaling(self) -> Iterator[None]:
        """Make the update unscale gradients and skip on the device within a block, as with ``fused=True``."""
        before, self._unscales = self._unscales, True
        try:
            yield
        finally:
            self._unscales = before

    def _step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        loss: Tensor | float | None = None,
        clip_norm: float | None = None,
    ) -> Any:
        if clip_norm is not None:
            require_clip_norm(clip_norm)
        max_norm, result = agreed_clip_norm(self.clip_norm, clip_norm), None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        with self._step_lock:
            self._update(loss, max_norm, result)
        return result

    def _update(self, loss: Tensor | float | None, max_norm: float | None, returned: Any) -> None:
        if not self.param_groups:
            return
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        follower = self.follower
        if follower is not None:
            if self._only_state_is_wanted(follower):
                self.init_state()
                self.counters.by_tensor.clear()  # torch's optimizer has updated its state by this step
                return
            follower.accept_changes(self)
        self._prepare()
        if follower is not None:
            recorded = follower.control.take_recorded()
            given = (each for each in (loss, recorded, returned) if each is not None)
            loss = follower.control.as_tensor(next(given, None))  # before anything changes
        scale = GradScale(grad_scale, None, found_inf)
        if max_norm is not None:
            scale = self._clip(max_norm, scale)
        for update in self._updates:
            update.update_(self, loss, scale)
        if follower is not None:
            follower.show_next_row(self.param_groups)
            follower.warn_past_end()

    def _clip(self, max_norm: float, scale: GradScale) -> GradScale:
        """Measure the norm of the gradients and return ``scale`` with the factor that clips it to ``max_norm``."""
        measured: Any = self._updates[0].clip(self, max_norm, scale)
        if measured is None:
            measured = backends.reference.clip_all(self, max_norm, scale)
        self.grad_norm, clip_factor, found_inf = measured
        return GradScale(scale.grad_scale, clip_factor, found_inf)

    def _only_state_is_wanted(self, follower: ScheduleFollower) -> bool:
        """Return whether torch.distributed.checkpoint calls ``step`` only to make a new optimizer create its state.

        For that it sets all rates and all gradients to 0. Such a step must not move the schedule.
        """
        if not follower.shows_rate_of_zero(self.param_groups):
            return False
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        return bool(grads) and not any(bool(grad.any()) for grad in grads)

    def _prepare(self) -> None:
        """Make every update find its gradients; all must succeed before anything changes."""
        if not self._updates and capture.is_capturing(devices_of(self.param_groups)):
            raise RuntimeError(
                "optimizer: nothing is prepared for a capture; call optimizer.init_state() before it begins"
            )
        self._ensure_updates()
        if not all(update.prepare(self) for update in self._updates):
            self.forget_updates()
            self._ensure_updates()
            for update in self._updates:
                update.prepare(self)

    def _ensure_updates(self) -> None:
        """Make the updates and controls on the parameters' current devices; the model may have been moved."""
        if self._updates:
            return
        if self.follower is not None:
            self.follower.follow_devices(self)
        self._updates = list(backends.BACKENDS[self.backend].updates_of(self))

    def forget_updates(self) -> None:
        """Make the next step find the parameters and their devices again."""
        self._updates = []
        self.generation += 1

    # ----------------------------------------------------------------------------------------------- a captured step

    def captured_values(self) -> list[Any]:
        """Return the groups' options that a captured step holds as constants, so that a replay would ignore a change.

        Under a schedule these are the options that its table does not set.
        """
        if self.follower is not None:
            self.follower.accept_changes(self)
        values: list[Any] = [[group["maximize"], *self.rule.constants(group)] for group in self.param_groups]
        if self.follower is None:
            values += [[comparable(quantity_of(group, name)) for name in QUANTITIES] for group in self.param_groups]
        return values + [(control.smoothing, control.stop_factor) for control in self.controls.values()]

    def count_replay(self) -> None:
        """Write the next step's values into the parameter groups, after a replay of a captured step."""
        if self.follower is not None:
            self.follower.count_replay(self.param_groups)

    # --------------------------------------------------------------------------------- saving, loading and copying

    @disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch's optimizer of this name has it; waits for the device.

        With a schedule, each parameter group holds "schedule" and "schedule_step", which suffice to continue the run;
        the key "clrfast" adds the record of the losses. torch's optimizer can load it too, and ignores these entries.
        """
        if self.follower is not None and self.param_groups:
            self.follower.follow_changed_groups(self)
            self.follower.synchronize(self.param_groups)
        # Before the user's hooks, which may change the result.
        first = self.register_state_dict_post_hook(lambda _, saved: state_dicts.complete(self, saved), prepend=True)
        try:
            saved: dict[str, Any] = super().state_dict()
        finally:
            first.remove()
        return saved

    @disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict`` of this class or of torch's optimizer of this name.

        A saved schedule continues at its saved step. If the optimizer was made with another schedule, it follows that
        one from the saved step on, with a warning unless it is a ``saved_schedule.extended_to(...)``. It also warns if
        a scheduled optimizer gets a state without a step.

        Raises:
            ValueError: the state is that of an optimizer with other options. Nothing has changed then.
        """
        if self.follower is not None:
            self.follower.follow_changed_groups(self)  # the loaded groups replace them all
        loaded = [state_dict]  # the last entry is the state after the user's hooks
        own_hooks = (
            self.register_load_state_dict_pre_hook(lambda _, state: loaded.append(self._fitting(state))),
            # Before the user's post-hooks, which see the final state and may change it.
            self.register_load_state_dict_post_hook(lambda _: state_dicts.take_over(self, loaded[-1]), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in own_hooks:
                hook.remove()

    def _fitting(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return ``state_dict``; raise ValueError if its groups lack options that every version of torch has saved."""
        needed = [name for name in self.defaults if name not in (*_ADDED_OPTIONS, *_OWN_DEFAULTS)]
        for index, group in enumerate(state_dict["param_groups"]):
            lacking = [name for name in needed if name not in group]
            if lacking:
                raise ValueError(
                    f"state_dict: its group {index} has no {', '.join(lacking)}; it was saved by another optimizer "
                    f"than {type(self).__name__}"
                )
        return state_dict

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in _COPIED}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in _ADDED_OPTIONS.items():
                if name in self.defaults:
                    group.setdefault(name, value)
        self._updates = []
        self._unscales = False
        self._renew_step_lock()
        self._find_step_counts()
        self.generation = vars(self).get("generation", 0)  # load_state_dict also calls __setstate__
        self.grad_norm = vars(self).get("grad_norm")

    def _find_step_counts(self) -> None:
        """Key the step counts by the devices that they are on: ``torch.load`` may have moved them.

        Counters refer to them, so if several are now on one device, the highest continues.
        """
        counts: dict[torch.device, Tensor] = {}
        for count in self._step_counts.values():
            known = counts.get(count.device)
            counts[count.device] = count if known is None else torch.maximum(known, count)
        self._step_counts = counts


_alive: weakref.WeakSet[FusedOptimizer] = weakref.WeakSet()


def _renew_step_locks() -> None:
    """Replace the locks in a forked process, where the thread that holds one may not exist."""
    for optimizer in _alive:
        optimizer._renew_step_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_step_locks)

_step_with_hooks = torch.optim.Optimizer.profile_hook_step(FusedOptimizer._step)
