"""The part of an optimizer that depends on its update rule: its options, and the state of its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._counters import Counters
from ._parameters import ensure_master, needs_master
from ._rules import Rule


class RuleOptimizer(torch.optim.Optimizer):
    """Base class of ``FusedOptimizer``: the state of the parameters.

    Attributes:
        rule: the update rule.
        counters: the counters of updates that the rule needs.
        master_weights: whether 16-bit parameters have float32 copies.
    """

    rule: Rule
    counters: Counters
    master_weights: bool
    _step_counts: dict[torch.device, Tensor]

    def _check_options(self, options: dict[str, Any]) -> None:
        """Raise ValueError unless the update rule can use the options of a group."""
        raise NotImplementedError

    def require_schedule_fits(self, table: NDArray[np.float32]) -> None:
        """Raise ValueError unless the update rule can use the table of a schedule; ``StepControl`` has its shape."""

    def states_of(self, group: int) -> tuple[str, ...]:
        """Return the names of the states that parameters of this group need, now or later in the schedule."""
        return self.rule.states

    def counts_updates(self, group: int) -> bool:
        """Return whether parameters of this group need a counter of their updates."""
        return False

    def exported_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return one parameter's state as torch's optimizer of this name has it."""
        return state

    def _ensure_counter(self, group: int, param: Tensor, state: dict[str, Any], *, is_new: bool) -> None:
        """Make the counter of ``param`` if it needs one; ``is_new`` says that its state was just made."""

    def ensure_state(self, group: int, param: Tensor) -> dict[str, Any]:
        """Return the state of ``param``, with all entries that its update needs."""
        names, master = self.states_of(group), self.keeps_master(param)
        if not (names or master):
            return self.state.get(param, {})
        state: dict[str, Any] = self.state[param]
        if master:
            ensure_master(state, param)
        is_new = False
        for name in names:
            if state.get(name) is None:
                dtype = torch.float32 if master else None
                state[name] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
                is_new = True
        if names:
            self._ensure_counter(group, param, state, is_new=is_new)
        return state

    def lacks_state(self, group: int, param: Tensor) -> bool:
        """Return whether ``ensure_state`` would add an entry."""
        state = self.state.get(param, {})
        lacks_one = any(state.get(name) is None for name in self.states_of(group))
        return lacks_one or (self.keeps_master(param) and state.get("master_param") is None)

    def keeps_master(self, param: Tensor) -> bool:
        """Return whether ``param`` has float32 master weights."""
        return self.master_weights and needs_master(param)

    def step_count_on(self, device: torch.device) -> Tensor:
        """Return the number of the current step on ``device``, int64 [], for backend "cuda".

        It is never reset, because counters refer to it.
        """
        if device not in self._step_counts:
            self._step_counts[device] = torch.ones((), dtype=torch.int64, device=device)
        return self._step_counts[device]

    def state_tensors(self) -> list[Tensor]:
        """Return all tensors that updates keep between steps: those of the state, and the counters."""
        kept = [value for state in self.state.values() for value in state.values() if isinstance(value, Tensor)]
        return kept + [counter for counter in self.counters.by_tensor.values() if counter is not None]
