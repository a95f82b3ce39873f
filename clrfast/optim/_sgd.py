"""SGD with momentum: torch.optim.SGD's numbers, and hyper-parameters that live on the device as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..schedules import Schedule
from . import _backends as backends
from ._fused_optimizer import FusedOptimizer
from ._options import check_options
from ._parameters import ensure_master


class SGD(FusedOptimizer):
    """Stochastic gradient descent with momentum, weight decay and an optional schedule on the device.

        g = -grad if maximize else grad
        g = g + weight_decay * p
        b = momentum * b + (1 - dampening) * g          (the first update of a parameter: b = g)
        d = g + momentum * b if nesterov else b
        p = p - lr * d

    Without ``schedule`` it is a drop-in for ``torch.optim.SGD``: same numbers, same ``state_dict``; any torch LR
    scheduler and ``GradScaler`` work on it. With ``schedule`` there is no ``scheduler.step()``. Every ``step()`` uses
    one row of the schedule's table. ``param_groups[i]["lr"]`` (and momentum, weight_decay) shows what the next step
    will use, and "schedule_step" the number of applied updates. Past the schedule's end, updates use its last row, and
    a warning says so once. A step that ``GradScaler`` skips does not move the schedule.

    Args:
        params: tensors, named tensors or dicts of parameter groups; float32, float64, float16 or bfloat16, on one
            device or on several CUDA devices.
        lr: a number >= 0 or a one-element tensor.
        momentum, dampening, weight_decay, nesterov, maximize: as in ``torch.optim.SGD``.
        fused: what unscales gradients under a ``GradScaler``, as with ``torch.optim.SGD``. None or False: the scaler.
            It waits for the device and does not call ``step`` for a skipped update; wrappers (Accelerate, Lightning)
            rely on that. True: the update, on the device, so that the host never blocks. ``TrainStep`` and
            ``range_test`` always behave as with True. Nothing else depends on it.
        foreach, differentiable, capturable: accepted for compatibility with ``torch.optim``; the numbers do not
            depend on them. ``differentiable=True`` is refused.
        schedule: a ``clrfast.Schedule`` with ``total_steps``; it replaces lr, and momentum and weight decay where it
            has a curve for them.
        master_weights: keep float32 copies of float16 and bfloat16 parameters (state "master_param", 4 bytes per
            value) and update these, with float32 momentum. The parameters become their rounded values, so updates
            smaller than a 16-bit dtype can resolve still add up. External writes to a parameter override its master
            weights. On CUDA devices the update is one pass over memory; on the CPU it is pure torch.
        backend: "torch" (pure torch, any device), "cpp" (native, CPU), "cuda" (native, CUDA devices) or "auto" (the
            fastest that works here).
    Raises:
        ValueError: an argument is out of range, or the schedule does not fit the parameter groups.
        RuntimeError: the backend does not work here, or the parameters are on devices of several types.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """

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
        self.master_weights = bool(master_weights)
        self._requested_backend = backend
        self._expects_schedule = schedule is not None
        self._begin()
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
        # With the arguments that groups do not have, so that type(optimizer)(params, **optimizer.defaults) is equal.
        self.defaults.update(schedule=None, master_weights=self.master_weights, backend=backend)
        self.backend  # noqa: B018 - raises where it does not work
        if schedule is not None:
            self.set_schedule(schedule)

    def ensure_state(self, group: int, param: Tensor) -> dict[str, Any]:
        """Return the state of ``param``, with all entries that its update needs."""
        momentum, master = self.uses_momentum(group), self.keeps_master(param)
        if not (momentum or master):
            return self.state.get(param, {})
        state = self.state[param]
        if master:
            ensure_master(state, param)
        if momentum:
            self._ensure_buffer(group, param, state, torch.float32 if master else None)
        return state

    def _ensure_buffer(self, group: int, param: Tensor, state: dict[str, Any], dtype: torch.dtype | None) -> None:
        tracked = self.tracks_first_update(group) and param.numel() > 0
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
            self.momentum_flags.add(state["momentum_buffer"], tracked=tracked)
            if len(self.momentum_flags.by_buffer) > len(self.state):
                self.momentum_flags.keep_only(self.state.values())
        elif tracked:
            self.momentum_flags.track(state["momentum_buffer"])

    def uses_momentum(self, group: int) -> bool:
        """Return whether parameters of this group need a momentum buffer, now or later in the schedule."""
        if self.follower is not None:
            return self.follower.control.uses_momentum[group]
        return bool(self.param_groups[group]["momentum"] != 0)

    def tracks_first_update(self, group: int) -> bool:
        """Return whether the first update of a buffer in this group differs from later ones: under dampening."""
        return bool(self.param_groups[group]["dampening"] != 0)

    def lacks_state(self, group: int, param: Tensor) -> bool:
        """Return whether ``ensure_state`` would add an entry."""
        state = self.state.get(param, {})
        lacks_buffer = self.uses_momentum(group) and state.get("momentum_buffer") is None
        return lacks_buffer or (self.keeps_master(param) and state.get("master_param") is None)

    def _check_options(self, options: dict[str, Any]) -> None:
        check_options(options, schedule_sets_momentum=self._expects_schedule)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # an old torch.optim.SGD saved groups without these
            for name in ("nesterov", "maximize"):
                group.setdefault(name, False)
