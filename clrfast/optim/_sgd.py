"""SGD with the numbers of torch.optim.SGD, and with hyper-parameters in a table on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..schedules import Schedule
from . import _rules as rules
from ._counters import MomentumCounters
from ._fused_optimizer import FusedOptimizer
from ._options import require_non_negative


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
        schedule: a ``clrfast.Schedule`` with ``total_steps``. Its values replace lr, and momentum and weight decay
            where it has a curve for them. A warning names a ``weight_decay`` that differs from its curve.
        master_weights: keep float32 copies of float16 and bfloat16 parameters (state "master_param", 4 bytes per
            value) and update these, with float32 momentum. The parameters become their rounded values, so updates
            smaller than a 16-bit dtype can resolve still add up. External writes to a parameter override its master
            weights. On CUDA devices the update is one pass over memory; on the CPU it is pure torch.
        clip_norm: maximum norm of all gradients together, after unscaling, > 0. The numbers are those of
            ``torch.nn.utils.clip_grad_norm_`` before the step, without blocking the host; the gradients themselves are
            unchanged. A step whose norm is not finite is skipped. ``grad_norm`` has the last norm, and under a schedule
            ``control.grad_norms`` those of all steps. None: no clipping. Under ``ZeroRedundancyOptimizer`` an optimizer
            has only the parameters of its rank; clip with torch's function there.
        backend: "torch" (pure torch, any device), "cpp" (native, CPU), "cuda" (native, CUDA devices) or "auto" (the
            fastest that works here).
    Raises:
        ValueError: an argument is out of range, or the schedule does not fit the parameter groups.
        RuntimeError: the backend does not work here, or the parameters are on devices of several types.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """

    rule = rules.SGD
    counters: MomentumCounters

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
        clip_norm: float | None = None,
        backend: str = "auto",
    ):
        options = {
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
        super().__init__(
            params,
            options,
            MomentumCounters(),
            differentiable=differentiable,
            schedule=schedule,
            master_weights=master_weights,
            clip_norm=clip_norm,
            backend=backend,
        )

    def states_of(self, group: int) -> tuple[str, ...]:
        """Return the names of the states that parameters of this group need, now or later in the schedule."""
        if self.follower is not None:
            uses_momentum = self.follower.control.uses_momentum[group]
        else:
            uses_momentum = bool(self.param_groups[group]["momentum"] != 0)
        return self.rule.states if uses_momentum else ()

    def counts_updates(self, group: int) -> bool:
        """Return whether the first update of a buffer in this group differs from later ones: under dampening."""
        return bool(self.param_groups[group]["dampening"] != 0)

    def exported_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return one parameter's state as torch.optim.SGD has it: without a buffer before the first applied update.

        A buffer that ``init_state`` has made is kept if starting from its zeros gives the same first update, so that a
        distributed checkpoint has a tensor to load into.
        """
        buffer = state.get("momentum_buffer")
        needed = self.state_requested and self.counters.counter_of(state) is None
        left_out = not needed and self.counters.is_fresh(buffer)
        return {name: value for name, value in state.items() if not (left_out and name == "momentum_buffer")}

    def require_schedule_fits(self, table: NDArray[np.float32]) -> None:
        """Raise ValueError if a group has Nesterov momentum and a schedule without momentum."""
        for index, group in enumerate(self.param_groups):
            if group["nesterov"] and not table[:, index, 1].any():
                raise ValueError("nesterov: it needs momentum > 0; the schedule has none for this group")

    def _ensure_counter(self, group: int, param: Tensor, state: dict[str, Any], *, is_new: bool) -> None:
        tracked = self.counts_updates(group) and param.numel() > 0
        if is_new:
            self.counters.add(state["momentum_buffer"], tracked=tracked)
            if len(self.counters.by_tensor) > len(self.state):
                self.counters.keep_only(self.state.values())
        elif tracked:
            self.counters.track(state["momentum_buffer"])

    def _check_options(self, options: dict[str, Any]) -> None:
        require_non_negative(options, "lr", "momentum", "weight_decay")
        has_momentum = options["momentum"] > 0 or self._expects_schedule
        if options["nesterov"] and (not has_momentum or options["dampening"] != 0):
            raise ValueError("nesterov: it needs momentum > 0 and dampening = 0")
