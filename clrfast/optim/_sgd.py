"""SGD with momentum: torch.optim.SGD's numbers, and hyper-parameters that live on the device as a table."""

from __future__ import annotations

import contextlib
import math
import operator
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._torch_compat import disable_dynamo, has_step_hooks, is_profiling
from ..schedules import QUANTITIES, Schedule
from ..schedules._warnings import warn_cut_cycle, warn_past_end
from . import _backends as backends
from . import _capture as capture
from . import _position as position
from ._control import StepControl
from ._first_updates import FirstUpdates
from ._parameters import devices_of, ensure_master, needs_master, require_one_element

# What a pickled or copied optimizer keeps beside torch's own.
_OWN_STATE = (
    "controls",
    "master_weights",
    "_requested_backend",
    "_schedule",
    "_given",
    "_expects_schedule",
    "_mirror",
    "_shown_step",
    "_ticks",
    "first_updates",
    "_state_asked_for",
)


class SGD(torch.optim.Optimizer):
    """Stochastic gradient descent with momentum, weight decay and an optional schedule on the device.

        g = -grad if maximize else grad
        g = g + weight_decay * p
        b = momentum * b + (1 - dampening) * g          (the first update of a parameter: b = g)
        d = g + momentum * b if nesterov else b
        p = p - lr * d

    Without ``schedule`` it is a drop-in for ``torch.optim.SGD``: same numbers, same ``state_dict``; any torch LR
    scheduler and ``GradScaler`` work on it. With ``schedule`` there is no ``scheduler.step()``: every ``step()``
    takes its row of the schedule's table, and ``param_groups[i]["lr"]`` (and momentum, weight_decay) shows what the
    next step will use, "schedule_step" how many updates were applied. Past the schedule's end the last row stays in
    force, and a warning says so once. A step that ``GradScaler`` skips does not move the schedule.

    Args:
        params: tensors, named tensors or dicts of parameter groups; float32, float64, float16 or bfloat16, on one
            device or on several CUDA devices.
        lr: a number >= 0 or a one-element tensor.
        momentum, dampening, weight_decay, nesterov, maximize: as in ``torch.optim.SGD``.
        fused: who unscales gradients under a ``GradScaler``, as with ``torch.optim.SGD``. None or False: the scaler
            does, waits for the device, and does not call ``step`` where it skips, on which wrappers (Accelerate,
            Lightning) rely. True: the update does, on the device, and the host does not wait. ``TrainStep`` and
            ``range_test`` have the update do it in any case. Nothing else depends on it.
        foreach, differentiable, capturable: accepted as ``torch.optim`` has them; the numbers do not depend on them.
            ``differentiable=True`` is refused.
        schedule: what ``clrfast.schedules`` makes, with ``total_steps``; it takes over lr, and momentum and weight
            decay where it has a curve for them.
        master_weights: keep float32 copies of float16 and bfloat16 parameters (state "master_param", 4 bytes a value)
            and update these, with float32 momentum; the parameters become their rounded values, so updates smaller
            than a 16-bit type can resolve still add up. A parameter that is written to from outside counts. On CUDA
            devices in one pass over memory, on the CPU in pure torch.
        backend: "torch" (pure torch, any device), "cpp" (native, CPU), "cuda" (native, CUDA devices) or "auto" (the
            fastest that works here).
    Raises:
        ValueError: an argument outside of its range, or a schedule that does not fit the parameter groups.
        RuntimeError: a backend that does not work here, or parameters on devices that do not go together.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """

    _told_of_end = False  # whether the warning about the schedule's end was given

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        schedule: Schedule | None = None,
        master_weights: bool = False,
        backend: str = "auto",
    ):
        if isinstance(lr, Schedule):
            raise ValueError("lr: got a Schedule; give it by name: clrfast.SGD(params, schedule=schedule)")
        if differentiable:
            raise ValueError(
                "differentiable: got True, but autograd does not record this update; use torch.optim.SGD for that"
            )
        if backend not in backends.NAMES:
            raise ValueError(f"backend: got {backend!r}; give one of {backends.NAMES}")
        self.controls: dict[torch.device, StepControl] = {}
        self.master_weights = bool(master_weights)
        self._requested_backend = backend
        self._schedule: Schedule | None = None
        self._given: Schedule | None = None
        self._expects_schedule = schedule is not None
        self._mirror: list[list[float]] = []
        self._shown_step = 0
        self._followed: list[dict[str, Any]] = []  # the parameter groups that the mirror is of
        self._unscales = self._state_asked_for = False
        self._renew_turn()
        self.first_updates = FirstUpdates()
        self._updates: list[backends.Update] = []
        self.generation = 0
        """Grows whenever the memory that updates work on may have become another."""
        self._ticks: dict[torch.device, Tensor] = {}
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": False,
            "fused": fused,
        }
        super().__init__(params, defaults)
        # Also what groups do not have, so that type(optimizer)(params, **optimizer.defaults) is alike.
        self.defaults.update(schedule=None, master_weights=self.master_weights, backend=backend)
        self.backend  # noqa: B018 - raises where it does not work
        if schedule is not None:
            self.set_schedule(schedule)

    def _renew_turn(self) -> None:
        """One step at a time: updates keep what they have found until they are done."""
        self._turn = threading.RLock()
        _alive.add(self)

    def __repr__(self) -> str:
        lines = [type(self).__name__, f"Backend: {self.backend}"]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            shown = {name: value for name, value in group.items() if name not in ("params", position.SCHEDULE)}
            lines += [f"    {name}: {shown[name]}" for name in sorted(shown)]
        return "\n".join(lines)

    @property
    def backend(self) -> str:
        """The backend in use: "torch", "cpp" or "cuda"."""
        return backends.resolved(self._requested_backend, self.param_groups)

    @property
    def control(self) -> StepControl | None:
        """The control of the run; None without a schedule. Parameters on several devices have one each, all alike:
        ``controls``; this is the first."""
        return next(iter(self.controls.values()), None)

    @property
    def schedule(self) -> Schedule | None:
        """The schedule, with one explicit curve per parameter group; None without one."""
        return self._schedule

    def set_schedule(self, schedule: Schedule) -> StepControl:
        """Follow ``schedule`` from its first step on; momentum buffers stay as they are.

        Returns:
            The new control, also found as ``control``.
        Raises:
            ValueError: the schedule has no ``total_steps``, or does not fit the parameter groups.
        """
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule: got {schedule!r}; give a clrfast.Schedule, for example clrfast.one_cycle(...)")
        bound = schedule.bound_to(self.param_groups)
        rates = [float(group["lr"]) for group in self.param_groups]
        if not isinstance(schedule.lr, tuple) and len(set(rates)) > 1:
            _warn_overridden(rates)
        warn_cut_cycle(schedule)
        control = self._follow(bound, None)
        self._told_of_end = False
        self._given = self.defaults["schedule"] = schedule.without_functions()
        return control

    def _follow(self, bound: Schedule, progress: dict[str, Any] | None) -> StepControl:
        table, backend = bound.table(), self.backend
        controls = {
            device: StepControl(
                table, device=device, backend=backend, tick=self.tick(device) if backend == "cuda" else None
            )
            for device in devices_of(self.param_groups)
        }
        control, *_ = controls.values()
        if self.control is not None:
            control.keep_records_of(self.control)
        for index, group in enumerate(self.param_groups):
            if group["nesterov"] and not control.moves[index]:
                raise ValueError("nesterov: it needs momentum > 0; the schedule has none for this group")
        if progress is not None:
            for one in controls.values():
                one.resume(progress)
        self.controls, self._schedule, self._followed = controls, bound, list(self.param_groups)
        self._forget_updates()
        position.write_schedule(self.param_groups, bound)
        self._show_next_row()
        return control

    def tick(self, device: torch.device) -> Tensor:
        """The number of the current update on ``device``, int64 [], for backend "cuda". It is never reset, because
        buffers remember it; 1 is what a buffer that was started elsewhere has."""
        if device not in self._ticks:
            self._ticks[device] = torch.ones((), dtype=torch.int64, device=device)
        return self._ticks[device]

    def uses_momentum(self, group: int) -> bool:
        """Whether parameters of this group need a momentum buffer, now or later in the schedule."""
        if self.control is not None:
            return self.control.moves[group]
        return bool(self.param_groups[group]["momentum"] != 0)

    def init_state(self) -> None:
        """Make the momentum buffers and master weights of all trainable parameters now, not at their first update.

        For graph capture: what is made inside of a capture would be made again by every replay.
        """
        if self.control is not None:
            self._follow_changed_groups()
        self._ensure_updates()
        self._state_asked_for = True
        for index, group in enumerate(self.param_groups):
            for param in group["params"]:
                if param.requires_grad:
                    self.ensure_state(index, param)

    def state_tensors(self) -> list[Tensor]:
        """All that updates keep from step to step: the state's tensors, and the flags of first updates."""
        kept = [value for state in self.state.values() for value in state.values() if isinstance(value, Tensor)]
        return kept + [flag for flag in self.first_updates.flags.values() if flag is not None]

    def ensure_state(self, group: int, param: Tensor) -> dict[str, Any]:
        """The state of ``param``, with all in it that its update needs."""
        moving, mastered = self._needs(group, param)
        if not (moving or mastered):
            return self.state.get(param, {})
        state = self.state[param]
        if mastered:
            ensure_master(state, param)
        if moving:
            self._ensure_momentum(group, param, state, torch.float32 if mastered else None)
        return state

    def _ensure_momentum(self, group: int, param: Tensor, state: dict[str, Any], dtype: torch.dtype | None) -> None:
        tracked = self.tracks(group) and param.numel() > 0
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
            self.first_updates.add(state["momentum_buffer"], tracked=tracked)
            if len(self.first_updates.flags) > len(self.state):
                self.first_updates.keep(self.state.values())
        elif tracked:
            self.first_updates.track(state["momentum_buffer"])

    def tracks(self, group: int) -> bool:
        """Whether first updates of the buffers in this group are told from the others."""
        return bool(self.param_groups[group]["dampening"] != 0)

    def lacks_state(self, group: int, param: Tensor) -> bool:
        """Whether ``ensure_state`` would have to make something."""
        moving, mastered = self._needs(group, param)
        state = self.state.get(param, {})
        return (moving and state.get("momentum_buffer") is None) or (mastered and state.get("master_param") is None)

    def _needs(self, group: int, param: Tensor) -> tuple[bool, bool]:
        return self.uses_momentum(group), self.keeps_master(param)

    def keeps_master(self, param: Tensor) -> bool:
        """Whether ``param`` has float32 master weights."""
        return self.master_weights and needs_master(param)

    @disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; under a schedule it follows it from the current step on.

        Raises:
            ValueError: a bad option, a parameter that is there twice, or a schedule with curves of its own for each
                group, which has none for this one.
            RuntimeError: its parameters lie on another device.
        """
        given = self._given
        if given is not None and 1 != given.n_groups <= len(self.param_groups):
            raise ValueError(
                f"param_group: the schedule has curves for exactly {given.n_groups} groups; call set_schedule with one "
                "curve for all, or make the optimizer anew"
            )
        _check_options({**self.defaults, **param_group}, momentum_follows=self._expects_schedule)
        own_lr = "lr" in param_group
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        for name in ("master_weights", "backend", *position.KEYS):  # of the defaults, and of a group of another run
            added.pop(name, None)
        try:
            devices_of(self.param_groups)
            if len(set(map(id, added["params"]))) < len(added["params"]):
                raise ValueError("params: a parameter is there twice in one group; give each once")
            if given is not None and given.n_groups in (1, len(self.param_groups)):
                if own_lr and given.n_groups == 1:
                    _warn_overridden([added["lr"]])
                self._follow_groups()
        except (RuntimeError, ValueError):
            del self.param_groups[-1]
            raise
        self._forget_updates()

    def _follow_groups(self) -> None:
        """Have the schedule follow parameter groups that have changed in number, from the current step on."""
        given, control = self._given, self.control
        assert given is not None
        assert control is not None
        own = (position.schedule_of(group) for group in self.param_groups)  # of the groups that it has followed so far
        bound = [
            given.group(index).bound_to([group]).group(0) if known is None else known
            for index, (group, known) in enumerate(zip(self.param_groups, own, strict=True))
        ]
        progress, step = control.progress(), self._written_step()
        self._follow(Schedule.from_groups(bound), progress if step is None else {**progress, "step": step})

    @disable_dynamo
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: reevaluates the model and returns the loss.
            loss: under a schedule, the loss that led to these gradients, one element; it is recorded in
                ``control.losses`` without a synchronisation. Default: what the closure returns.
        Returns:
            What the closure returned, or None.
        Raises:
            RuntimeError: a gradient that cannot be used (sparse, complex, on another device); nothing has changed.
        """
        # torch wraps the hooks and a profiler range around every step; that costs more than a small model's update,
        # so take it only where somebody hooks or profiles.
        if has_step_hooks(self) or is_profiling():
            given: dict[str, Any] = {"closure": closure, "loss": loss}
            return _observed_step(self, **{name: value for name, value in given.items() if value is not None})
        return self._step(closure, loss=loss)

    # Keeps torch.optim.Optimizer from wrapping `step` itself.
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """GradScaler asks: if so, it hands over `grad_scale` and `found_inf` as tensors instead of waiting for them."""
        return self._unscales or self.defaults["fused"] is True

    @contextlib.contextmanager
    def unscaling(self) -> Iterator[None]:
        """A block in which the update unscales gradients and skips on the device, as with ``fused=True``."""
        before, self._unscales = self._unscales, True
        try:
            yield
        finally:
            self._unscales = before

    def has_hooks(self) -> bool:
        """Whether somebody wants to be called before or after a step, of this optimizer or of all."""
        return has_step_hooks(self)

    def _step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        with self._turn:
            self._update(result if loss is None else loss)
        return result

    def _update(self, loss: Tensor | float | None) -> None:
        if not self.param_groups:
            return
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if self.controls:
            if self._only_state_is_wanted():
                self.init_state()
                self.first_updates.flags.clear()  # torch's own optimizer has updated its buffers by this step
                return
            self._require_untouched_groups()
        self._prepare()
        loss = self._recorded(loss)
        for update in self._updates:
            update.update_(self, loss, grad_scale, found_inf)
        if self.controls:
            self._show_next_row()
            self._watch_end()

    def _recorded(self, loss: Tensor | float | None) -> Tensor | float | None:
        """``loss``, or in place of None what ``control.record`` was told since the last step."""
        told = None if self.control is None else self.control.take_recorded()
        return told if loss is None else loss

    def _only_state_is_wanted(self) -> bool:
        """Whether torch.distributed.checkpoint calls, to have a fresh optimizer make its state: it writes 0 as the rate
        of every group and gives zeros as gradients. That must not move the schedule."""
        shown = [lr for lr, *_ in self._mirror]
        rates = [group["lr"] for group in self.param_groups]
        if len(rates) != len(shown) or any(a is b for a, b in zip(rates, shown, strict=True)):
            return False  # nobody has written them, though they may be 0
        if any(isinstance(rate, Tensor) or rate != 0 for rate in rates):
            return False
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        return bool(grads) and not any(bool(grad.any()) for grad in grads)

    def _prepare(self) -> None:
        """Let every update find its gradients; all of them must succeed before anything changes."""
        if not self._updates and capture.is_capturing(devices_of(self.param_groups)):
            raise RuntimeError(
                "optimizer: nothing is prepared for a capture; call optimizer.init_state() before it begins"
            )
        self._ensure_updates()
        if not all(update.prepare(self) for update in self._updates):
            self._forget_updates()
            self._ensure_updates()
            for update in self._updates:
                update.prepare(self)

    def _ensure_updates(self) -> None:
        """Have updates, and controls, on the devices where the parameters are now: the model may have been moved."""
        if self._updates:
            return
        control = self.control
        if self._schedule is not None and control is not None and tuple(self.controls) != devices_of(self.param_groups):
            self._follow(self._schedule, control.progress())
        self._updates = backends.updates_of(self)

    def _forget_updates(self) -> None:
        self._updates = []
        self.generation += 1

    def captured_values(self) -> list[Any]:
        """What a captured step has taken as numbers, so that a replay would ignore a change of it."""
        if self.controls:
            self._require_untouched_groups()
        names = ("dampening", "nesterov", "maximize") + (() if self.controls else QUANTITIES)
        values: list[Any] = [[_value(group[name]) for name in names] for group in self.param_groups]
        return values + [(control.smoothing, control.stop_factor) for control in self.controls.values()]

    def count_replay(self) -> None:
        """Take note that a captured step was replayed: the parameter groups show the next step's values."""
        for control in self.controls.values():
            control.host_step += 1
        if self.controls:
            self._show_next_row()
            self._watch_end()

    def _show_next_row(self) -> None:
        """Write the next step's values into the parameter groups, from the host's own copy of the table."""
        assert self.control is not None
        self._mirror = self.control.host_row()
        for group, (lr, momentum, weight_decay) in zip(self.param_groups, self._mirror, strict=True):
            group["lr"], group["momentum"], group["weight_decay"] = lr, momentum, weight_decay
            group[position.STEP] = self.control.host_step
        self._shown_step = self.control.host_step

    def _watch_end(self) -> None:
        """Warn, once, of an update past the schedule's end, as far as the host knows without waiting for the device."""
        assert self.control is not None
        if self._shown_step > self.control.total_steps and not self._told_of_end:
            self._told_of_end = True
            warn_past_end(self.control.total_steps)

    def _require_untouched_groups(self) -> None:
        """Follow what somebody has done to the groups, or refuse it: a value that is ignored would be silently wrong.

        Raises:
            RuntimeError: a value was written that the schedule decides, or groups were removed that it has curves for.
        """
        control = self.control
        assert control is not None
        self._follow_changed_groups()
        step = self._written_step()
        rows = [self._mirror] if step is None else [self._mirror, control.host_row(step)]
        for index, group in enumerate(self.param_groups):
            for column, name in enumerate(QUANTITIES):
                if all(group[name] != row[index][column] for row in rows):
                    raise RuntimeError(
                        f"param_groups[{index}][{name!r}] was set to {group[name]}, but the schedule decides it "
                        f"({rows[-1][index][column]} at step {self._shown_step if step is None else step}); put the "
                        "change into the schedule, or make the optimizer without one (a torch LR scheduler needs that "
                        "too)"
                    )
        if step is not None:
            self._move_to(step)

    def _written_step(self) -> int | None:
        """The step that somebody has written into the groups; None where they show what was shown there, which need not
        be what the host knows by now: it may have learnt of skipped updates."""
        step = position.written_step(self.param_groups)
        return None if step == self._shown_step else step

    def _move_to(self, step: int) -> None:
        for control in self.controls.values():
            control.resume({"step": step})
        self._show_next_row()

    def _follow_changed_groups(self) -> None:
        """Have the schedule follow groups that somebody has put into the list, taken out of it, or reordered.

        Raises:
            RuntimeError: the schedule has a curve for each of another number of groups.
        """
        given, groups = self._given, self.param_groups
        if given is None or not groups:
            return
        if len(groups) == len(self._followed) and all(map(operator.is_, groups, self._followed)):
            return
        if given.n_groups not in (1, len(groups)):
            raise RuntimeError(
                f"param_groups: there are {len(groups)}, and the schedule has curves for {given.n_groups}; "
                "add the missing groups with add_param_group, or call set_schedule"
            )
        self._follow_groups()

    @disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """As ``torch.optim.SGD.state_dict``; waits for the device.

        With a schedule, each parameter group holds "schedule" and "schedule_step", which suffice for the run to go on;
        the key "clrfast" holds the record of the losses as well. torch.optim.SGD loads it too, and ignores these.
        """
        if self.control is not None and self.param_groups:
            self._follow_changed_groups()
            step = self._written_step()
            self._move_to(self.control.synchronize() if step is None else step)
        # Before hooks of the user's, which may make what they like of it.
        first = self.register_state_dict_post_hook(lambda _, saved: self._complete(saved), prepend=True)
        try:
            saved: dict[str, Any] = super().state_dict()
        finally:
            first.remove()
        return saved

    def _complete(self, saved: dict[str, Any]) -> None:
        saved["state"] = {index: self._exported(state) for index, state in saved["state"].items()}
        if self._schedule is not None and self.control is not None:
            saved["clrfast"] = {"schedule": self._schedule.to_dict(), "progress": self.control.progress()}

    def _exported(self, state: dict[str, Any]) -> dict[str, Any]:
        """One parameter's state as torch.optim.SGD has it: without a buffer before the first applied update. One that
        ``init_state`` has made is there if its zeros say the same, for a distributed checkpoint to load into."""
        buffer = state.get("momentum_buffer")
        needed = self._state_asked_for and self.first_updates.flag(buffer) is None
        awaits = not needed and self.first_updates.awaits(buffer)
        return {name: value for name, value in state.items() if not (awaits and name == "momentum_buffer")}

    @disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict`` of this class or of ``torch.optim.SGD``.

        A saved schedule goes on at its saved step. Where the optimizer was made with another schedule, that one
        stays in force, from the saved step on, and a warning says so; not for a ``schedule.extended_to(...)``. A
        warning, too, where a scheduled optimizer gets momentum without a step.
        """
        loaded = [state_dict]  # the last one is what hooks of the user's have made of it
        if self.control is not None:
            self._follow_changed_groups()  # the loaded ones replace them all
        own_hooks = (
            self.register_load_state_dict_pre_hook(lambda _, state: loaded.append(state)),
            # Before post-hooks of the user's, which see and may change the state as it is in force.
            self.register_load_state_dict_post_hook(lambda _: self._take_over(loaded[-1]), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in own_hooks:
                hook.remove()

    def _take_over(self, state_dict: dict[str, Any]) -> None:
        """What torch does not take from a state that it has just loaded."""
        self._restore_float32(state_dict)
        self._forget_updates()
        self.first_updates.flags.clear()  # what is loaded has been updated
        self._followed = list(self.param_groups)
        run = position.saved_run(state_dict)
        if run is not None:
            self._resume(*run)
        elif self.control is not None:
            if any("momentum_buffer" in state for state in self.state.values()):
                warnings.warn(
                    "load_state_dict: the state has momentum, but no step of a schedule, so the optimizer's schedule "
                    f"stays at step {self.control.synchronize()}; write the step into param_groups[i]"
                    f"[{position.STEP!r}] if it is another",
                    stacklevel=6,
                )
            assert self._schedule is not None
            position.write_schedule(self.param_groups, self._schedule)
        if self.control is not None and self.param_groups:
            self._show_next_row()

    def _resume(self, saved: Schedule, progress: dict[str, Any]) -> None:
        if self._schedule is None:
            self.set_schedule(saved)
        elif not self._schedule.continues(saved):
            warnings.warn(
                "load_state_dict: the saved schedule differs from the optimizer's; the optimizer's own stays in "
                "force, from the saved step on. Make the optimizer without a schedule to take the saved one.",
                stacklevel=7,
            )
        assert self._schedule is not None
        position.write_schedule(self.param_groups, self._schedule)
        for control in self.controls.values():
            control.resume(progress)

    def _restore_float32(self, state_dict: dict[str, Any]) -> None:
        """torch gives a loaded state its parameter's dtype, which would round master weights and their momentum."""
        if not self.master_weights:
            for state in self.state.values():
                state.pop("master_param", None)  # of another optimizer; it would grow stale here
            return
        saved_ids = [saved for group in state_dict["param_groups"] for saved in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for saved, param in zip(saved_ids, params, strict=True):
            for name in ("momentum_buffer", "master_param"):
                value = state_dict["state"].get(saved, {}).get(name)
                if isinstance(value, Tensor) and needs_master(param):
                    self.state[param][name] = value.detach().to(param.device, torch.float32, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _OWN_STATE}
        places = {id(group): place for place, group in enumerate(self.param_groups)}
        return {**super().__getstate__(), **own, "_followed": [places.get(id(group)) for group in self._followed]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        places = state.get("_followed", range(len(state["param_groups"])))  # load_state_dict gives none
        super().__setstate__(state)
        self._updates = []
        self._unscales = False
        # In place of a group that was removed, one that is none of the optimizer's.
        self._followed = [{} if place is None else self.param_groups[place] for place in places]
        self._renew_turn()
        self.generation = vars(self).get("generation", 0)  # load_state_dict comes here as well
        for group in self.param_groups:
            for name in ("nesterov", "maximize"):
                group.setdefault(name, False)


_alive: weakref.WeakSet[SGD] = weakref.WeakSet()


def _renew_turns() -> None:
    """In a forked process, the thread that had its turn does not exist."""
    for optimizer in _alive:
        optimizer._renew_turn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turns)

_observed_step = torch.optim.Optimizer.profile_hook_step(SGD._step)


def _check_options(options: dict[str, Any], *, momentum_follows: bool) -> None:
    """``momentum_follows``: a schedule will decide it."""
    lr = options["lr"]
    if isinstance(lr, Tensor):
        require_one_element(lr)
    for name in ("lr", "momentum", "weight_decay"):
        value = options[name]
        if isinstance(value, str) or value is None or not 0 <= value < math.inf:
            raise ValueError(f"{name}: got {value!r}; give a finite number >= 0")
    if options["nesterov"] and ((options["momentum"] <= 0 and not momentum_follows) or options["dampening"] != 0):
        raise ValueError("nesterov: it needs momentum > 0 and dampening = 0")


def _warn_overridden(rates: list[Any]) -> None:
    warnings.warn(
        f"the schedule replaces the parameter groups' own lr ({', '.join(f'{float(rate):g}' for rate in rates)}) by "
        "one for all; schedule.for_groups(param_groups) keeps their ratios",
        stacklevel=4,
    )


def _value(option: Any) -> Any:
    """An option of a group, for comparison: a tensor is read where it is, so only its identity counts. Not one on the
    CPU, whose number is handed over at every launch."""
    if not isinstance(option, Tensor):
        return option
    return id(option), option.item() if option.device.type == "cpu" else None
