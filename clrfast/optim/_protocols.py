"""Protocols of optimizer, control and backend, through which they use each other without importing each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ._counters import Counters
from ._rules import Rule


class Control(Protocol):
    """The part of a ``StepControl`` that backends use; the attributes are described there."""

    total_steps: int
    smoothing: float
    stop_factor: float | None
    device: torch.device
    table: Tensor
    step: Tensor
    losses: Tensor
    grad_norms: Tensor
    average: Tensor
    stop: Tensor
    row: Tensor
    blocks_done: Tensor
    step_count: Tensor | None

    def advance(self, loss: Tensor | float | None = None, found_inf: Tensor | None = None) -> None: ...

    def as_tensor(self, loss: Tensor | float | None) -> Tensor | None: ...

    def addresses(self) -> tuple[int, ...]: ...

    def tensors(self) -> tuple[Tensor, ...]: ...

    def count_step(self) -> None: ...


@dataclass(frozen=True)
class GradScale:
    """What an update does with the gradients; each is a tensor of one element, or None.

    Attributes:
        grad_scale: divides every gradient.
        clip_factor: multiplies every gradient, float64.
        found_inf: any value but 0 skips the update. With a schedule, the control decides.
    """

    grad_scale: Tensor | None = None
    clip_factor: Tensor | None = None
    found_inf: Tensor | None = None


class OptimizerView(Protocol):
    """The part of an optimizer that backends use; the methods are described in ``FusedOptimizer``."""

    rule: Rule
    param_groups: list[dict[str, Any]]
    master_weights: bool

    @property
    def counters(self) -> Counters: ...

    @property
    def state(self) -> Any: ...

    @property
    def controls(self) -> Mapping[torch.device, Control]: ...

    @property
    def control(self) -> Control | None: ...

    def states_of(self, group: int) -> tuple[str, ...]: ...

    def counts_updates(self, group: int) -> bool: ...

    def keeps_master(self, param: Tensor) -> bool: ...

    def lacks_state(self, group: int, param: Tensor) -> bool: ...

    def ensure_state(self, group: int, param: Tensor) -> dict[str, Any]: ...

    def state_tensors(self) -> list[Tensor]: ...

    def step_count_on(self, device: torch.device) -> Tensor: ...


class Update(Protocol):
    """The update of an optimizer's parameters, or of those on one device."""

    def prepare(self, optimizer: OptimizerView) -> bool:
        """Find this step's gradients. Return False if the parameters have moved to other devices.

        Raises:
            RuntimeError: a gradient or a state cannot be used; nothing has changed then.
        """

    def clip(self, optimizer: OptimizerView, max_norm: float, scale: GradScale) -> tuple[Tensor, Tensor, Tensor] | None:
        """Measure the norm of the gradients that ``prepare`` has found, and record it in the control.

        Returns:
            The norm, the factor that clips it, and ``found_inf``, each of one element; None if the update cannot
            measure all gradients.
        """

    def update_(self, optimizer: OptimizerView, loss: Tensor | float | None, scale: GradScale) -> None:
        """Advance the schedule, if there is one, and apply the update to what ``prepare`` has found.

        Args:
            loss: what the schedule's control records; None records nothing.
            scale: what happens to the gradients.
        """


class Backend(Protocol):
    """One implementation of control and update; the modules in ``_backends`` are backends."""

    def why_not(self, device: torch.device) -> str | None:
        """Return why it cannot update parameters on ``device``, and the remedy; None if it can."""

    def advance_(self, control: Control, loss: Tensor | None, found_inf: Tensor | None) -> None:
        """Take one step of the control; ``StepControl.advance`` says which."""

    def updates_of(self, optimizer: OptimizerView) -> Sequence[Update]:
        """Return one ``Update`` for all parameters of ``optimizer``, or one per device."""
