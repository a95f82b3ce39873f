"""Counters of the applied updates of each parameter, for rules whose update depends on their number.

A counter is float32, and the first of its two elements is the count. The second belongs to the kernels
(``UpdateCounter`` in csrc/rules/rule.h), so only memory that was made here may be passed to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

State = dict[str, Any]


class Counters(Protocol):
    """The counters of an optimizer.

    Attributes:
        by_tensor: what is known of each tensor of the state that identifies a counter.
    """

    by_tensor: dict[Tensor, Tensor | None]

    def counter_of(self, state: State) -> Tensor | None:
        """Return the counter of the parameter with ``state``, whose first element is the count; None for none."""

    def take_over(self, state: State, device: torch.device) -> None:
        """Make the counter in a loaded ``state`` the parameter's own: torch loads the tensor that was saved."""


class NoCounters:
    """For rules whose update does not depend on the number of updates before it."""

    def __init__(self) -> None:
        self.by_tensor: dict[Tensor, Tensor | None] = {}

    def counter_of(self, state: State) -> Tensor | None:
        """Return None."""

    def take_over(self, state: State, device: torch.device) -> None:
        """Do nothing."""


class MomentumCounters:
    """The counters of SGD, kept by momentum buffer: with dampening, the first update of a buffer is special.

    torch makes a buffer at its first update. clrfast may make it earlier, because a captured step needs it in advance
    and the device may skip the update. Such a buffer starts with zeros, which gives the right first update without
    dampening. With dampening it has a counter. A buffer that is not known here was loaded or assigned, and counts as
    updated.

    Attributes:
        by_tensor: the counter of each buffer, float32 ``[2]`` on its device; None where there was no dampening.
    """

    def __init__(self) -> None:
        self.by_tensor: dict[Tensor, Tensor | None] = {}

    def add(self, buffer: Tensor, *, tracked: bool) -> None:
        """Register a new buffer of zeros; it gets a counter if ``tracked``."""
        self.by_tensor[buffer] = _new_counter(buffer.device) if tracked else None

    def track(self, buffer: Tensor) -> None:
        """Give ``buffer`` a counter on its device if it has none.

        A buffer that is unknown or not zero counts as updated once.
        """
        counter = self.by_tensor.get(buffer)
        if counter is None:
            updated = buffer.any() if buffer in self.by_tensor else 1.0
            self.by_tensor[buffer] = _new_counter(buffer.device, updated)
        elif counter.device != buffer.device:
            self.by_tensor[buffer] = _new_counter(buffer.device, counter[0])

    def counter_of(self, state: State) -> Tensor | None:
        """Return the counter of the buffer in ``state``; None if the buffer needs none."""
        buffer = state.get("momentum_buffer")
        return None if buffer is None else self.by_tensor.get(buffer)

    def is_fresh(self, buffer: Tensor | None) -> bool:
        """Return whether ``buffer`` was made here and no update of it was applied. Waits for the device."""
        if buffer is None or buffer not in self.by_tensor or not buffer.numel():
            return False
        counter = self.by_tensor[buffer]
        return not bool(buffer.any() if counter is None else counter[0])

    def take_over(self, state: State, device: torch.device) -> None:
        """Do nothing: the counters are not in the state."""

    def keep_only(self, states: Iterable[State]) -> None:
        """Forget the buffers that are in none of ``states``."""
        used = {id(state.get("momentum_buffer")) for state in states}
        self.by_tensor = {buffer: counter for buffer, counter in self.by_tensor.items() if id(buffer) in used}


class StepCounters:
    """The counters of Adam and AdamW: state "step", float32 ``[]`` as torch has it, in memory of two elements.

    Attributes:
        by_tensor: the memory of each step that was made here, float32 ``[2]``.
    """

    def __init__(self) -> None:
        self.by_tensor: dict[Tensor, Tensor | None] = {}

    def lacks(self, state: State, device: torch.device) -> bool:
        """Return whether ``state`` has no step on ``device``, or one that was not made here or has moved in memory."""
        step = state.get("step")
        if not isinstance(step, Tensor):
            return True
        memory = self.by_tensor.get(step)
        return memory is None or memory.device != device or memory.data_ptr() != step.data_ptr()

    def ensure(self, state: State, device: torch.device) -> None:
        """Replace the step of ``state`` by an equal one that was made here, on ``device``, unless it already is one."""
        if self.lacks(state, device):
            self.by_tensor.pop(state.get("step"), None)  # type: ignore[arg-type]
            memory = _new_counter(device, state.get("step", 0.0))
            state["step"] = memory[0]
            self.by_tensor[state["step"]] = memory

    def take_over(self, state: State, device: torch.device) -> None:
        """Copy the step of a loaded ``state``, so that no other optimizer or parameter counts its updates in it."""
        if is_step(state.get("step")):
            self.by_tensor.pop(state["step"], None)
            self.ensure(state, device)

    def keep_only(self, states: Iterable[State]) -> None:
        """Forget the steps that are in none of ``states``."""
        used = {id(state.get("step")) for state in states}
        self.by_tensor = {step: memory for step, memory in self.by_tensor.items() if id(step) in used}

    def counter_of(self, state: State) -> Tensor | None:
        """Return the step in ``state``."""
        return state.get("step")


def is_step(value: Any) -> bool:
    """Return whether ``value`` can be a number of updates: a number, as older versions of torch save it, or a tensor of
    one element."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, int | float)


def _new_counter(device: torch.device, count: Tensor | float = 0.0) -> Tensor:
    counter = torch.zeros(2, device=device, dtype=torch.float32)
    counter[0] = count.detach().reshape(()) if isinstance(count, Tensor) else count
    return counter
