"""``CapturedStep``: a training step that the user writes, as one CUDA graph whose replays advance the schedule."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..optim import FusedOptimizer
from ..optim._parameters import devices_of
from ._cuda_graph import Graph, capture_stream, run_on_stream
from ._module_fingerprint import Fingerprint


class CapturedStep:
    """One training step, captured at construction and repeated by ``replay`` in a single launch.

    ``TrainStep`` captures ordinary steps automatically; this class is for steps that you write yourself.

    The schedule is on the device and advances in each replay. Without a schedule, the graph keeps the present values of
    lr, momentum and weight decay; only an lr that is a tensor on the device is read at every replay. Parameters and
    batch must keep their memory: capture again after moving the model.

    Args:
        step: function that does zero_grad, forward, backward and ``optimizer.step(loss=loss)`` on tensors whose memory
            stays in place. Copy each batch into them before ``replay``.
        optimizer: the optimizer that ``step`` calls, on CUDA devices. Its gradients are set to None, and missing state
            is created.
        warm_up: function that does forward and backward once, without the update. It runs before the capture, because
            libraries allocate workspaces at their first use, which a capture forbids. It changes buffers such as the
            running statistics of batch normalisation. None: the caller has warmed up, on another stream.
        stream: stream of the capture; None for the one that all captures of this thread share.
        pool: see ``Graph``.

    Attributes:
        result: what ``step`` returned, detached. Every replay overwrites its tensors.

    Raises:
        RuntimeError: the step cannot be captured, for example because a trainable parameter gets no gradient. The
            current stream and the random states are then as before.
    """

    def __init__(
        self,
        step: Callable[[], Any],
        optimizer: FusedOptimizer,
        *,
        warm_up: Callable[[], object] | None = None,
        stream: torch.cuda.Stream | None = None,
        pool: Any = None,
    ):
        if stream is None:
            stream = capture_stream(devices_of(optimizer.param_groups)[0])
        if warm_up is not None:
            run_on_stream(warm_up, stream)
        optimizer.zero_grad(set_to_none=True)  # existing gradients would lie outside of the graph's memory
        optimizer.init_state()
        self._optimizer = weakref.ref(optimizer)
        # The graph reads and writes this memory even if the optimizer gets other tensors later.
        self._alive = [*optimizer.state_tensors(), *_tensors_in(optimizer.param_groups)]
        self._captured, self._state_memory = _captured_values(optimizer), _memory_of_state(optimizer)
        self._take_fingerprint(optimizer)
        grad_norm = optimizer.grad_norm
        try:
            self._graph = Graph(step, stream, pool)
        except BaseException:
            optimizer.grad_norm = grad_norm  # that of the capture lies in memory of the discarded graph
            raise
        self._grad_norm = optimizer.grad_norm  # in the graph's memory, if the step clips
        self.result = self._graph.result

    def replay(self) -> Any:
        """Repeat the step and return ``result``; the host does not wait.

        Raises:
            RuntimeError: the optimizer no longer exists, or since the capture it has loaded a state or was given
                another schedule, parameter group or option. A replay would update unused memory or use outdated values.
        """
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError(
                "the optimizer of this captured step is gone; keep it for as long as the step is replayed"
            )
        change = self._find_change(optimizer)
        if change is not None:
            raise RuntimeError(
                f"optimizer: it {change} since this step was captured; capture it again (TrainStep: call reset())"
            )
        self._graph.replay()
        optimizer.count_replay()
        optimizer.grad_norm = self._grad_norm
        return self.result

    def _find_change(self, optimizer: FusedOptimizer) -> str | None:
        """Return what has changed in the optimizer since the capture, as the end of a sentence; None for nothing."""
        values = _captured_values(optimizer)
        if values != self._captured:
            return next(change for change, value in values.items() if value != self._captured[change])
        same = optimizer.state is self._state and optimizer.counters.by_tensor is self._counters
        if not same or not self._fingerprint.matches():
            if _memory_of_state(optimizer) != self._state_memory:
                return "has been given other tensors as its state"
            self._take_fingerprint(optimizer)
        return None

    def _take_fingerprint(self, optimizer: FusedOptimizer) -> None:
        self._state, self._counters = optimizer.state, optimizer.counters.by_tensor
        self._fingerprint = Fingerprint(dicts=[self._state, *self._state.values(), self._counters])


def _captured_values(optimizer: FusedOptimizer) -> dict[str, Any]:
    """Return the optimizer's values that a graph keeps, keyed by the message for a change, most specific first."""
    options = (
        "has been given another option in a parameter group (put rates that change into a schedule) or divergence watch"
    )
    return {
        "has gained or lost a parameter group": len(optimizer.param_groups),
        "has been given another schedule": optimizer.control,
        "has been given another clip_norm": optimizer.clip_norm,
        options: optimizer.captured_values(),
        "has loaded a state, or its parameters were moved,": optimizer.generation,
    }


def _memory_of_state(optimizer: FusedOptimizer) -> list[tuple[int, int]]:
    return [(id(tensor), tensor.data_ptr()) for tensor in optimizer.state_tensors()]


def _tensors_in(dicts: Iterable[dict[str, Any]]) -> list[Tensor]:
    return [value for values in dicts for value in values.values() if isinstance(value, Tensor)]
