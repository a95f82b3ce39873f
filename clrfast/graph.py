"""A whole training step as one CUDA graph, with lr, momentum and weight decay alive in the replay."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .optim import SGD
from .optim.parameters import devices_of


class CapturedStep:
    """One training step, captured now and repeated by ``replay`` in a single launch.

    Args:
        step: does zero_grad, forward, backward and ``optimizer.step(loss=loss)`` on tensors that stay where they are
            (copy each batch into them before ``replay``).
        optimizer: what ``step`` calls; on CUDA devices. Gradients of before are dropped, missing state is made.
        warm_up: does forward and backward once, without the update; it is run before the capture, because libraries
            make their workspaces at their first use, which a capture forbids. Buffers that a forward pass changes,
            such as the statistics of batch normalisation, see it. None: the caller has done so, on another stream.

    Attributes:
        result: what ``step`` returned, detached; its tensors are written anew by every replay.

    The schedule moves on in the replay, because it lies on the device; without one, lr, momentum and weight decay are
    captured as the numbers that they are now (a rate that is a tensor is read at every replay). Parameters and
    batch must stay where they are: a model that was moved has to be captured again.

    Raises:
        RuntimeError: the step cannot be captured, for example because a trainable parameter gets no gradient in it.
    """

    def __init__(self, step: Callable[[], Any], optimizer: SGD, *, warm_up: Callable[[], object] | None = None):
        device = devices_of(optimizer.param_groups)[0]
        if warm_up is not None:
            _run_aside(warm_up, device)
        optimizer.zero_grad(set_to_none=True)  # gradients of before would lie outside of the graph's own memory
        optimizer.init_state()
        self._optimizer = weakref.ref(optimizer)
        self._captured = optimizer.generation, optimizer.captured_values()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: other threads, such as NCCL's watchdog, may go on using CUDA meanwhile.
        capturing = torch.cuda.graph(self._graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local")
        with torch.cuda.device(device), capturing:
            # Detached, for autograd's graph would tie later eager steps to the stream of the capture.
            self.result = tree_map_only(Tensor, Tensor.detach, step())

    def replay(self) -> Any:
        """Do the step once more; returns ``result`` without waiting for the device.

        Raises:
            RuntimeError: the optimizer is gone, or has loaded a state, or got another schedule, parameter group or
                option since the capture: a replay would update what nobody reads, or by what does not hold any more.
        """
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError(
                "the optimizer of this captured step is gone; keep it for as long as the step is replayed"
            )
        if (optimizer.generation, optimizer.captured_values()) != self._captured:
            raise RuntimeError(
                "the optimizer has loaded a state, or got another schedule, parameter group or option, since this step "
                "was captured; capture it again"
            )
        self._graph.replay()
        optimizer.count_replay()
        return self.result


def _run_aside(function: Callable[[], object], device: torch.device) -> None:
    """Run ``function`` on a stream of its own, as work before a capture has to be."""
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        function()
    current.wait_stream(stream)
