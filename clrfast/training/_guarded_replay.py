"""``GuardedReplay``: replays a captured step, and raises if the model or the scaler has changed since the capture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _native
from .._torch_compat import buffers_of, children_of, parameters_of, scale_tensor
from ._captured_step import CapturedStep
from ._module_fingerprint import Fingerprint


class GuardedReplay:
    """A captured step together with the state that it was captured with.

    ``CapturedStep`` checks the optimizer; this class checks the model and the scaler, and sets the gradients.

    Args:
        captured: the step.
        modules: all modules of the model and the loss, each one once.
        optimizer: the one that the step calls.
        scaler: the one of the step, or None.
    """

    def __init__(
        self,
        captured: CapturedStep,
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
    ):
        self._captured, self._modules, self._optimizer, self._scaler = captured, modules, optimizer, scaler
        self._grads = [param.grad for param in _parameters(optimizer)]
        self._children, self._memory = _children(modules), _memory(modules)
        self._scaling = _scaling(scaler)
        self._fingerprint = Fingerprint(modules)

    def replay(self) -> Any:
        """Repeat the step and return its loss; the host does not wait.

        Raises:
            RuntimeError: the model, the scaler or the optimizer has changed since the capture; the message names the
                change.
        """
        if not self._fingerprint.matches():
            self._require_same_model()
            self._fingerprint = Fingerprint(self._modules)  # the graph does not use what has changed
        if _scaling(self._scaler) != self._scaling:
            raise _changed("scaler: its settings have changed")
        loss = self._captured.replay()
        self._show_gradients()
        return loss

    def _require_same_model(self) -> None:
        """Raise RuntimeError if the graph would use memory that no longer belongs to the model."""
        if _children(self._modules) != self._children:
            raise _changed("model: it has been given other modules")
        memory = _memory(self._modules)
        if len(memory) != len(self._memory):
            raise _changed("model: it has gained or lost parameters or buffers")
        for (_, old), (_, new) in zip(self._memory, memory, strict=True):
            if old != new:
                raise _changed(f"model: its dtype has changed from {old} to {new}")
        if memory != self._memory:
            raise _changed("model: a parameter or buffer was moved, or replaced by another,")

    def _show_gradients(self) -> None:
        """Set every parameter's ``grad`` to the gradient in the graph's memory; eager steps may have replaced it."""
        groups = self._optimizer.param_groups
        if _native.why_missing is None and _native.load().set_gradients_(groups, self._grads):
            return
        for param, grad in zip(_parameters(self._optimizer), self._grads, strict=True):
            if param.grad is not grad:
                param.grad = grad


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _children(modules: Sequence[nn.Module]) -> list[nn.Module | None]:
    return [child for module in modules for child in children_of(module).values()]


def _memory(modules: Sequence[nn.Module]) -> list[tuple[int, torch.dtype]]:
    """Return the address and the dtype of every parameter and buffer."""
    return [
        (tensor.data_ptr(), tensor.dtype)
        for module in modules
        for tensor in (*parameters_of(module).values(), *buffers_of(module).values())
        if tensor is not None
    ]


def _scaling(scaler: torch.amp.GradScaler | None) -> tuple[Any, ...]:
    """Return the numbers that a graph keeps of the scaler, and the address of its scale."""
    if scaler is None or not scaler.is_enabled():
        return ()
    scale = scale_tensor(scaler)
    factors = scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()
    return (*factors, None if scale is None else scale.data_ptr())


def _changed(what: str) -> RuntimeError:
    return RuntimeError(f"{what} since this step was captured; call reset() to capture it as it is now")
